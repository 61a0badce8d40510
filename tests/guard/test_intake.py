"""Verdicts into the pool: with a known probability, within bounds, and without losing any while the store is away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from guard.decision import Verdict
from guard.engine import Judged
from guard.errors import StoreUnavailable
from guard.intake import FLUSH_MESSAGES, Intake
from guard.metrics import Metrics
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.pool import Added, Arrival
from guard.store.rows import Message, Sighting
from guard.taxonomy import Category
from tests.guard.store.scenes import pooled

Make = Callable[..., Intake]


def judged(*texts: str, uncertainty: float = 0.9, version: str = "0001") -> Judged:
    """Return the verdicts on some texts."""
    verdict = Verdict(Category.MEDICAL_ADVICE, True, (0.1, 0.5, 0.1, 0.1, 0.1, 0.1), uncertainty, 0)
    n = len(texts)
    return Judged(version, texts, (verdict,) * n, (1,) * n, 3 * n, ((0, 1),) * n, (False,) * n)


@pytest.fixture
def metrics() -> Metrics:
    """Fresh series."""
    return Metrics()


@pytest.fixture
def make(store: Store, store_settings: GuardSettings, metrics: Metrics) -> Make:
    """Make an intake with some settings and a sampler that gives the same number always."""

    def build(*, sample: float = 0.0, **settings: Any) -> Intake:
        changed = store_settings.model_copy(update={"intake_flush_ms": 1, **settings})
        return Intake(store, changed, metrics, clock=store.clock, sample=lambda: sample)

    return build


async def _messages(store: Store) -> Sequence[Message]:
    async with store.database.read() as session:
        return (await session.scalars(select(Message).order_by(Message.id))).all()


def _fate(metrics: Metrics, fate: str) -> float | None:
    return metrics.registry.get_sample_value("guard_intake_total", {"fate": fate})


class Outage:
    """A pool that does not answer until it is mended; everything else is the store's own."""

    def __init__(self, store: Store, error: Exception) -> None:
        self._add = store.pool.add
        self.error: Exception | None = error
        self.tried = asyncio.Event()

    async def add(self, arrivals: Sequence[Arrival], *, max_messages: int) -> Added:
        """Fail, or add."""
        self.tried.set()
        if self.error is not None:
            raise self.error
        return await self._add(arrivals, max_messages=max_messages)


async def test_uncertain_enters_with_certainty(make: Make, store: Store) -> None:
    """An uncertain verdict enters with probability 1, with all that is known about it."""
    intake = make(sample=0.999)
    intake.offer(judged("what dose", uncertainty=0.5), user=None)
    assert await intake.flush()
    (message,) = await _messages(store)
    assert (message.reason, message.inclusion_probability, message.uncertainty) == ("uncertain", 1.0, 0.5)
    assert (message.category, message.model_version, message.source) == (Category.MEDICAL_ADVICE, "0001", "classify")
    assert message.scores == [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]
    assert message.first_seen_at == store.clock()
    assert [p.text for p in await pooled(store)] == ["what dose"]


@pytest.mark.parametrize(("sample", "enters"), [(0.0, True), (0.0099, True), (0.01, False), (0.999, False)])
async def test_audit_share(make: Make, store: Store, sample: float, *, enters: bool) -> None:
    """A certain verdict enters exactly when the sample falls below the audit rate, and with that probability."""
    intake = make(sample=sample, audit_rate=0.01)
    intake.offer(judged("hello", uncertainty=0.49), user=None)
    assert await intake.flush()
    assert [(m.reason, m.inclusion_probability) for m in await _messages(store)] == [("audit", 0.01)] * enters


@pytest.mark.parametrize(("rate", "enters"), [(0.0, False), (1.0, True)])
async def test_audit_of_none_or_all(make: Make, store: Store, rate: float, *, enters: bool) -> None:
    """A rate of 0 lets no certain verdict in, a rate of 1 every one."""
    low, high = make(sample=0.0, audit_rate=rate), make(sample=1 - 2**-53, audit_rate=rate)
    low.offer(judged("a", uncertainty=0.1), user=None)
    high.offer(judged("b", uncertainty=0.1), user=None)
    assert await low.flush()
    assert await high.flush()
    assert len(await _messages(store)) == 2 * enters


def test_sampler_is_fair(guard_settings: GuardSettings, metrics: Metrics) -> None:
    """The sampler that is used when none is injected lets in about the share it should."""
    settings = guard_settings.model_copy(update={"audit_rate": 0.1})
    intake = Intake(None, settings, metrics, clock=lambda: None)  # type: ignore[arg-type,return-value]
    intake.offer(judged(*map(str, range(5000)), uncertainty=0.1), user=None)
    assert 380 < len(intake._waiting) < 620  # 500 ± 5.6 standard deviations: wrong once in 10^8


async def test_call_that_comes_again(make: Make, store: Store, metrics: Metrics) -> None:
    """What a call brings again is neither drawn nor counted twice, even after it was written; another call's is."""
    intake = make()
    intake.offer(judged("torn"), user="u", call="a")
    assert await intake.flush()
    intake.offer(judged("torn", "new"), user="u", call="a")
    assert await intake.flush()
    assert [message.seen_count for message in await _messages(store)] == [1, 1]
    assert _fate(metrics, "same_call") == 1
    assert not _fate(metrics, "repeated"), "the first is not counted again"
    intake.offer(judged("torn"), user="u", call="b")
    assert await intake.flush()
    assert _fate(metrics, "repeated") == 1


async def test_each_text_of_a_request(make: Make, store: Store) -> None:
    """The texts of one request enter each with its own verdict."""
    sure, torn = judged("sure", uncertainty=0.1), judged("torn", uncertainty=0.9)
    verdicts = (*sure.verdicts, *torn.verdicts)
    both = Judged("0001", ("sure", "torn"), verdicts, (1, 1), 6, ((0, 4),) * 2, (False,) * 2)
    intake = make(sample=0.5)
    intake.offer(both, user="u")
    assert await intake.flush()
    assert [p.text for p in await pooled(store)] == ["torn"]


async def test_repeated_text(make: Make, store: Store, metrics: Metrics) -> None:
    """A text that comes again counts once more and is kept once."""
    intake = make()
    for user in ("a", "b", "a"):
        intake.offer(judged("same"), user=user)
    assert await intake.flush()
    assert [m.seen_count for m in await _messages(store)] == [3]
    assert (_fate(metrics, "new"), _fate(metrics, "repeated")) == (1, 2)


async def test_user_is_a_hash(make: Make, store: Store) -> None:
    """A user is stored as a keyed hash, by which erasing finds what they sent."""
    intake = make()
    intake.offer(judged("mine"), user="ada@example.org")
    assert await intake.flush()
    async with store.database.read() as session:
        sighting = (await session.scalars(select(Sighting))).one()
        rows = str((await session.execute(text("SELECT * FROM message"))).all())
    assert sighting.user_hash == store.keyring.user_hash("ada@example.org")
    assert "ada" not in rows + sighting.user_hash
    assert await store.pool.erase_user("ada@example.org") == 1


# bounds


async def test_queue_is_bounded(make: Make, metrics: Metrics) -> None:
    """Beyond the number that may wait, verdicts are dropped and counted; the ones that wait are not."""
    intake = make(intake_max_waiting=3)
    intake.offer(judged("a", "b", "c", "d", "e"), user=None)
    assert [a.text for a in intake._waiting] == ["a", "b", "c"]
    assert _fate(metrics, "dropped_queue") == 2
    assert metrics.registry.get_sample_value("guard_intake_waiting") == 3
    assert await intake.flush()
    intake.offer(judged("d"), user=None)
    assert len(intake._waiting) == 1


async def test_full_pool(make: Make, store: Store, metrics: Metrics) -> None:
    """Beyond the number that the pool may hold, new texts are dropped and counted; known ones still count."""
    intake = make(pool_max_messages=2)
    intake.offer(judged("a", "b", "c", "a"), user=None)
    assert await intake.flush()
    assert [m.seen_count for m in await _messages(store)] == [2, 1]
    fates = ("new", "repeated", "dropped_full")
    assert [_fate(metrics, fate) for fate in fates] == [2, 1, 1]
    assert metrics.registry.get_sample_value("guard_intake_waiting") == 0


async def test_written_in_batches(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long queue is written in batches of bounded size, in the order of arrival."""
    sizes: list[int] = []
    add = store.pool.add

    async def told(arrivals: Sequence[Arrival], *, max_messages: int) -> Added:
        sizes.append(len(arrivals))
        return await add(arrivals, max_messages=max_messages)

    monkeypatch.setattr(store.pool, "add", told)
    intake = make()
    texts = [str(n) for n in range(FLUSH_MESSAGES * 2 + 7)]
    intake.offer(judged(*texts), user=None)
    assert await intake.flush()
    assert sizes == [FLUSH_MESSAGES, FLUSH_MESSAGES, 7]
    assert [p.text for p in await pooled(store)] == texts


# the store away


@pytest.fixture(params=[StoreUnavailable("The database does not answer."), RuntimeError("canary-text")])
def outage(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Outage:
    """The store's pool out of order, in a way that is foreseen and in one that is not."""
    broken = Outage(store, request.param)
    monkeypatch.setattr(store.pool, "add", broken.add)
    return broken


@pytest.fixture
def intake(make: Make, monkeypatch: pytest.MonkeyPatch) -> Intake:
    """An intake that tries again at once."""
    monkeypatch.setattr("guard.intake.RETRY_S", 0.001)
    return make()


@pytest.fixture
async def running(intake: Intake) -> AsyncIterator[asyncio.Task[None]]:
    """The intake's task, until the end of the test."""
    task = asyncio.create_task(intake.run())
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in the database's thread
            await asyncio.sleep(0.001)


async def test_written_in_the_background(running: asyncio.Task[None], intake: Intake, store: Store) -> None:
    """What is offered is written soon, without anybody's waiting for it, and again and again."""
    for text_ in ("a", "b"):
        intake.offer(judged(text_), user=None)
        await _until(lambda: not intake._waiting)
    assert [p.text for p in await pooled(store)] == ["a", "b"]
    assert not running.done()


async def test_outage(outage: Outage, intake: Intake, store: Store, metrics: Metrics) -> None:
    """While the store does not take them, texts wait, the trouble is counted and logged without them."""
    intake.offer(judged("canary-1", "canary-2"), user="canary-3")
    with capture_logs() as logs:
        assert not await intake.flush()
        assert not await intake.flush()
    assert _fate(metrics, "retried") == 4
    assert [log["event"] for log in logs] == ["intake_waits"] * 2
    assert "canary" not in str(logs)
    outage.error = None
    assert await intake.flush()
    assert [p.text for p in await pooled(store)] == ["canary-1", "canary-2"]
    assert (_fate(metrics, "new"), _fate(metrics, "repeated")) == (2, 0)


async def test_recovers(outage: Outage, running: asyncio.Task[None], intake: Intake, store: Store) -> None:
    """The task outlives an outage, what came meanwhile included."""
    intake.offer(judged("before"), user=None)
    await outage.tried.wait()
    intake.offer(judged("during"), user=None)
    outage.tried.clear()
    await outage.tried.wait()
    outage.error = None
    await _until(lambda: not intake._waiting)
    assert [p.text for p in await pooled(store)] == ["before", "during"]
    assert not running.done()


async def test_outage_is_bounded(outage: Outage, make: Make, metrics: Metrics) -> None:
    """However long an outage lasts, no more than the bound waits; what is dropped is counted."""
    intake = make(intake_max_waiting=10)
    for n in range(100):
        intake.offer(judged(str(n)), user=None)
        if n % 10 == 0:
            assert not await intake.flush()
    assert len(intake._waiting) == 10
    assert _fate(metrics, "dropped_queue") == 90


# the end


async def test_close_writes_what_waits(make: Make, store: Store) -> None:
    """At shutdown what waits is written."""
    intake = make(intake_flush_ms=3_600_000)
    task = asyncio.create_task(intake.run())
    intake.offer(judged("last"), user=None)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await intake.close()
    assert [p.text for p in await pooled(store)] == ["last"]


async def test_close_during_an_outage(outage: Outage, intake: Intake) -> None:
    """At shutdown what cannot be written is lost, and the log says how much."""
    intake.offer(judged("a", "b"), user=None)
    with capture_logs() as logs:
        await intake.close()
    assert (logs[-1]["event"], logs[-1]["log_level"], logs[-1]["verdicts"]) == ("intake_lost", "error", 2)


async def test_cancelled_while_writing(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown while the store has committed but not yet answered does not write anything twice."""
    entered, free = asyncio.Event(), asyncio.Event()
    add = store.pool.add

    async def slow(arrivals: Sequence[Arrival], *, max_messages: int) -> Added:
        added = await add(arrivals, max_messages=max_messages)
        entered.set()
        await free.wait()
        return added

    monkeypatch.setattr(store.pool, "add", slow)
    intake = make()
    task = asyncio.create_task(intake.run())
    intake.offer(judged("once"), user=None)
    await entered.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    closing = asyncio.create_task(intake.close())
    await asyncio.sleep(0)
    free.set()
    await closing
    assert [m.seen_count for m in await _messages(store)] == [1]
