"""The loop, on a real store with quick stages: every end, every obstacle, and every way of being interrupted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from guard.errors import Conflict, StoreUnavailable
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.lease import LEARNER
from guard.store.rows import Cycle
from guard.store.states import CycleState, MessageState
from learner.cycle import NO_CHAMPION, NO_LABELS, Loop, Step, obstacle
from tests.conftest import Clock
from tests.learner.stages import STAGES, Ruling, World, build, fill_pool, label, texts, walk
from tests.toys import publish_toy, rewrite_manifest

# the state a cycle is in while each of the work's methods runs
STATE_OF = {
    "select": CycleState.SELECTING,
    "vary": CycleState.GENERATING,
    "train": CycleState.TRAINING,
    "judge": CycleState.GATING,
    "promote": CycleState.GATING,
}


@pytest.fixture
async def world(guard_settings: GuardSettings, clock: Clock) -> AsyncIterator[World]:
    """A world on SQLite."""
    async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
        yield await build(store, clock, guard_settings)


async def to_labelled(world: World) -> None:
    """Take a cycle to where its batch is labelled."""
    step = await walk(world.loop())
    assert step.state is CycleState.LABELLING
    assert await label(world.store) == 4


def stages(cycle: Cycle) -> list[str]:
    """Return the stages a cycle has been in."""
    return [entry["stage"] for entry in cycle.timeline]


class TestEnds:
    """Every way a cycle can end."""

    async def test_a_better_challenger_is_promoted(
        self, store: Store, clock: Clock, guard_settings: GuardSettings
    ) -> None:
        """A labelled batch goes through every stage once and ends promoted, with everything recorded."""
        world = await build(store, clock, guard_settings)
        await to_labelled(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        cycle = await world.cycle()
        assert stages(cycle) == ["selecting", "labelling", "generating", "training", "gating"]
        assert all(entry["ended_at"] for entry in cycle.timeline)
        assert world.work.begun == list(STAGES)
        assert cycle.champion == "0001"
        assert cycle.challenger == "0002"
        assert world.exports.champion() == "0002"
        assert cycle.reasons == ["better by 2 points"]
        assert cycle.closed_at == clock()
        assert cycle.labels_spent == 4
        layout = cycle.figures["selection"].pop("map")
        assert len(layout["picks"]) == len(layout["clusters"]) == 4
        assert cycle.figures == {
            "selection": {
                "pool": 20,
                "picked": 4,
                "audits": 0,
                "reports": 0,
                "clusters": 4,
                "audits_fresh": 0,
                "audits_stale": 0,
                "others": 20,
            },
            "labels": {"labelled": 4, "unclear": 0, "returned": 0, "contested": 0},
            "generation": {"skipped": "no LLM key"},
            "training": {"rows": 4},
            "gate": {"macro_f1": 0.75, "delta_macro_f1": 0.02},
            "confusion": {"challenger": [[1]]},
        }

    async def test_a_better_challenger_is_held_while_somebody_holds_promotions(self, world: World) -> None:
        """A hold keeps the champion whatever the gate says; who holds, why, and what the gate said are recorded."""
        await to_labelled(world)
        world.exports.set_hold(by="ada", reason="audit week")
        await walk(world.loop(), until=CycleState.HELD)
        assert (await world.cycle()).reasons == ["promotions are on hold by ada: audit week", "better by 2 points"]
        assert (await world.cycle()).figures["gate"]["macro_f1"] == 0.75
        assert world.exports.champion() == "0001"
        assert "promote" not in world.work.begun

    async def test_a_worse_challenger_is_held(self, world: World) -> None:
        """What the gate holds back is recorded with its reasons and figures, and the champion stays."""
        world.work.ruling = Ruling(promote=False, reasons=("recall on self-harm falls", "a must-pass message fails"))
        await to_labelled(world)
        await walk(world.loop(), until=CycleState.HELD)
        cycle = await world.cycle()
        assert cycle.reasons == ["recall on self-harm falls", "a must-pass message fails"]
        assert cycle.figures["gate"]["macro_f1"] == 0.75
        assert cycle.challenger == "0002"
        assert world.exports.champion() == "0001"
        assert "promote" not in world.work.begun

    @pytest.mark.parametrize("stage", STAGES)
    async def test_a_stage_that_raises_fails_its_cycle(self, world: World, stage: str) -> None:
        """The reason names the stage and the error's type; neither it nor the log has what the error said."""

        async def broken() -> None:
            raise ValueError(texts(1)[0])

        await walk_into(world, stage, broken)
        with capture_logs() as logs:
            await walk(world.loop(), until=CycleState.FAILED)
        cycle = await world.cycle()
        assert cycle.reasons == [f"{STATE_OF[stage]}: ValueError"]
        assert cycle.closed_at is not None
        assert world.exports.champion() == "0001"
        (failed,) = [entry for entry in logs if entry["event"] == "stage_failed"]
        assert failed["error"] == "ValueError"
        assert texts(1)[0] not in str(logs)

    async def test_a_failed_cycle_does_not_block_the_next_and_its_labels_serve_it(self, world: World) -> None:
        """The cycle after a failed one trains on the labels of both."""

        async def broken() -> None:
            raise MemoryError

        await walk_into(world, "train", broken)
        await walk(world.loop(), until=CycleState.FAILED)
        world.work.before.clear()
        await to_labelled(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        cycle = await world.cycle()
        assert cycle.id == 2
        assert cycle.figures["training"] == {"rows": 8}

    async def test_a_failed_selection_leaves_the_pool_whole(self, world: World) -> None:
        """Nothing is picked by a selection that failed."""

        async def broken() -> None:
            raise ZeroDivisionError

        world.work.before["select"] = broken
        await walk(world.loop(), until=CycleState.FAILED)
        assert await world.store.pool.size() == 20

    async def test_when_the_time_is_up_the_cycle_goes_on_with_what_there_is(self, world: World) -> None:
        """At the time limit the labelled messages are trained on, and the others go back to the pool."""
        await walk(world.loop())
        await label(world.store, 1)
        world.clock.advance(hours=23, minutes=59)
        assert (await world.loop().step()).waits_for is not None
        world.clock.advance(minutes=1)
        await keep_lease(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        cycle = await world.cycle()
        assert cycle.figures["labels"] == {"labelled": 1, "unclear": 0, "contested": 0, "returned": 3}
        assert cycle.figures["training"] == {"rows": 1}
        assert await world.store.pool.size() == 19

    async def test_no_labels_in_time_hold_the_cycle(self, world: World) -> None:
        """A batch that nobody labelled ends held, without training, and goes back to the pool."""
        await walk(world.loop())
        world.clock.advance(hours=24)
        await keep_lease(world)
        await walk(world.loop(), until=CycleState.HELD)
        cycle = await world.cycle()
        assert cycle.reasons == [NO_LABELS]
        assert cycle.figures["labels"]["returned"] == 4
        assert world.work.begun == ["select"]
        assert await world.store.pool.size() == 20

    async def test_a_batch_nobody_can_tell_holds_the_cycle(self, world: World) -> None:
        """When people can't tell about any message there is nothing to train on, and no need to wait."""
        await walk(world.loop())
        await label(world.store, category=None)
        await walk(world.loop(), until=CycleState.HELD)
        assert (await world.cycle()).reasons == [NO_LABELS]
        assert (await world.cycle()).labels_spent == 4

    async def test_labels_erased_before_training_hold_the_cycle(
        self, guard_settings: GuardSettings, clock: Clock
    ) -> None:
        """When the only user erases everything after labelling, there is nothing left to train on."""
        async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
            world = await build(store, clock, guard_settings)
            await store.pool.expire(retention=timedelta(days=-1), labelled_retention=timedelta(days=1))
            await fill_pool(store, user="gone")
            await to_labelled(world)
            await walk(world.loop(), until=CycleState.TRAINING)
            await store.pool.erase_user("gone")
            await walk(world.loop(), until=CycleState.HELD)
            assert (await world.cycle()).reasons == [NO_LABELS]
            assert "train" not in world.work.begun


class TestOpening:
    """When a cycle opens, and why not."""

    async def test_opens_with_the_settings_and_a_seed_of_its_own(self, world: World) -> None:
        """A cycle records champion, strategy, size, time limit and a seed that no other cycle has."""
        step = await world.loop().step()
        first = await world.cycle()
        assert step == Step(first.id, CycleState.SELECTING)
        assert (first.champion, first.strategy, first.batch_size) == ("0001", "stochastic", 4)
        assert first.due_at == world.clock() + timedelta(hours=24)
        await walk(world.loop())
        await label(world.store)
        await walk(world.loop(), until=CycleState.PROMOTED)
        await world.loop().step()
        assert (await world.cycle()).seed != first.seed

    async def test_not_without_a_champion(self, world: World) -> None:
        """Without a champion there is nothing to select under."""
        (world.exports.folder / "champion").unlink()
        assert await world.loop().step() == Step(None, None, NO_CHAMPION)

    async def test_not_with_a_small_pool(self, world: World) -> None:
        """One message too few is too few, and the reason says how many there are and are needed."""
        step = await world.loop(pool_min=21).step()
        assert step.waits_for == "the pool holds 20 messages and a cycle opens at 21 (LEARNER_POOL_MIN)"
        assert (await world.loop(pool_min=20).step()).waits_for is None

    async def test_not_when_the_budget_is_spent(self, world: World) -> None:
        """The batch shrinks to what is left of the budget, and then the loop stops."""
        await walk(world.loop(budget=6))
        await label(world.store)
        await walk(world.loop(budget=6), until=CycleState.PROMOTED)
        step = await walk(world.loop(budget=6))
        assert step.state is CycleState.LABELLING
        assert (await world.cycle()).batch_size == 2
        assert await label(world.store) == 2
        await walk(world.loop(budget=6), until=CycleState.PROMOTED)
        step = await world.loop(budget=6).step()
        assert step == Step(None, None, "the labelling budget is spent: 6 of 6 (LEARNER_BUDGET)")

    async def test_a_lasting_fault_opens_fewer_and_fewer_cycles(self, world: World) -> None:
        """After two failures the next cycle waits a minute, then two, then four, at most an hour."""

        async def broken() -> None:
            raise OSError

        world.work.before["select"] = broken
        await fail(world)
        for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
            await fail(world)
            world.clock.advance(minutes=minutes, seconds=-1)
            await keep_lease(world)
            assert "the last cycles failed" in str((await world.loop().step()).waits_for)
            world.clock.advance(seconds=1)
        world.work.before.clear()
        assert (await walk(world.loop())).state is CycleState.LABELLING

    async def test_who_asks_by_hand_does_not_wait_after_failures(self, world: World) -> None:
        """By hand a cycle opens however often the last ones failed."""

        async def broken() -> None:
            raise OSError

        world.work.before["select"] = broken
        await fail(world)
        await fail(world)
        assert await obstacle(world.store, world.exports, world.settings) is not None
        loop = Loop(world.store, world.exports, world.settings, world.work, fence=world.fence, by_hand=True)
        assert (await loop.step()).state is CycleState.SELECTING


class TestWaiting:
    """People label at their own pace."""

    async def test_nothing_happens_while_people_label(self, world: World) -> None:
        """Steps change nothing while a pick is undecided, and say how many are."""
        await walk(world.loop())
        await label(world.store, 3)
        before = await world.cycle()
        for _ in range(3):
            step = await world.loop().step()
            assert "1 messages wait for people, until 2026-11-21 12:00 UTC" in str(step.waits_for)
        assert (await world.cycle()).timeline == before.timeline
        assert world.work.begun == ["select"]

    async def test_waiting_needs_no_lease_renewed_by_the_step(self, world: World) -> None:
        """A waiting step writes nothing."""
        await walk(world.loop())
        before = await world.store.leases.expires_at(LEARNER)
        world.clock.advance(seconds=10)
        await world.loop().step()
        assert await world.store.leases.expires_at(LEARNER) == before


class TestInterruption:
    """A learner that is killed anywhere: the next one redoes the interrupted stage, and only that."""

    @pytest.mark.parametrize("stage", STAGES)
    async def test_in_the_middle_of_a_stage(self, world: World, stage: str) -> None:
        """A stage that was cut off is done again, and those before it are not."""

        async def killed() -> None:
            raise asyncio.CancelledError

        await walk_into(world, stage, killed)
        with pytest.raises(asyncio.CancelledError):
            await walk(world.loop())
        assert (await world.cycle()).state is STATE_OF[stage]
        world.work.before.clear()
        if stage == "select":
            await to_labelled(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        again = ["judge", "promote"] if stage == "promote" else [stage]
        expected = [s for s in STAGES for _ in range(2 if s in again else 1)]
        assert sorted(world.work.begun) == sorted(expected)
        assert stages(await world.cycle()) == ["selecting", "labelling", "generating", "training", "gating"]
        assert world.exports.champion() == "0002"

    @pytest.mark.parametrize("stage", ["select", "vary", "train", "promote"])
    async def test_between_the_work_and_its_record(
        self, world: World, stage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a stage has left for good (an export, a moved pointer) is not made a second time."""
        await walk_to(world, stage)

        async def killed(*_: object, **__: object) -> None:
            raise asyncio.CancelledError

        record = "fill" if stage == "select" else "advance"
        with monkeypatch.context() as patch:
            patch.setattr(world.store.cycles, record, killed)
            with pytest.raises(asyncio.CancelledError):
                await walk(world.loop())
        assert (await world.cycle()).state is STATE_OF[stage]
        if stage == "select":
            await to_labelled(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        assert world.work.begun.count(stage) == (2 if stage in {"select", "vary"} else 1)
        assert world.work.begun.count("judge") == 1
        assert (await world.cycle()).reasons == ["better by 2 points"]
        assert world.exports.versions() == ["0001", "0002"]
        assert len(world.exports.promotions()) == 2

    async def test_a_rollback_before_the_restart_stands(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """A challenger that was promoted, not recorded, and rolled back by a person is not promoted again."""
        await walk_to(world, "promote")

        async def killed(*_: object, **__: object) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(world.store.cycles, "advance", killed)
            with pytest.raises(asyncio.CancelledError):
                await walk(world.loop())
        world.exports.rollback(by="admin", reason="it barks")
        await walk(world.loop(), until=CycleState.PROMOTED)
        assert world.exports.champion() == "0001"
        assert world.work.begun.count("judge") == 1

    async def test_an_export_of_another_database_is_not_taken_for_ones_own(self, world: World) -> None:
        """An export made for a cycle of the same number before this cycle opened is passed over."""
        old = publish_toy(world.exports, promote=False)
        rewrite_manifest(world.exports.path(old), cycle_id=1, created_at=world.clock() - timedelta(days=1))
        await to_labelled(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        assert (await world.cycle()).challenger == "0003"
        assert world.work.begun.count("train") == 1

    @pytest.mark.parametrize("stage", STAGES)
    async def test_a_database_that_does_not_answer_is_no_failure(self, world: World, stage: str) -> None:
        """The cycle stays in its stage while the database is away, and goes on afterwards."""

        async def away() -> None:
            raise StoreUnavailable("The database does not answer.")

        await walk_into(world, stage, away)
        with pytest.raises(StoreUnavailable):
            await walk(world.loop())
        assert (await world.cycle()).state is STATE_OF[stage]


class TestLease:
    """Only the holder of the lease acts."""

    @pytest.mark.parametrize("stage", STAGES)
    async def test_a_stale_learner_is_refused_before_it_begins(self, world: World, stage: str) -> None:
        """A learner whose lease another has taken begins no stage and records nothing."""
        await walk_to(world, stage)
        await take_over(world)
        begun, before = list(world.work.begun), await world.cycle()
        with pytest.raises(Conflict):
            await world.loop().step()
        assert world.work.begun == begun
        assert (await world.cycle()).state is before.state

    async def test_a_stale_learner_opens_no_cycle(self, world: World) -> None:
        """Opening is refused, too."""
        await take_over(world)
        with pytest.raises(Conflict):
            await world.loop().step()
        assert await world.store.cycles.recent() == []

    @pytest.mark.parametrize("stage", STAGES)
    async def test_a_learner_that_loses_its_lease_in_a_stage_records_nothing(self, world: World, stage: str) -> None:
        """What was done without the lease is not recorded, the cycle is not failed, and its new owner goes on."""
        await walk_into(world, stage, lambda: take_over(world))
        with pytest.raises(Conflict):
            await walk(world.loop())
        assert (await world.cycle()).state is STATE_OF[stage]

    async def test_a_learner_that_lost_its_lease_while_judging_does_not_promote(self, world: World) -> None:
        """The pointer is not moved by a learner that slept through the end of its lease."""
        await walk_into(world, "judge", lambda: take_over(world))
        with pytest.raises(Conflict):
            await walk(world.loop())
        assert world.exports.champion() == "0001"

    async def test_a_champion_moved_meanwhile_is_judged_against_anew(self, world: World) -> None:
        """When a person moves the pointer during the judgement, nothing is promoted until it was judged again."""
        other = publish_toy(world.exports, promote=False)

        async def moved() -> None:
            world.exports.promote(other, by="admin", reason="by hand")

        await walk_into(world, "promote", moved)
        with pytest.raises(Conflict):
            await walk(world.loop())
        assert (await world.cycle()).state is CycleState.GATING
        world.work.before.clear()
        await walk(world.loop(), until=CycleState.PROMOTED)
        assert world.exports.promotions()[-1].previous == other


class TestSelection:
    """The real work of the first stage."""

    async def test_picks_are_handed_to_people_with_their_reasons(self, world: World) -> None:
        """What people are given says why it was picked, and is the most uncertain of its cluster."""
        await walk(world.loop(strategy="cluster"))
        held = await world.store.review.next("ann")
        assert held is not None
        assert held.reason["strategy"] == "cluster"
        assert held.reason["rank"] == 1
        assert (await world.store.pool.counts())[MessageState.PICKED] == 4

    async def test_the_strategy_of_the_cycle_is_used_not_that_of_the_settings(self, world: World) -> None:
        """A cycle that was opened under one strategy keeps it when the settings change."""
        await world.loop(strategy="topn").step()
        await walk(world.loop(strategy="random"))
        held = await world.store.review.next("ann")
        assert held is not None
        assert held.reason["strategy"] == "topn"

    @pytest.mark.slow
    async def test_coreset_starts_from_what_is_labelled(self, world: World) -> None:
        """With coreset even the first pick is far from the corpus and the last snapshot."""
        await to_labelled(world)
        await walk(world.loop(), until=CycleState.PROMOTED)
        await walk(world.loop(strategy="coreset"))
        held = await world.store.review.next("ann")
        assert held is not None
        assert held.reason["strategy"] == "coreset"
        assert held.reason["distance"] > 0


async def walk_to(world: World, stage: str) -> None:
    """Take a cycle to where a stage would begin with the next step."""
    await walk(world.loop(), until=CycleState.SELECTING)
    if stage != "select":
        await to_labelled(world)
        await walk(world.loop(), until=STATE_OF[stage])


async def walk_into(world: World, stage: str, event: Callable[[], Awaitable[None]]) -> None:
    """Take a cycle to a stage in which something will happen."""
    await walk_to(world, stage)
    world.work.before[stage] = event


async def fail(world: World) -> None:
    """Let one cycle open and fail."""
    await keep_lease(world)
    await walk(world.loop(), until=CycleState.FAILED)


async def keep_lease(world: World) -> None:
    """Renew the lease, as the schedule does in the background."""
    assert await world.store.leases.renew(LEARNER, fence=world.fence, ttl=timedelta(seconds=60))


async def take_over(world: World) -> None:
    """Let another learner have the lease, as after a long sleep of the first."""
    world.clock.advance(seconds=61)
    assert await world.store.leases.acquire(LEARNER, "two", ttl=timedelta(seconds=60)) is not None
