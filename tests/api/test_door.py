"""A guard that is behind refuses before the application, in the words that the application would use."""

from typing import Any

import pytest

from guard.errors import NoRoom
from tests.api.conftest import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

_BODIES = {
    "/classify": {"text": "hello"},
    "/v1/moderations": {"input": "hello"},
    "/v1/classify": {"input": "hello"},
    "/beta/litellm_basic_guardrail_api": {"texts": ["hello"], "input_type": "request"},
}


@pytest.fixture
def behind(resident: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Return the application with an engine that has no room, and that nobody may ask."""

    def check(tokens: int, *, timeout_s: float) -> None:
        raise NoRoom(f"4000 tokens wait already, {tokens} more in {timeout_s} s are too many.", retry_after_s=7)

    async def classify(*_: Any, **__: Any) -> None:
        pytest.fail("a refused request has come to the engine")

    monkeypatch.setattr(resident.engine, "check", check)
    monkeypatch.setattr(resident.engine, "classify", classify)
    return resident


@pytest.mark.parametrize("path", _BODIES)
async def test_refused(behind: Running, path: str) -> None:
    """Every route that judges refuses with 503, when to come again, and its own shape of an error; it is counted."""
    counted = behind.metric("guard_requests_total", method="POST", route=path, status="503")
    response = await behind.client.post(path, json=_BODIES[path])
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-request-id"]
    if path.startswith("/v1/"):
        assert response.headers["content-type"] == "application/json"
        assert response.json()["error"]["code"] == "overloaded"
        assert "4000 tokens" in response.json()["error"]["message"]
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["title"] == "Overloaded"
        assert "4000 tokens" in response.json()["detail"]
    assert behind.metric("guard_requests_total", method="POST", route=path, status="503") == counted + 1


async def test_same_words(resident: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal at the door and one inside have the same body."""

    async def classify(*_: Any, **__: Any) -> None:
        raise NoRoom("no room", retry_after_s=7)

    def check(*_: Any, **__: Any) -> None:
        raise NoRoom("no room", retry_after_s=7)

    monkeypatch.setattr(resident.engine, "classify", classify)
    inside = {path: await resident.client.post(path, json=body) for path, body in _BODIES.items()}
    monkeypatch.setattr(resident.engine, "check", check)
    for path, body in _BODIES.items():
        outside = await resident.client.post(path, json=body)
        assert outside.content == inside[path].content
        assert outside.headers["retry-after"] == inside[path].headers["retry-after"]
        assert outside.headers["content-type"] == inside[path].headers["content-type"]


async def test_others_pass(behind: Running) -> None:
    """What needs no run is answered as ever."""
    assert (await behind.client.get("/healthz")).status_code == 200
    assert (await behind.client.get("/metrics")).status_code == 200
    assert (await behind.client.get("/classify")).status_code == 503  # whoever comes here wants a verdict
