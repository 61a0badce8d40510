"""Errors as RFC 9457 describes them: one shape, a true status, what to do, and nothing of what was sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from litestar.exceptions import HTTPException

from guard import errors
from guard.errors import LifeguardError
from guard.problems import MEDIA_TYPE, from_lifeguard
from tests.api.conftest import Running

CANARY = "canary-51b2"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _tree(error: type[LifeguardError]) -> Iterator[type[LifeguardError]]:
    yield error
    for child in error.__subclasses__():
        yield from _tree(child)


@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [
        ("GET", f"/{CANARY}", 404, "Not found"),
        ("POST", f"/classify/{CANARY}", 404, "Not found"),
        ("GET", f"/healthz?{CANARY}={CANARY}", 200, None),
        ("GET", "/classify", 405, "Method not allowed"),
        ("DELETE", "/review/labels", 405, "Method not allowed"),
        (CANARY, "/classify", 405, "Method not allowed"),
        ("GET", f"/static/{CANARY}.js", 404, "Not found"),
        ("GET", "/static/../app.py", 404, "Not found"),
        ("GET", "/static/%2e%2e/app.py", 404, "Not found"),
        ("GET", "/static/..%2fapp.py", 404, "Not found"),
        ("GET", "/static//etc/passwd", 404, "Not found"),
        ("GET", f"/%ff%00{CANARY}", 404, "Not found"),
        ("GET", "/" + "a/" * 5000, 404, "Not found"),
        ("POST", "/classify", 400, "Bad request"),
    ],
)
async def test_shape(resident: Running, method: str, path: str, status: int, title: str | None) -> None:
    """Each refusal is a problem with a status, a title and a detail, and repeats neither path nor method."""
    answer = await resident.client.request(method, path, headers={"x-canary": CANARY})
    assert answer.status_code == status
    assert CANARY not in answer.text + str(answer.headers)
    if title is not None:
        problem = answer.json()
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert list(problem) == ["type", "title", "status", "detail"]
        assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", title, status)
        assert problem["detail"].endswith(".")


async def test_body_that_does_not_come(resident: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come in time is a 408."""
    monkeypatch.setattr("guard.body.BODY_S", 0.01)

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"text": '
        await asyncio.Event().wait()

    answer = await resident.client.post("/classify", content=trickle())
    assert (answer.status_code, answer.json()["title"]) == (408, "Request timeout")


async def test_client_that_has_gone(resident: Running) -> None:
    """A client that goes away in the middle of its body is at fault itself: nothing went wrong here."""
    received = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/classify", "raw_path": b"/classify", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")], "state": {}, "scheme": "http", "root_path": "",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await resident.app(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert b"before the body was whole" in sent[1]["body"]


@pytest.mark.parametrize(
    "error", [e for e in _tree(LifeguardError) if e is not errors.NotJudged], ids=lambda e: e.__name__
)
async def test_each_error_of_ours(error: type[LifeguardError]) -> None:
    """Each of our errors is answered with its own status and title; those that pass say when to try again."""
    answer = from_lifeguard(None, error("What to do."))  # type: ignore[arg-type]
    assert (answer.status_code, answer.content.status, answer.content.title) == (
        error.status,
        error.status,
        error.title,
    )
    assert ("Retry-After" in answer.headers) == issubclass(error, errors.Unavailable)
    assert ("WWW-Authenticate" in answer.headers) == (error is errors.NotAuthenticated)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(CANARY), HTTPException(CANARY), KeyError(CANARY), RecursionError(CANARY)]
)
async def test_unforeseen(
    resident: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """What nobody foresaw is a 500 without a verdict and without the exception's words; the log tells type and place."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(resident.engine, "classify", fail)
    answer = await resident.classify(text=CANARY)
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal error")
    assert "no verdict" in answer.json()["detail"]
    out, err = capsys.readouterr()
    assert CANARY not in answer.text + out + err
    assert type(error).__name__ in out + err
    assert " fail" in out + err
