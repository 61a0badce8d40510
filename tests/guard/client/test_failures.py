"""Both clients against a server that does everything wrong: no verdict is made up, and no call outlives its deadline."""

import asyncio
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guard.client import AsyncClient, Client, Judged, NotJudged, Reason, Retries, Unjudged
from guard.schemas import DEADLINE_HEADER
from guard.taxonomy import Category
from tests.guard.client.conftest import Ask, Pauses
from tests.guard.client.misbehaving import (
    Behaviour,
    Misbehaving,
    answer,
    babble,
    drip_body,
    drip_head,
    flood,
    half,
    hang,
    hang_up,
    reset,
    verdicts,
)

HARMLESS = verdicts(Category.NOT_HARMFUL, action="allow")
CANARY = "zqcanary"
SOON_S = 3.0  # far above the deadlines of these tests, far below what the server would take
HELD_BACK = verdicts(Category.NOT_HARMFUL, action="allow", action_text="x" * 2_000)  # dripped, it takes 10 s and more

ONCE: list[tuple[str, Behaviour, Reason, int | None]] = [
    ("500", answer(500), Reason.UNAVAILABLE, 500),
    ("502", answer(502, b"<html>Bad gateway</html>"), Reason.UNAVAILABLE, 502),
    ("429", answer(429, retry_after="1"), Reason.UNAVAILABLE, 429),
    ("404", answer(404), Reason.BAD_ANSWER, 404),
    ("unknown status", answer(299), Reason.BAD_ANSWER, 299),
    ("no content", answer(204), Reason.BAD_ANSWER, 204),
    ("empty", answer(200), Reason.BAD_ANSWER, 200),
    ("no JSON", answer(200, b"<html>Welcome</html>"), Reason.BAD_ANSWER, 200),
    ("no UTF-8", answer(200, b'{"id": "\xff"}'), Reason.BAD_ANSWER, 200),
    ("deep JSON", answer(200, b'{"x":' + b"[" * 100_000), Reason.BAD_ANSWER, 200),
    ("other JSON", answer(200, b'{"flagged": false}'), Reason.BAD_ANSWER, 200),
    ("unknown category", answer(200, verdicts(Category.NOT_HARMFUL, category="fine")), Reason.BAD_ANSWER, 200),
    ("no verdict", answer(200, verdicts()), Reason.BAD_ANSWER, 200),
    ("two verdicts", answer(200, verdicts(*[Category.NOT_HARMFUL] * 2)), Reason.BAD_ANSWER, 200),
    ("contradiction", answer(200, verdicts(Category.SELF_HARM, flagged=False)), Reason.BAD_ANSWER, 200),
    ("huge", flood, Reason.BAD_ANSWER, 200),
    ("packed", answer(200, b"\x1f\x8b\x08" + bytes(64), content_encoding="gzip"), Reason.BAD_ANSWER, 200),
]
BROKEN: list[tuple[str, Behaviour]] = [
    ("hang up", hang_up),
    ("reset", reset),
    ("half an answer", half(HARMLESS)),
    ("no HTTP", babble),
]
SLOW: list[tuple[str, Behaviour]] = [
    ("hang", hang),
    ("slow head", drip_head(HELD_BACK)),
    ("slow body", drip_body(HELD_BACK)),
]


@pytest.mark.parametrize(("behaviour", "reason", "status"), [c[1:] for c in ONCE], ids=[c[0] for c in ONCE])
async def test_not_tried_again(ask: Ask, behaviour: Behaviour, reason: Reason, status: int | None) -> None:
    """An answer that is no verdict and no 503 is not asked for again, and is never taken for harmless."""
    with Misbehaving(behaviour, answer(200, HARMLESS)) as server:
        got = await ask(server.base_url, "hello")
    assert isinstance(got, Unjudged)
    assert (got.judged, got.allowed, got.reason, got.status, got.attempts) == (False, False, reason, status, 1)
    assert len(server.received) == 1


async def test_redirects_are_not_followed(ask: Ask) -> None:
    """A redirect is no answer: the text is not sent anywhere else."""
    with (
        Misbehaving(answer(200, HARMLESS)) as other,
        Misbehaving(answer(307, location=f"{other.base_url}/classify")) as server,
    ):
        got = await ask(server.base_url, "hello")
    assert (got.judged, got.reason, got.status) == (False, Reason.BAD_ANSWER, 307)
    assert other.received == []


@pytest.mark.parametrize("behaviour", [b for _, b in BROKEN], ids=[n for n, _ in BROKEN])
async def test_broken_connections_are_tried_again(ask: Ask, pauses: Pauses, behaviour: Behaviour) -> None:
    """A broken connection is tried again, and the verdict that comes then counts."""
    with Misbehaving(behaviour, behaviour, answer(200, HARMLESS)) as server:
        got = await ask(server.base_url, "hello")
    assert isinstance(got, Judged)
    assert len(server.received) == 3
    assert len(pauses.seconds) == 2


@pytest.mark.parametrize("behaviour", [b for _, b in BROKEN], ids=[n for n, _ in BROKEN])
async def test_broken_for_good(ask: Ask, behaviour: Behaviour) -> None:
    """A connection that breaks every time leaves the text unjudged after the last attempt."""
    with Misbehaving(behaviour) as server:
        got = await ask(server.base_url, "hello")
    assert (got.judged, got.reason, got.status, got.attempts) == (False, Reason.UNREACHABLE, None, 3)


async def test_nobody_listens(ask: Ask) -> None:
    """A refused connection leaves the text unjudged."""
    with Misbehaving(hang) as server:
        gone = server.base_url
    got = await ask(gone, "hello")
    assert (got.judged, got.reason, got.attempts) == (False, Reason.UNREACHABLE, 3)


@pytest.mark.parametrize("behaviour", [b for _, b in SLOW], ids=[n for n, _ in SLOW])
async def test_deadline(ask: Ask, behaviour: Behaviour) -> None:
    """However slowly an answer comes, the call ends at its deadline, without a verdict."""
    with Misbehaving(behaviour) as server:
        began = time.monotonic()
        got = await ask(server.base_url, "hello", deadline_s=0.2)
        took_s = time.monotonic() - began
    assert (got.judged, got.reason, got.attempts) == (False, Reason.OUT_OF_TIME, 1)
    assert 0.2 <= took_s < SOON_S


async def test_deadline_while_connecting(ask: Ask) -> None:
    """A host that takes no connection, since its backlog is full, holds nobody beyond the deadline."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.socket() as first,
        socket.socket() as next_,
    ):
        first.connect(listener.getsockname())
        next_.setblocking(False)
        next_.connect_ex(listener.getsockname())
        began = time.monotonic()
        got = await ask(f"http://127.0.0.1:{listener.getsockname()[1]}", "hello", deadline_s=0.2)
        assert time.monotonic() - began < SOON_S
    assert (got.judged, got.reason) == (False, Reason.OUT_OF_TIME)


async def test_deadline_while_sending(ask: Ask) -> None:
    """A guard that stops reading in the middle of a long request holds nobody beyond the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        got = await ask(f"http://127.0.0.1:{listener.getsockname()[1]}", "x" * 20_000_000, deadline_s=0.5)
        assert time.monotonic() - began < SOON_S
    assert (got.judged, got.reason) == (False, Reason.OUT_OF_TIME)


async def test_deadline_of_a_name_that_does_not_resolve(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer holds nobody beyond the deadline."""
    answered = threading.Event()

    def resolve(*_: Any, **__: Any) -> list[Any]:
        answered.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        began = time.monotonic()
        got = await ask("http://guard.test", "hello", deadline_s=0.2)
        assert time.monotonic() - began < SOON_S
    finally:
        answered.set()
    assert (got.judged, got.reason) == (False, Reason.OUT_OF_TIME)


async def test_guard_is_told_the_deadline(ask: Ask) -> None:
    """Each attempt carries the milliseconds that are left of the call's deadline."""
    with Misbehaving(hang_up, answer(200, HARMLESS)) as server:
        await ask(server.base_url, "hello", deadline_s=20)
    first, second = (int(request.headers[DEADLINE_HEADER]) for request in server.received)
    assert 1 <= second <= first <= 20_000


async def test_pool_survives_deadlines(retries: Retries) -> None:
    """Calls cut off at their deadline leave no connection taken: as many as the pool has, and then one more."""
    with Misbehaving(*[hang] * 6, answer(200, HARMLESS)) as server:
        async with AsyncClient(
            server.base_url, on_failure="block", deadline_s=0.2, retries=retries, max_connections=3
        ) as client:
            for _ in range(2):
                cut = await asyncio.gather(*(client.classify("hello") for _ in range(3)))
                assert {a.reason for a in cut if not a.judged} == {Reason.OUT_OF_TIME}
        async with AsyncClient(
            server.base_url, on_failure="block", deadline_s=20, retries=retries, max_connections=1
        ) as client:
            assert [(await client.classify("hello")).judged for _ in range(3)] == [True] * 3


async def test_cancelled_call_frees_its_connection(retries: Retries) -> None:
    """A task that is cancelled in its call ends as cancelled, and the next call gets its place in the pool."""
    with Misbehaving(hang, answer(200, HARMLESS)) as server:
        async with AsyncClient(
            server.base_url, on_failure="block", deadline_s=20, retries=retries, max_connections=1
        ) as client:
            call = asyncio.create_task(client.classify("hello"))
            assert await asyncio.to_thread(server.arrived.acquire, timeout=SOON_S)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await client.classify("hello")).judged


async def test_connections_are_kept(ask: Ask, retries: Retries) -> None:
    """One connection serves one call after the other, failed ones too."""
    with Misbehaving(answer(200, HARMLESS), answer(500), answer(200, HARMLESS)) as server:
        async with AsyncClient(server.base_url, on_failure="block", deadline_s=20, retries=retries) as client:
            judged = [(await client.classify("hello")).judged for _ in range(3)]
    assert judged == [True, False, True]
    assert server.connections == 1


# what 503 means


async def test_503_is_tried_again_after_the_time_it_names(ask: Ask, pauses: Pauses) -> None:
    """A 503 is tried again, after at least the seconds of its Retry-After."""
    with Misbehaving(answer(503, retry_after="3"), answer(503), answer(200, HARMLESS)) as server:
        got = await ask(server.base_url, "hello")
    assert got.judged
    assert 3 <= pauses.seconds[0] <= 4
    assert 0 <= pauses.seconds[1] <= 1
    assert len(server.received) == 3


async def test_503_that_asks_for_too_much(ask: Ask, pauses: Pauses) -> None:
    """A Retry-After beyond the deadline is not waited for: the call ends at once."""
    with Misbehaving(answer(503, retry_after="60"), answer(200, HARMLESS)) as server:
        got = await ask(server.base_url, "hello")
    assert (got.judged, got.reason, got.status, got.attempts) == (False, Reason.UNAVAILABLE, 503, 1)
    assert pauses.seconds == []


async def test_overload_is_not_made_worse(pauses: Pauses) -> None:
    """While a guard answers nothing but 503, further attempts end with the reserve; ten successes earn one more."""
    retries = Retries(share=0.1, reserve=2, attempts=3, seed=7, pause=pauses)
    script = [*[answer(503)] * 12, *[answer(200, HARMLESS)] * 10, answer(503)]
    with Misbehaving(*script) as server:
        async with AsyncClient(server.base_url, on_failure="block", deadline_s=60, retries=retries) as client:
            for _ in range(10):
                assert not (await client.classify("hello")).judged
            assert len(server.received) == 12
            for _ in range(10):
                assert (await client.classify("hello")).judged
            before = len(server.received)
            for _ in range(5):
                assert not (await client.classify("hello")).judged
    assert len(server.received) - before == 6
    assert len(pauses.seconds) == 3


# what is made of it


async def test_block_and_allow(ask: Ask) -> None:
    """Both say that nothing was judged and why; they differ in whether the text may pass."""
    with Misbehaving(answer(500)) as server:
        block, allow = [await ask(server.base_url, "hello", on_failure=policy) for policy in ("block", "allow")]
    assert (block.judged, block.allowed) == (False, False)
    assert (allow.judged, allow.allowed) == (False, True)
    assert block.reason is allow.reason is Reason.UNAVAILABLE
    for name in ("flagged", "category", "scores", "action"):
        assert not hasattr(allow, name)


async def test_raise(ask: Ask) -> None:
    """With "raise" a text that was not judged is an error that says why."""
    with Misbehaving(answer(500)) as server, pytest.raises(NotJudged, match="500") as caught:
        await ask(server.base_url, "hello", on_failure="raise")
    assert caught.value.reason == "unavailable"


async def test_many_texts_are_unjudged_together(ask: Ask) -> None:
    """Each of several texts is answered, with no verdict on any."""
    with Misbehaving(answer(500)) as server:
        answers = await ask(server.base_url, ["a", "b", "c"])
    assert [a.judged for a in answers] == [False] * 3


def _broken(server: Misbehaving) -> Iterator[Any]:
    """Yield what each kind of failure leaves behind: answers, and errors with all that hangs on them."""
    for text in (CANARY, f"{CANARY}\ud800"):
        with Client(server.base_url, on_failure="block", deadline_s=5, retries=Retries(reserve=0)) as client:
            yield client
            yield client.classify(text, user=CANARY)
        with Client(server.base_url, on_failure="raise", deadline_s=5, retries=Retries(reserve=0)) as client:
            try:
                client.classify(text, user=CANARY)
            except NotJudged as error:
                yield error


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(400, b'{"type": "about:blank", "title": "zqcanary", "status": 400, "detail": "zqcanary"}'),
        answer(200, b'{"id": "zqcanary"}'),
        hang_up,
    ],
    ids=["problem", "wrong JSON", "hang up"],
)
def test_text_is_nowhere(behaviour: Behaviour, caplog: pytest.LogCaptureFixture) -> None:
    """The text is in no log at the finest level, no repr and no error, nor in anything that an error holds on to."""
    caplog.set_level(logging.DEBUG)
    with Misbehaving(behaviour) as server:
        left = list(_broken(server))
    errors = [e for e in left if isinstance(e, NotJudged)]
    assert len(errors) == 2
    assert [e.__cause__ or e.__context__ for e in errors] == [None, None]
    seen = [repr(left), *map(str, left), caplog.text, *("".join(traceback.format_exception(e)) for e in errors)]
    assert "not judged" in caplog.text
    assert [s for s in seen if CANARY in s] == []
    assert all(CANARY.encode() in request.body for request in server.received)


def test_error_of_a_wrong_type_has_no_text() -> None:
    """What is no text and no chat is the caller's mistake, said without repeating it."""
    with Client("http://127.0.0.1:1", on_failure="block") as client:
        wrong: list[Callable[[], Any]] = [
            lambda: client.classify(CANARY.encode()),  # type: ignore[arg-type]
            lambda: client.classify_many(CANARY),
            lambda: client.classify_many([CANARY, None]),  # type: ignore[list-item]
            lambda: client.classify_messages([{"content": CANARY}]),
            lambda: client.classify_messages(CANARY),  # type: ignore[arg-type]
        ]
        for call in wrong:
            with pytest.raises(TypeError) as caught:
                call()
            assert CANARY not in repr(caught.value)
            assert (caught.value.__cause__ or caught.value.__context__) is None
