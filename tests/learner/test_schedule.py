"""One learner at a time, at its own pace, and gone quickly when told to."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from guard.errors import BadConfiguration, Conflict, StoreUnavailable
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.lease import LEARNER
from guard.store.states import CycleState
from guard.taxonomy import Category
from learner.cycle import Loop, Step
from learner.schedule import Schedule
from learner.settings import LearnerSettings
from tests.conftest import Clock
from tests.learner.stages import QuickWork, fill_pool, label, reached, walk
from tests.toys import publish_toy

SETTINGS = LearnerSettings(
    batch_size=4, pool_min=10, threads=1, tick_s=0.01, lease_s=0.09, user_cap=100, labelling_hours=24
)


class Learner:
    """A schedule on quick work, with events for what it says.

    Its clock stands still, so that its lease, short in real time, ends only when a test moves the clock.
    """

    def __init__(self, store: Store, guard_settings: GuardSettings, settings: LearnerSettings = SETTINGS) -> None:
        self.exports = Exports(guard_settings.exports_dir)
        self.work = QuickWork(store, self.exports, settings)
        self.steps: list[Step] = []
        self.waits = asyncio.Event()
        self.states = {state: asyncio.Event() for state in CycleState}
        self.schedule = Schedule(store, self.exports, settings, guard_settings, self.work, tell=self._hear)
        self.stop = asyncio.Event()

    def _hear(self, step: Step) -> None:
        self.steps.append(step)
        if step.waits_for is not None:
            self.waits.set()
        elif step.state is not None:
            self.states[step.state].set()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Serve in the background."""
        task = asyncio.create_task(self.schedule.serve(self.stop))
        try:
            yield
        finally:
            self.stop.set()
            await asyncio.wait_for(task, 10)


@pytest.fixture
async def store(guard_settings: GuardSettings, clock: Clock) -> AsyncIterator[Store]:
    """A store on SQLite with a pool that is ready, and a champion."""
    publish_toy(Exports(guard_settings.exports_dir))
    async with open_store(guard_settings, clock=clock, create_keyring=True) as opened:
        await fill_pool(opened)
        yield opened


class Calls:
    """Counts the calls of an asynchronous method and wakes whoever waits for one."""

    def __init__(self, method: Callable[..., Awaitable[object]]) -> None:
        self._method = method
        self.made = asyncio.Semaphore(0)

    async def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the method."""
        try:
            return await self._method(*args, **kwargs)
        finally:
            self.made.release()

    async def wait(self, count: int = 1) -> None:
        """Wait until the method was called so often from now on."""
        while not self.made.locked():
            await self.made.acquire()
        for _ in range(count):
            await asyncio.wait_for(self.made.acquire(), 10)


async def test_a_learner_opens_a_cycle_and_takes_it_on_when_it_is_labelled(
    store: Store, guard_settings: GuardSettings
) -> None:
    """From a ready pool to a new champion, with nobody but the reviewers doing anything."""
    learner = Learner(store, guard_settings)
    async with learner.at_work():
        await reached(learner.waits)
        await label(store)
        await reached(learner.states[CycleState.PROMOTED])
    assert learner.exports.champion() == "0002"
    assert learner.work.begun[:5] == ["select", "vary", "train", "judge", "promote"]


async def test_error_rates_are_written_down_after_each_batch_and_every_hour(
    store: Store, guard_settings: GuardSettings, clock: Clock
) -> None:
    """What the batch says of the champion stands in the store when the batch is done; an hour later it is told anew."""
    learner = Learner(store, guard_settings, SETTINGS.model_copy(update={"pool_min": 17, "lease_s": 7200}))
    replace = Calls(store.figures.replace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.figures, "replace", replace)
        async with learner.at_work():
            await reached(learner.waits)
            clock.advance(seconds=1)
            learner.waits.clear()
            await label(store)
            await reached(learner.states[CycleState.PROMOTED])
            await reached(learner.waits)
            clock.advance(hours=1)
            await replace.wait()
    missed = {f.category: f for f in await store.figures.latest() if f.measure == "miss_rate"}[Category.LEGAL_ADVICE]
    assert (missed.model_version, missed.labels, missed.naive, missed.value) == ("0001", 4, 1.0, None)
    assert missed.until < clock()


async def test_of_two_learners_one_acts_and_the_other_takes_over(store: Store, guard_settings: GuardSettings) -> None:
    """While the first holds the lease the second does nothing; when the first leaves, the second goes on."""
    first, second = Learner(store, guard_settings), Learner(store, guard_settings)
    async with first.at_work():
        await reached(first.waits)
        acquire = Calls(store.leases.acquire)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store.leases, "acquire", acquire)
            async with second.at_work():
                await acquire.wait(3)
                assert second.steps == []
                first.stop.set()
                await reached(second.waits)
    assert first.work.begun == ["select"]
    assert second.work.begun == []
    assert second.steps[-1].state is CycleState.LABELLING


async def test_the_lease_is_renewed_while_a_stage_computes(
    store: Store, guard_settings: GuardSettings, clock: Clock
) -> None:
    """A stage that keeps a thread busy for longer than the lease keeps the lease all the same."""
    learner, begun, release = Learner(store, guard_settings), asyncio.Event(), threading.Event()

    async def long() -> None:
        begun.set()
        await asyncio.to_thread(release.wait, 10)

    learner.work.before["select"] = long
    renew = Calls(store.leases.renew)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.leases, "renew", renew)
        async with learner.at_work():
            await reached(begun)
            for _ in range(4):
                clock.advance(seconds=SETTINGS.lease_s / 2)
                await renew.wait(2)  # the second began after the clock was moved
            assert await store.leases.acquire(LEARNER, "other", ttl=timedelta(seconds=1)) is None
            release.set()
            await reached(learner.waits)
    assert [step.state for step in learner.steps][:2] == [CycleState.SELECTING, CycleState.LABELLING]


async def test_a_learner_that_loses_its_lease_stops_and_waits_for_it(
    store: Store, guard_settings: GuardSettings, clock: Clock
) -> None:
    """A stage under way is abandoned when the lease is lost; when it is free again the learner comes back to it."""
    learner, begun = Learner(store, guard_settings), asyncio.Event()
    cancelled = asyncio.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    learner.work.before["select"] = endless
    async with learner.at_work():
        await reached(begun)
        await usurp(store, clock)
        await reached(cancelled)
        cycle = await store.cycles.current()
        assert cycle is not None
        assert cycle.state is CycleState.SELECTING
        learner.work.before.clear()
        clock.advance(seconds=60)
        await reached(learner.waits)
    assert learner.work.begun == ["select", "select"]


async def usurp(store: Store, clock: Clock) -> None:
    """Take the lease from a learner between two of its renewals."""
    for _ in range(1000):
        clock.advance(seconds=1)
        if await store.leases.acquire(LEARNER, "usurper", ttl=timedelta(seconds=30)) is not None:
            return
    raise AssertionError("The lease never came free.")


async def test_stopping_does_not_wait_for_a_stage_in_a_thread(store: Store, guard_settings: GuardSettings) -> None:
    """Told to stop in the middle of training, the learner gives its lease back and leaves the thread behind."""
    learner, begun, release = Learner(store, guard_settings), asyncio.Event(), threading.Event()

    async def long() -> None:
        begun.set()
        await asyncio.to_thread(release.wait, 60)

    learner.work.before["select"] = long
    async with learner.at_work():
        await reached(begun)
    assert not release.is_set()
    release.set()
    expires_at = await store.leases.expires_at(LEARNER)
    assert expires_at is not None
    assert expires_at <= store.clock()
    cycle = await store.cycles.current()
    assert cycle is not None
    assert cycle.state is CycleState.SELECTING


async def test_retention_is_enforced_at_the_start_and_every_hour(
    store: Store, guard_settings: GuardSettings, clock: Clock
) -> None:
    """Messages past their retention go when a learner starts, and then not before an hour has passed."""
    learner = Learner(store, guard_settings, SETTINGS.model_copy(update={"pool_min": 1000}))
    expire = Calls(store.pool.expire)
    read = Calls(store.cycles.current)
    clock.advance(days=guard_settings.retention_days, seconds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.pool, "expire", expire)
        patch.setattr(store.cycles, "current", read)
        async with learner.at_work():
            await reached(learner.waits)
            assert await store.pool.size() == 0
            await fill_pool(store, 3)
            clock.advance(days=guard_settings.retention_days, seconds=1)
            await expire.wait()
            await read.wait(2)
            assert await store.pool.size() == 0
            clock.advance(minutes=59)
            await fill_pool(store, 3)
            await read.wait(3)
            assert expire.made.locked()
            clock.advance(minutes=2)
            await expire.wait()


async def test_without_a_champion_the_first_model_is_made_once(store: Store, guard_settings: GuardSettings) -> None:
    """A learner that finds no champion makes one, and then goes on as always."""
    learner = Learner(store, guard_settings)
    (learner.exports.folder / "champion").unlink()
    async with learner.at_work():
        await reached(learner.waits)
    assert learner.work.begun == ["bootstrap", "select"]
    assert learner.exports.champion() == "0002"


async def test_a_first_model_that_fails_is_not_tried_for_ever(store: Store, guard_settings: GuardSettings) -> None:
    """When the first model cannot be made, the error is told once and the learner waits for a champion."""
    learner = Learner(store, guard_settings)
    (learner.exports.folder / "champion").unlink()

    async def broken() -> None:
        raise MemoryError

    learner.work.before["bootstrap"] = broken
    with capture_logs() as logs:
        async with learner.at_work():
            await reached(learner.waits)
    assert learner.work.begun == ["bootstrap"]
    assert [entry["error"] for entry in logs if entry["event"] == "turn_failed"] == ["MemoryError"]
    assert "no champion" in str(learner.steps[-1].waits_for)


async def test_a_database_that_was_away_does_not_end_the_learner(store: Store, guard_settings: GuardSettings) -> None:
    """A turn that meets no database is followed by one that does its work."""
    learner = Learner(store, guard_settings)
    size, failures = store.pool.size, iter([True, True, False])

    async def flaky() -> int:
        if next(failures, False):
            raise StoreUnavailable("The database does not answer.")
        return await size()

    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(store.pool, "size", flaky)
        async with learner.at_work():
            await reached(learner.waits)
    assert [entry["event"] for entry in logs].count("store_unavailable") == 2
    assert learner.work.begun == ["select"]


async def test_an_error_nobody_expected_is_told_without_what_it_said(
    store: Store, guard_settings: GuardSettings
) -> None:
    """An error outside every stage is logged by its type and place, and the next tick goes on."""
    learner = Learner(store, guard_settings)
    counts, failures = store.cycles.counts, iter([True, False])

    async def broken() -> object:
        if next(failures, False):
            raise KeyError("somebody's text")
        return await counts()

    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(store.cycles, "counts", broken)
        async with learner.at_work():
            await reached(learner.waits)
    (told,) = [entry for entry in logs if entry["event"] == "turn_failed"]
    assert told["error"] == "KeyError"
    assert "somebody" not in str(logs)
    assert learner.work.begun == ["select"]


async def test_what_is_waited_for_is_logged_once(store: Store, guard_settings: GuardSettings) -> None:
    """Ticks that find nothing new to say say nothing."""
    learner = Learner(store, guard_settings)
    read = Calls(store.cycles.current)
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(store.cycles, "current", read)
        async with learner.at_work():
            await reached(learner.waits)
            await read.wait(5)
    assert [entry["event"] for entry in logs].count("waiting") == 1


def test_an_unknown_strategy_ends_the_learner_at_once(guard_settings: GuardSettings) -> None:
    """A strategy that does not exist is refused when the schedule is made."""
    settings = SETTINGS.model_copy(update={"strategy": "nearest"})
    with pytest.raises(BadConfiguration, match="LEARNER_STRATEGY"):
        Schedule(None, None, settings, guard_settings, None)  # type: ignore[arg-type]


class TestOnce:
    """By hand."""

    async def test_goes_as_far_as_it_goes_without_people(self, store: Store, guard_settings: GuardSettings) -> None:
        """The first call opens and selects; after labelling the second promotes and opens the next; the lease is free."""
        learner = Learner(store, guard_settings)
        await learner.schedule.once()
        assert [s.state for s in learner.steps] == [CycleState.SELECTING, CycleState.LABELLING, CycleState.LABELLING]
        await label(store)
        await learner.schedule.once()
        assert CycleState.PROMOTED in [s.state for s in learner.steps]
        assert learner.steps[-1].state is CycleState.LABELLING
        assert await store.leases.acquire(LEARNER, "other", ttl=timedelta(seconds=1)) is not None

    async def test_is_refused_while_a_learner_is_at_work(self, store: Store, guard_settings: GuardSettings) -> None:
        """With another learner at work it says so and does nothing."""
        await store.leases.acquire(LEARNER, "other", ttl=timedelta(seconds=60))
        learner = Learner(store, guard_settings)
        with pytest.raises(Conflict, match="at work"):
            await learner.schedule.once()
        assert learner.steps == []

    async def test_stops_after_a_failure(self, store: Store, guard_settings: GuardSettings) -> None:
        """A cycle that fails ends the call: the fault would meet the next cycle, too."""
        learner = Learner(store, guard_settings)

        async def broken() -> None:
            raise OSError

        learner.work.before["select"] = broken
        await learner.schedule.once()
        assert learner.steps[-1].state is CycleState.FAILED
        assert learner.work.begun == ["select"]

    async def test_a_lost_lease_ends_it_with_an_error(
        self, store: Store, guard_settings: GuardSettings, clock: Clock
    ) -> None:
        """When another learner takes over in the middle, the call says so."""
        learner = Learner(store, guard_settings)

        async def lost() -> None:
            await usurp(store, clock)
            await asyncio.Event().wait()

        learner.work.before["select"] = lost
        with pytest.raises(Conflict, match="taken over"):
            await learner.schedule.once()

    async def test_an_interrupted_call_gives_the_lease_back(self, store: Store, guard_settings: GuardSettings) -> None:
        """Ctrl-C in the middle of a stage leaves the lease free and the cycle in its stage."""
        learner, begun = Learner(store, guard_settings), asyncio.Event()

        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        learner.work.before["select"] = endless
        call = asyncio.create_task(learner.schedule.once())
        await reached(begun)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await store.leases.acquire(LEARNER, "other", ttl=timedelta(seconds=1)) is not None


MORTAL = """
import asyncio, sys
from guard import logs
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store
from learner.schedule import Schedule
from learner.settings import LearnerSettings
from tests.learner.stages import QuickWork, label

async def hang():
    print("here", flush=True)
    await asyncio.Event().wait()

async def main(stage):
    guard = GuardSettings()
    settings = LearnerSettings()
    exports = Exports(guard.exports_dir)
    async with open_store(guard) as store:
        work = QuickWork(store, exports, settings)
        if stage:
            work.before[stage] = hang
        loop = Schedule(store, exports, settings, guard, work)
        await loop.once()
        await label(store)
        await loop.once()

logs.configure("error")  # the default writes to standard output
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["select", "vary", "train", "judge", "promote"])
async def test_a_killed_learner_resumes(stage: str, guard_settings: GuardSettings, tmp_path: Path) -> None:
    """After kill -9 in any stage, another learner does that stage and the rest, and every label is there once."""
    publish_toy(Exports(guard_settings.exports_dir))
    later = Clock(datetime.now(UTC) + timedelta(hours=1))  # the lease of the dead has run out
    async with open_store(guard_settings, create_keyring=True) as store:
        await fill_pool(store)
    environment = {
        **os.environ,
        "GUARD_DATA_DIR": str(guard_settings.data_dir),
        "GUARD_EXPORTS_DIR": str(guard_settings.exports_dir),
        "LEARNER_BATCH_SIZE": "4",
        "LEARNER_POOL_MIN": "10",
        "LEARNER_THREADS": "1",
    }
    command = (sys.executable, "-c", MORTAL, stage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"here\n"
        process.send_signal(signal.SIGKILL)
    async with open_store(guard_settings, clock=later) as store:
        exports, settings = Exports(guard_settings.exports_dir), SETTINGS
        fence = await store.leases.acquire(LEARNER, "heir", ttl=timedelta(hours=1))
        assert fence is not None
        work = QuickWork(store, exports, settings)
        loop = Loop(store, exports, settings, work, fence=fence)
        if stage == "select":
            await walk(loop)
            await label(store)
        await walk(loop, until=CycleState.PROMOTED)
        (cycle,) = await store.cycles.recent()
        assert cycle.labels_spent == 4
        assert cycle.figures["training"] == {"rows": 4}
        assert [entry["stage"] for entry in cycle.timeline] == [
            "selecting",
            "labelling",
            "generating",
            "training",
            "gating",
        ]
        assert exports.champion() == cycle.challenger == "0002"
        order = ["select", "vary", "train", "judge", "promote"]
        assert work.begun == order[order.index("judge" if stage == "promote" else stage) :]
