"""The cycles: one open at a time, moved on by the learner that holds the lease and by nobody else."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from guard.errors import Conflict, NotFound
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.rows import Cycle
from guard.store.states import CycleState, MessageState
from guard.store.variations import Seed
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import TTL, add, advance, arrival, label_all, learner, open_batch, open_cycle, pooled

STAGES = [s for s in CycleState if not s.ended]
ENDS = [s for s in CycleState if s.ended]


async def _in(store: Store, fence: int, stage: CycleState) -> Cycle:
    """Return a cycle that has come to a stage, with two picks of which one is labelled."""
    await add(store, arrival("a"), arrival("b"))
    cycle = await open_cycle(store, fence)
    if stage is CycleState.SELECTING:
        return cycle
    picks = [Picked(p.id, {}, None) for p in await pooled(store)]
    cycle = await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    await label_all(store, Category.SELF_HARM)
    for later in STAGES[2 : STAGES.index(stage) + 1]:
        cycle = await advance(store, cycle, fence, later)
    return cycle


# stages


async def test_open(store: Store, fence: int) -> None:
    """A new cycle is in its first stage and says what it was opened with."""
    cycle = await open_cycle(store, fence)
    assert await store.cycles.current() is not None
    assert (cycle.state, cycle.strategy, cycle.batch_size, cycle.champion) == (
        CycleState.SELECTING,
        "cluster",
        20,
        "0001",
    )
    assert (cycle.opened_at, cycle.due_at, cycle.closed_at) == (START, START + timedelta(days=3), None)
    assert (cycle.labels_spent, cycle.challenger, cycle.figures, cycle.reasons) == (0, None, {}, [])


@pytest.mark.parametrize("end", ENDS)
async def test_whole_way(store: Store, fence: int, clock: Clock, end: CycleState) -> None:
    """A cycle goes from stage to stage to an end; when each began and ended is written down."""
    await add(store, arrival("a"))
    cycle = await open_cycle(store, fence)
    clock.advance(minutes=1)
    picks = [Picked(p.id, {}, None) for p in await pooled(store)]
    cycle = await store.cycles.fill(cycle.id, picks, fence=fence, figures={"selection": {"pool": 1}})
    for target in [*STAGES[2:], end]:
        clock.advance(minutes=1)
        cycle = await advance(store, cycle, fence, target)
    assert cycle.closed_at == START + timedelta(minutes=5)
    assert [entry["stage"] for entry in cycle.timeline] == [s.value for s in STAGES]
    minutes = [(START + timedelta(minutes=n)).isoformat() for n in range(6)]
    assert [(e["started_at"], e["ended_at"]) for e in cycle.timeline] == list(pairwise(minutes))
    assert await store.cycles.current() is None


@pytest.mark.parametrize("stage", STAGES)
async def test_failure(store: Store, fence: int, stage: CycleState) -> None:
    """A cycle can fail in any stage: it says why, its labels stay, what is undecided returns, and another can open."""
    cycle = await _in(store, fence, stage)
    failed = await store.cycles.advance(
        cycle.id, fence=fence, source=stage, target=CycleState.FAILED, reasons=[f"{stage}: OSError"]
    )
    assert (failed.state, failed.reasons) == (CycleState.FAILED, [f"{stage}: OSError"])
    assert (await store.pool.counts())[MessageState.PICKED] == 0
    labelled = 0 if stage is CycleState.SELECTING else 1
    assert (await store.pool.counts())[MessageState.LABELLED] == labelled
    assert await store.cycles.labels_spent() == labelled
    assert (await open_cycle(store, fence)).id != cycle.id


@pytest.mark.parametrize("stage", STAGES)
async def test_compare_and_set(store: Store, fence: int, stage: CycleState) -> None:
    """A cycle moves only from the stage the caller believes it is in."""
    cycle = await _in(store, fence, stage)
    for believed in STAGES:
        if believed is not stage:
            with pytest.raises(Conflict, match=f"Cycle {cycle.id} is {stage}, not {believed}"):
                await store.cycles.advance(cycle.id, fence=fence, source=believed, target=CycleState.FAILED)
    after = await store.cycles.get(cycle.id)
    assert after is not None
    assert after.state is stage


@pytest.mark.parametrize(("source", "target"), [("gating", "training"), ("labelling", "labelling"), ("held", "failed")])
async def test_never_back(store: Store, source: str, target: str) -> None:
    """A cycle goes forward, and from an end nowhere."""
    with pytest.raises(ValueError, match=f"does not go from {source} to {target}"):
        await store.cycles.advance(1, fence=1, source=CycleState(source), target=CycleState(target))


async def test_unknown_cycle(store: Store, fence: int) -> None:
    """A cycle that does not exist is not found."""
    assert await store.cycles.get(7) is None
    with pytest.raises(NotFound, match="no cycle 7"):
        await store.cycles.fill(7, [], fence=fence, figures={})


async def test_one_open(store: Store, fence: int) -> None:
    """As long as a cycle is open no other opens."""
    await open_cycle(store, fence)
    with pytest.raises(Conflict, match="open already"):
        await open_cycle(store, fence)


async def test_figures(store: Store, fence: int) -> None:
    """Figures are gathered by section; the challenger and the reasons are those given last."""
    cycle = await open_batch(store, fence, "a")
    cycle = await store.cycles.advance(
        cycle.id,
        fence=fence,
        source=CycleState.LABELLING,
        target=CycleState.GATING,
        figures={"labels": {"labelled": 1}},
        challenger="0002",
    )
    cycle = await store.cycles.advance(
        cycle.id, fence=fence, source=CycleState.GATING, target=CycleState.HELD, reasons=["recall fell", "flips"]
    )
    assert cycle.figures == {"selection": {"picked": 1}, "labels": {"labelled": 1}}
    assert (cycle.challenger, cycle.reasons) == ("0002", ["recall fell", "flips"])
    judged = await store.cycles.last_judged()
    assert judged is not None
    assert judged.id == cycle.id


# the batch


async def test_fill(store: Store, fence: int) -> None:
    """Filling hands out the picks in their order and takes them from the pool."""
    await add(store, arrival("a"), arrival("b"), arrival("c"))
    cycle = await open_cycle(store, fence)
    a, _, c = await pooled(store)
    await store.cycles.fill(cycle.id, [Picked(c.id, {}, 0.2), Picked(a.id, {}, 0.1)], fence=fence, figures={})
    assert [p.text for p in await pooled(store)] == ["b"]
    assert await store.cycles.undecided(cycle.id) == 2
    held = await store.review.next("ann")
    assert held is not None
    assert held.text == "c"


async def test_fill_with_what_is_left(store: Store, fence: int) -> None:
    """What was erased since it was chosen is not handed out, and the rest moves up."""
    await add(store, arrival("a", "ann"), arrival("b", "bob"))
    cycle = await open_cycle(store, fence)
    picks = [Picked(p.id, {}, None) for p in await pooled(store)]
    await store.pool.erase_user("ann")
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    assert await store.cycles.undecided(cycle.id) == 1


async def test_fill_twice(store: Store, fence: int) -> None:
    """A batch is handed out once."""
    cycle = await open_batch(store, fence, "a")
    with pytest.raises(Conflict, match="is labelling, not selecting"):
        await store.cycles.fill(cycle.id, [], fence=fence, figures={})


@pytest.mark.parametrize("target", [CycleState.GENERATING, CycleState.HELD])
async def test_undecided_return(store: Store, fence: int, target: CycleState) -> None:
    """When the time is up, what nobody decided about is in the pool again, even if somebody holds it, and can be picked."""
    cycle = await open_batch(store, fence, "a", "b", "c")
    await label_all(store, Category.SELF_HARM)
    await store.review.next("ann")
    await advance(store, cycle, fence, target)
    assert [p.text for p in await pooled(store)] == ["b", "c"]
    assert await store.cycles.undecided(cycle.id) == 0
    if target.ended:
        again = await open_batch(store, fence)
        assert await store.cycles.undecided(again.id) == 2


# the lease


async def test_lost_lease(store: Store, fence: int, clock: Clock) -> None:
    """A learner that lost its lease is refused whatever it wants to record, and nothing of it is recorded."""
    cycle = await open_batch(store, fence, "a")
    (pick_id,) = await label_all(store, Category.SELF_HARM)
    clock.advance(seconds=TTL.total_seconds())
    await learner(store, "learner-2")
    seed = Seed(pick_id, 1, "a", Category.SELF_HARM)
    for attempt in (
        lambda: open_cycle(store, fence),
        lambda: store.cycles.fill(cycle.id, [], fence=fence, figures={}),
        lambda: advance(store, cycle, fence, CycleState.GENERATING),
        lambda: store.variations.record(
            cycle.id, seed, ["x"], fence=fence, llm="m", template="t", fates={"accepted": 1}
        ),
        lambda: store.variations.freeze(cycle.id, fence=fence),
    ):
        await _refused(attempt)
    after = await store.cycles.get(cycle.id)
    assert after is not None
    assert (after.state, after.figures, after.frozen_at) == (CycleState.LABELLING, cycle.figures, None)
    assert await store.variations.count() == 0


async def _refused(attempt: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(Conflict, match="Another learner has taken over"):
        await attempt()


async def test_lease_that_nobody_took(store: Store, fence: int, clock: Clock) -> None:
    """A learner whose lease ran out goes on as long as no other has taken it."""
    clock.advance(hours=1)
    assert (await open_cycle(store, fence)).state is CycleState.SELECTING


async def test_no_lease(store: Store) -> None:
    """Without any lease nothing is recorded."""
    assert await store.leases.expires_at(LEARNER) is None
    await _refused(lambda: open_cycle(store, 1))


# reports


async def test_reports(store: Store, fence: int) -> None:
    """Cycles are listed newest first, counted by state, and their labels are summed over all of them."""
    for n in range(3):
        cycle = await open_batch(store, fence, f"text {n}")
        await label_all(store, Category.SELF_HARM)
        await advance(store, cycle, fence, CycleState.HELD if n else CycleState.FAILED)
    await open_cycle(store, fence)
    assert [c.id for c in await store.cycles.recent(2)] == [4, 3]
    counts = await store.cycles.counts()
    assert {s: n for s, n in counts.items() if n} == {CycleState.SELECTING: 1, CycleState.FAILED: 1, CycleState.HELD: 2}
    assert set(counts) == set(CycleState)
    assert await store.cycles.labels_spent() == 3


async def test_audits(store: Store, fence: int) -> None:
    """Each standing label of the audit stream says whether the verdict was right; other labels and doubts do not."""
    audits = [arrival(text, reason="audit", probability=0.1) for text in ("a", "b", "c", "d")]
    await add(store, *audits)
    cycle = await open_batch(store, fence, "e")
    right, wrong = Category.SELF_HARM, Category.LEGAL_ADVICE
    await label_all(store, right, wrong, None, wrong, wrong)
    assert await store.cycles.audits() == [(cycle.id, True), (cycle.id, False), (cycle.id, False)]
    await store.review.undo("ann")
    await store.review.undo("ann")
    assert await store.cycles.audits() == [(cycle.id, True), (cycle.id, False)]
