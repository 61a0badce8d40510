"""What people differ about: shown with every opinion, settled by an admin, and what is trained on and estimated from it."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from guard.errors import Conflict, NotFound
from guard.store import Store
from guard.store.pool import AUDIT
from guard.store.rows import Cycle, Label
from guard.store.states import CycleState, Deed, MessageState, PickState
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import advance, open_cycle
from tests.guard.store.test_opinions import CLEAR, CONTESTED, LEGAL, SELF_HARM, batch, say, settled, staff, state_of

CLOSED = (PickState.CONTESTED, None, MessageState.CONTESTED)


async def _differ(store: Store, *, audit: bool = False) -> tuple[Cycle, int]:
    """Let ann and bob differ about the first of two messages."""
    await staff(store, "ann", "bob")
    cycle, fence = await batch(store, *[SELF_HARM] * 2, reason=AUDIT if audit else "uncertain")
    await say(store, 1, ann=LEGAL, bob=CLEAR)
    return cycle, fence


async def _settle(store: Store, category: Category | None = CLEAR, key: str = "k", pick_id: int = 1) -> int:
    return await store.conflicts.adjudicate(pick_id, adjudicator="ada", category=category, idempotency_key=key)


async def _training(store: Store, fence: int) -> dict[int, Category]:
    """Open a cycle, freeze its data set and return what is in it."""
    cycle = await open_cycle(store, fence)
    await store.variations.freeze(cycle.id, fence=fence)
    rows = await store.variations.snapshot(cycle.id)
    await advance(store, cycle, fence, CycleState.HELD)
    return {row.message_id: row.category for row in rows}


async def test_shown(store: Store, clock: Clock) -> None:
    """A conflict has its text and each opinion with who gave it and when; of the open batch it is shown only on demand."""
    cycle, fence = await _differ(store, audit=True)
    (found,) = await store.conflicts.contested(9)
    assert (found.pick_id, found.text, found.audit, found.open, found.asked) == (1, "text 0", True, True, False)
    assert [(o.reviewer, o.category, o.decided_at) for o in found.opinions] == [
        ("ann", LEGAL, START),
        ("bob", CLEAR, START),
    ]
    assert await store.conflicts.contested(9, open_too=False) == []
    assert (await store.conflicts.count(), await store.conflicts.count(open_too=False)) == (1, 0)
    await advance(store, cycle, fence, CycleState.GENERATING)
    (found,) = await store.conflicts.contested(9, open_too=False)
    assert found.open is False
    assert await store.conflicts.contested(0) == []


async def test_settled(store: Store) -> None:
    """An admin's decision settles a pick whatever people said; it is no opinion, costs a label, and is in the ledger."""
    cycle, _ = await _differ(store)
    label_id = await _settle(store, SELF_HARM)
    assert await state_of(store) == settled(SELF_HARM)
    assert await store.cycles.labels_spent() == 3
    assert await store.cycles.undecided(cycle.id) == 1
    (line,) = await store.ledger.recent(1)
    assert (line.actor, line.deed, line.subject) == ("ada", Deed.ADJUDICATED, "pick 1")
    assert line.detail == {"label": label_id, "category": "self-harm"}
    assert await _settle(store, SELF_HARM) == label_id, "sent again"
    assert await store.cycles.labels_spent() == 3
    with pytest.raises(Conflict, match="used for another decision"):
        await _settle(store, CLEAR)
    with pytest.raises(Conflict, match="not contested any more: it is labelled"):
        await _settle(store, CLEAR, key="l")
    with pytest.raises(NotFound):
        await _settle(store, key="m", pick_id=99)


async def test_nobody_can_tell(store: Store) -> None:
    """An admin may settle that nobody can tell."""
    await _differ(store)
    await _settle(store, None)
    assert await state_of(store) == (PickState.UNCLEAR, None, MessageState.UNCLEAR)


async def test_only_what_is_contested(store: Store) -> None:
    """What waits for its opinions is not settled over people's heads."""
    await _differ(store)
    with pytest.raises(Conflict, match="not contested any more: it is waiting"):
        await _settle(store, pick_id=2)


async def test_undo(store: Store) -> None:
    """A decision can be taken back, and the pick is contested again; a decision of others cannot."""
    await _differ(store)
    await _settle(store)
    with pytest.raises(NotFound, match="no decision of yours"):
        await store.conflicts.undo("ann")
    assert await store.conflicts.undoable("ada") == 1
    assert await store.conflicts.undo("ada") == 1
    assert await state_of(store) == CONTESTED
    assert (await store.cycles.labels_spent(), await store.conflicts.undoable("ada")) == (2, 0)
    with pytest.raises(Conflict, match="used for another decision"):
        await _settle(store)
    await _settle(store, key="l")
    assert await state_of(store) == settled(CLEAR)


async def test_opinions_stand_once_it_is_settled(store: Store) -> None:
    """An opinion about what an admin has settled cannot be taken back, and the page says why."""
    await _differ(store)
    await _settle(store)
    with pytest.raises(Conflict, match="An admin has settled pick 1 since"):
        await store.review.undo("bob")
    await store.conflicts.undo("ada")
    await store.review.undo("bob")
    await say(store, 1, bob=LEGAL)
    assert await state_of(store) == settled(LEGAL)


async def test_after_the_batch(store: Store, clock: Clock) -> None:
    """A conflict is outside the data sets until it is settled; what was frozen with it cannot be taken back."""
    cycle, fence = await _differ(store)
    await advance(store, cycle, fence, CycleState.GENERATING)
    await advance(store, cycle, fence, CycleState.HELD)
    assert await state_of(store) == CLOSED
    assert await _training(store, fence) == {}
    clock.advance(seconds=1)
    await _settle(store, SELF_HARM)
    await store.conflicts.undo("ada")
    assert await state_of(store) == CLOSED
    await _settle(store, SELF_HARM, key="l")
    assert await state_of(store) == settled(SELF_HARM)
    assert await _training(store, fence) == {1: SELF_HARM}
    assert await store.conflicts.undoable("ada") == 0
    with pytest.raises(NotFound, match="since the last data set was frozen"):
        await store.conflicts.undo("ada")


async def test_conflicts_are_not_kept_for_ever(store: Store, clock: Clock) -> None:
    """What nobody settles is deleted as early as what nobody has labelled."""
    cycle, fence = await _differ(store)
    await advance(store, cycle, fence, CycleState.HELD)
    clock.advance(days=31)
    await store.pool.expire(retention=timedelta(days=30), labelled_retention=timedelta(days=700))
    assert await store.conflicts.count() == 0


async def test_votes(store: Store) -> None:
    """Estimates take each opinion as a vote, and an admin's decision in the place of all of them."""
    await _differ(store)
    assert await store.entries.votes() == {1: [LEGAL, CLEAR]}
    await _settle(store, SELF_HARM)
    assert await store.entries.votes() == {1: [SELF_HARM]}
    await store.conflicts.undo("ada")
    await _settle(store, None, key="l")
    assert await store.entries.votes() == {}
    assert await store.entries.reviewed(START - timedelta(days=1), START + timedelta(days=1)) == []


async def test_doubled(store: Store) -> None:
    """Figures rest on the first two opinions about messages that two were asked about from the outset."""
    await staff(store, "ann", "bob", "cyd")
    await batch(store, SELF_HARM, LEGAL, SELF_HARM, SELF_HARM)
    await say(store, 1, bob=LEGAL, ann=CLEAR, cyd=CLEAR)
    await say(store, 2, ann=SELF_HARM, bob=SELF_HARM)  # the second was asked because of the first
    await say(store, 3, ann=SELF_HARM)
    await say(store, 4, ann=CLEAR, cyd=LEGAL)
    found = await store.conflicts.doubled()
    assert [([(o.reviewer, o.category) for o in d.opinions], d.settled, d.category) for d in found] == [
        ([("ann", CLEAR), ("cyd", LEGAL)], False, None),
        ([("bob", LEGAL), ("ann", CLEAR)], True, CLEAR),
    ]


async def test_adjudicator_may_have_labelled(store: Store) -> None:
    """An admin who is one of those who differ may settle it all the same; the opinion and the decision both stand."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM)
    await say(store, 1, ada=LEGAL, ann=CLEAR)
    await _settle(store)
    async with store.database.read() as session:
        theirs = select(Label.category, Label.adjudicates).where(Label.reviewer == "ada", Label.undone_at.is_(None))
        assert sorted((await session.execute(theirs)).tuples()) == [(LEGAL, False), (CLEAR, True)]
    assert await state_of(store) == settled(CLEAR)
