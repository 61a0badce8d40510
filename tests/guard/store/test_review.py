"""The labelling batch: who holds which message, what people decided, and how they change their minds."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from guard.errors import Conflict, NotFound
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.rows import Label, Message, Pick
from guard.store.states import CycleState, MessageState, PickState
from guard.taxonomy import CATEGORIES, Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import SCORES, add, advance, arrival, label_all, open_batch, open_cycle, pooled

LEASE_S = 600


async def _held(store: Store, reviewer: str) -> str | None:
    held = await store.review.next(reviewer)
    return None if held is None else held.text


async def _label(store: Store, pick_id: int, reviewer: str = "ann", key: str | None = None) -> int:
    return await store.review.label(pick_id, reviewer=reviewer, category=Category.MEDICAL_ADVICE, idempotency_key=key)


async def _spent(store: Store) -> int:
    return await store.cycles.labels_spent()


async def _standing(store: Store) -> list[tuple[int, str, Category | None]]:
    async with store.database.read() as session:
        rows = await session.scalars(select(Label).where(Label.undone_at.is_(None)).order_by(Label.id))
        return [(row.pick_id, row.reviewer, row.category) for row in rows]


# holding


async def test_next(store: Store, fence: int) -> None:
    """A reviewer gets a message with its text, why it was picked and what the model thought."""
    cycle = await open_batch(store, fence, "my landlord")
    held = await store.review.next("ann")
    assert held is not None
    assert (held.text, held.cycle_id, held.reason, held.model_version) == (
        "my landlord",
        cycle.id,
        {"cluster": 0},
        "0001",
    )
    assert held.scores == dict(zip(CATEGORIES, SCORES, strict=True))
    assert held.leased_until == START + timedelta(seconds=LEASE_S)


async def test_nothing_to_hold(store: Store, fence: int) -> None:
    """Without a cycle, before its batch is handed out and when all is decided, there is nothing."""
    assert await _held(store, "ann") is None
    await add(store, arrival("a"))
    cycle = await open_cycle(store, fence)
    assert await _held(store, "ann") is None
    picks = [Picked(p.id, {}, None) for p in await pooled(store)]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    await label_all(store, Category.SELF_HARM)
    assert await _held(store, "ann") is None


async def test_in_the_order_of_the_picks(store: Store, fence: int) -> None:
    """Messages are handed out in the order in which they were picked, not that of their arrival."""
    await add(store, arrival("first"), arrival("second"), arrival("third"))
    cycle = await open_cycle(store, fence)
    first, second, third = await pooled(store)
    picks = [Picked(p.id, {}, 0.1) for p in (third, first, second)]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    assert [await _held(store, name) for name in ("ann", "bob", "cyd")] == ["third", "first", "second"]


async def test_never_two(store: Store, fence: int) -> None:
    """Two people never hold the same message, and who asks again gets the one they hold."""
    await open_batch(store, fence, "a", "b")
    assert [await _held(store, n) for n in ("ann", "bob", "cyd", "ann", "bob")] == ["a", "b", None, "a", "b"]


async def test_lease_runs_out(store: Store, fence: int, clock: Clock) -> None:
    """A message whose holder stays away goes to the next who asks, in its place in the order."""
    await open_batch(store, fence, "a", "b", "c")
    await _held(store, "ann")
    clock.advance(seconds=LEASE_S - 1)
    assert await _held(store, "bob") == "b"
    clock.advance(seconds=1)
    assert await _held(store, "cyd") == "a"
    assert await _held(store, "ann") == "c"


async def test_fresh_before_returned(store: Store, fence: int, clock: Clock) -> None:
    """A lease that ran out gives a message no precedence over those before it that nobody ever held."""
    await open_batch(store, fence, "a", "b", "c")
    picks = [await store.review.next(n) for n in ("ann", "bob")]
    assert picks[0] is not None
    await _label(store, picks[0].pick_id)
    await store.review.undo("ann")
    clock.advance(seconds=LEASE_S)
    assert [await _held(store, n) for n in ("dan", "eve", "fay")] == ["a", "b", "c"]


async def test_asking_prolongs(store: Store, fence: int, clock: Clock) -> None:
    """Who asks again holds the message for another full time."""
    await open_batch(store, fence, "a")
    for _ in range(3):
        assert await _held(store, "ann") == "a"
        clock.advance(seconds=LEASE_S - 1)
    assert await _held(store, "bob") is None


# labelling


@pytest.mark.parametrize("category", [*CATEGORIES, None])
async def test_label(store: Store, fence: int, category: Category | None) -> None:
    """A decision is recorded with who made it and when, counts once, and takes the message out of the batch."""
    cycle = await open_batch(store, fence, "a")
    (pick_id,) = await label_all(store, category)
    state = (
        (PickState.UNCLEAR, MessageState.UNCLEAR) if category is None else (PickState.LABELLED, MessageState.LABELLED)
    )
    async with store.database.read() as session:
        pick = await session.get_one(Pick, pick_id)
        message = await session.get_one(Message, pick.message_id)
        label = (await session.scalars(select(Label))).one()
    assert (pick.state, message.state) == state
    assert (pick.leased_by, pick.leased_until) == (None, None)
    assert (label.category, label.reviewer, label.decided_at, label.undone_at) == (category, "ann", START, None)
    assert await _spent(store) == 1
    assert await store.cycles.undecided(cycle.id) == 0
    assert {c: n for c, n in (await store.review.label_counts()).items() if n} == {category: 1}


async def test_unknown_pick(store: Store, fence: int) -> None:
    """A pick that does not exist cannot be labelled."""
    await open_batch(store, fence, "a")
    with pytest.raises(NotFound, match="no pick 99"):
        await _label(store, 99)


async def test_held_by_another(store: Store, fence: int, clock: Clock) -> None:
    """What somebody else holds cannot be labelled; the refusal says until when, and not by whom."""
    await open_batch(store, fence, "a")
    held = await store.review.next("ann")
    assert held is not None
    with pytest.raises(Conflict, match=r"held by another reviewer until 12:10:00 UTC") as caught:
        await _label(store, held.pick_id, "bob")
    assert "ann" not in str(caught.value)
    clock.advance(seconds=LEASE_S)
    await _label(store, held.pick_id, "bob")


async def test_late_label(store: Store, fence: int, clock: Clock) -> None:
    """Whose time ran out may still decide, as long as nobody else has the message."""
    await open_batch(store, fence, "a", "b")
    first = await store.review.next("ann")
    assert first is not None
    clock.advance(seconds=LEASE_S)
    await _label(store, first.pick_id)
    second = await store.review.next("ann")
    assert second is not None
    clock.advance(seconds=LEASE_S)
    await store.review.next("bob")
    with pytest.raises(Conflict, match="held by another"):
        await _label(store, second.pick_id)


async def test_decided_already(store: Store, fence: int) -> None:
    """What is decided stays decided, whoever comes second, and counts once."""
    await open_batch(store, fence, "a")
    (pick_id,) = await label_all(store, Category.SELF_HARM)
    for reviewer in ("ann", "bob"):
        with pytest.raises(Conflict, match="decided already: undo"):
            await _label(store, pick_id, reviewer)
    assert await _spent(store) == 1


async def test_closed_batch(store: Store, fence: int) -> None:
    """After the batch is closed nothing can be held, labelled or undone in it."""
    cycle = await open_batch(store, fence, "a", "b")
    await label_all(store, Category.SELF_HARM)
    held = await store.review.next("ann")
    assert held is not None
    await advance(store, cycle, fence, CycleState.GENERATING)
    assert await _held(store, "ann") is None
    with pytest.raises(Conflict, match=f"batch of cycle {cycle.id} is closed"):
        await _label(store, held.pick_id)
    with pytest.raises(NotFound, match="no decision of yours"):
        await store.review.undo("ann")


# idempotency


async def test_same_key(store: Store, fence: int) -> None:
    """A label that is sent again with its key is the label that was made, even after the batch was closed."""
    cycle = await open_batch(store, fence, "a")
    held = await store.review.next("ann")
    assert held is not None
    label_id = await _label(store, held.pick_id, key="k")
    assert await _label(store, held.pick_id, key="k") == label_id
    await advance(store, cycle, fence, CycleState.GENERATING)
    assert await _label(store, held.pick_id, key="k") == label_id
    assert await _spent(store) == 1
    assert len(await _standing(store)) == 1


async def test_key_of_another_label(store: Store, fence: int) -> None:
    """A key that stands for another pick, category or reviewer is refused."""
    await open_batch(store, fence, "a", "b")
    first, second = await store.review.next("ann"), await store.review.next("bob")
    assert first is not None
    assert second is not None
    await _label(store, first.pick_id, key="k")
    with pytest.raises(Conflict, match="key was used for another"):
        await _label(store, second.pick_id, "bob", key="k")
    with pytest.raises(Conflict, match="key was used for another"):
        await store.review.label(first.pick_id, reviewer="ann", category=None, idempotency_key="k")
    assert await _spent(store) == 1


async def test_key_of_an_undone_label(store: Store, fence: int) -> None:
    """A label that was undone does not come back when its request arrives a second time."""
    await open_batch(store, fence, "a")
    held = await store.review.next("ann")
    assert held is not None
    await _label(store, held.pick_id, key="k")
    await store.review.undo("ann")
    with pytest.raises(Conflict, match="was undone: send a new one"):
        await _label(store, held.pick_id, key="k")
    await _label(store, held.pick_id, key="l")
    assert len(await _standing(store)) == 1


# undoing


async def test_undo(store: Store, fence: int) -> None:
    """Taking back a decision makes it unspent and holds the message again, for the same person."""
    await open_batch(store, fence, "a", "b")
    (pick_id,) = await label_all(store, Category.SELF_HARM)
    assert await store.review.undo("ann") == pick_id
    assert (await _spent(store), await _standing(store)) == (0, [])
    assert [await _held(store, n) for n in ("bob", "ann")] == ["b", "a"]
    assert (await store.pool.counts())[MessageState.PICKED] == 2


async def test_undo_cannot_tell(store: Store, fence: int) -> None:
    """A "can't tell" can be taken back too."""
    await open_batch(store, fence, "a")
    await label_all(store, None)
    await store.review.undo("ann")
    await label_all(store, Category.LEGAL_ADVICE)
    assert [c for _, _, c in await _standing(store)] == [Category.LEGAL_ADVICE]


async def test_undo_ten_times(store: Store, fence: int) -> None:
    """Repeated, undoing goes back decision by decision, latest first, and then there is nothing left to undo."""
    await open_batch(store, fence, *(f"text {n}" for n in range(12)))
    picks = await label_all(store, *[Category.SELF_HARM] * 10)
    assert [await store.review.undo("ann") for _ in picks] == picks[::-1]
    with pytest.raises(NotFound, match="no decision of yours"):
        await store.review.undo("ann")
    assert await _spent(store) == 0
    assert await label_all(store, *[None] * 10) == picks
    assert await _spent(store) == 10


async def test_undone_comes_first(store: Store, fence: int, clock: Clock) -> None:
    """What was taken back is the next message, before the one that was held when it was."""
    await open_batch(store, fence, "a", "b", "c")
    await _held(store, "bob")
    clock.advance(seconds=LEASE_S)
    assert await label_all(store, Category.SELF_HARM, None, Category.SELF_HARM) == [1, 2, 3]
    await store.review.undo("ann")
    clock.advance(seconds=1)
    await store.review.undo("ann")
    assert await _held(store, "ann") == "b"


async def test_undo_is_ones_own(store: Store, fence: int) -> None:
    """Nobody takes back what another decided, nor what was decided in an earlier cycle."""
    cycle = await open_batch(store, fence, "a")
    await label_all(store, Category.SELF_HARM, reviewer="ann")
    with pytest.raises(NotFound):
        await store.review.undo("bob")
    await advance(store, cycle, fence, CycleState.HELD)
    await open_batch(store, fence, "b")
    with pytest.raises(NotFound):
        await store.review.undo("ann")


# status


async def test_batch(store: Store, fence: int, clock: Clock) -> None:
    """The status says how many are labelled, unclear, held and waiting, of the latest batch, open or not."""
    assert await store.review.batch() is None
    cycle = await open_batch(store, fence, "a", "b", "c", "d")
    await label_all(store, Category.SELF_HARM, None)
    await _held(store, "bob")
    batch = await store.review.batch()
    assert batch is not None
    assert (batch.cycle_id, batch.state, batch.strategy) == (cycle.id, CycleState.LABELLING, "cluster")
    assert (batch.size, batch.labelled, batch.unclear, batch.held, batch.waiting) == (4, 1, 1, 1, 2)
    assert batch.due_at - batch.opened_at == timedelta(days=3)
    clock.advance(seconds=LEASE_S)
    batch = await store.review.batch()
    assert batch is not None
    assert batch.held == 0
    await advance(store, cycle, fence, CycleState.GENERATING)
    batch = await store.review.batch()
    assert batch is not None
    assert (batch.state, batch.size, batch.waiting, batch.held) == (CycleState.GENERATING, 4, 2, 0)


async def test_label_counts(store: Store, fence: int) -> None:
    """Standing labels are counted by category over all cycles, undone ones not."""
    cycle = await open_batch(store, fence, "a", "b")
    await label_all(store, Category.SELF_HARM, Category.SELF_HARM)
    await advance(store, cycle, fence, CycleState.HELD)
    await open_batch(store, fence, "c", "d", "e")
    await label_all(store, Category.LEGAL_ADVICE, None, Category.SELF_HARM)
    await store.review.undo("ann")
    assert await store.review.label_counts() == {Category.SELF_HARM: 2, Category.LEGAL_ADVICE: 1, None: 1}
    assert await _spent(store) == 4
