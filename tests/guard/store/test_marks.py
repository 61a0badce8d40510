"""Flags, handing on, going back, and whether scores were shown: what a reviewer does beside labelling."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from guard.errors import Conflict, NotFound
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.pool import AUDIT
from guard.store.review import UNDOABLE
from guard.store.rows import Label, PickMark
from guard.store.states import CycleState
from guard.taxonomy import Category
from tests.guard.store.scenes import add, advance, arrival, label_all, open_batch, open_cycle, pooled


async def test_flag(store: Store, fence: int) -> None:
    """A flag is the reviewer's own, is shown with the message, and comes off the same way."""
    await open_batch(store, fence, "one")
    held = await store.review.next("ann")
    assert held is not None
    assert not held.flagged
    assert await store.marks.flag(held.pick_id, "ann")
    again = await store.review.next("ann")
    assert again is not None
    assert again.flagged
    assert await store.marks.flag(held.pick_id, "ben")
    assert not await store.marks.flag(held.pick_id, "ann")
    await label_all(store, None)
    assert await store.marks.flag(held.pick_id, "ann"), "after the decision, too"


async def test_handed_on(store: Store, fence: int) -> None:
    """What is handed on goes to others at once and never comes back to whoever handed it on."""
    await open_batch(store, fence, "one", "two")
    held = await store.review.next("ann")
    assert held is not None
    await store.marks.hand_on(held.pick_id, "ann")
    assert await store.marks.handed_on("ann") == 1
    assert await store.marks.handed_on("ben") == 0
    (second,) = await label_all(store, None)
    assert second != held.pick_id
    assert await store.review.next("ann") is None
    other = await store.review.next("ben")
    assert other is not None
    assert other.pick_id == held.pick_id
    with pytest.raises(Conflict, match="held by another"):
        await store.marks.hand_on(held.pick_id, "ann")
    await label_all(store, Category.SELF_HARM, reviewer="ben")
    assert await store.marks.handed_on("ann") == 0


async def test_handed_on_back_in_the_pool(store: Store, fence: int) -> None:
    """What everybody handed on goes back into the pool when the batch is closed."""
    cycle = await open_batch(store, fence, "one")
    held = await store.review.next("ann")
    assert held is not None
    await store.marks.hand_on(held.pick_id, "ann")
    await advance(store, cycle, fence, CycleState.GENERATING)
    assert [p.text for p in await pooled(store)] == ["one"]
    assert await store.marks.handed_on("ann") == 0
    with pytest.raises(Conflict, match="closed"):
        await store.marks.hand_on(held.pick_id, "ann")


async def test_marks_go_with_the_message(store: Store, fence: int) -> None:
    """Erasing the user of a message erases its marks."""
    await open_batch(store, fence, "one", user="ada")
    held = await store.review.next("ann")
    assert held is not None
    await store.marks.flag(held.pick_id, "ann")
    await store.pool.erase_user("ada")
    async with store.database.read() as session:
        assert (await session.scalars(select(PickMark))).all() == []
    for mark in (store.marks.flag(held.pick_id, "ann"), store.marks.hand_on(held.pick_id, "ann")):
        with pytest.raises(NotFound, match="erased"):
            await mark


async def test_undo_ten(store: Store, fence: int) -> None:
    """The last ten messages can be undone one after the other, the latest first, and no further."""
    await open_batch(store, fence, *(f"message {n}" for n in range(UNDOABLE + 2)))
    picks = await label_all(store, *[Category.NOT_HARMFUL] * (UNDOABLE + 2))
    assert await store.review.undoable("ann") == UNDOABLE
    assert await store.review.undoable("ben") == 0
    undone = [await store.review.undo("ann") for _ in range(UNDOABLE)]
    assert undone == picks[:1:-1]
    assert await store.review.undoable("ann") == 0
    with pytest.raises(NotFound, match="last 10"):
        await store.review.undo("ann")


async def test_undo_counts_messages(store: Store, fence: int) -> None:
    """Changing one's mind about one message again and again uses up one of the ten."""
    await open_batch(store, fence, "one", "two")
    first, _ = await label_all(store, Category.NOT_HARMFUL, Category.NOT_HARMFUL)
    for _ in range(UNDOABLE + 1):
        await store.review.undo("ann")
        await label_all(store, None)
    assert await store.review.undoable("ann") == 2
    await store.review.undo("ann")
    assert await store.review.undo("ann") == first


async def test_scores_shown(store: Store, fence: int) -> None:
    """A label remembers whether the model's scores were before the reviewer: of picks they were, of audits not."""
    await add(store, arrival("picked"), replace(arrival("audited"), reason=AUDIT))
    cycle = await open_cycle(store, fence)
    picks = [Picked(message.id, {}, 0.5) for message in await pooled(store)]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    await label_all(store, Category.SELF_HARM, Category.SELF_HARM)
    async with store.database.read() as session:
        assert list(await session.scalars(select(Label.scores_shown).order_by(Label.id))) == [True, False]


async def test_label_and_next(store: Store, fence: int) -> None:
    """Labelling and leasing the next are one: what is refused leases nothing, what is repeated labels once."""
    await open_batch(store, fence, "one", "two")
    held = await store.review.next("ann")
    assert held is not None
    following, again = [
        await store.review.label_and_next(
            held.pick_id, reviewer="ann", category=Category.SELF_HARM, idempotency_key="key"
        )
        for _ in range(2)
    ]
    assert following is not None
    assert again is not None
    assert following.text == again.text == "two"
    with pytest.raises(Conflict, match="decided already"):
        await store.review.label_and_next(held.pick_id, reviewer="ben", category=None, idempotency_key="other")
    batch = await store.review.batch()
    assert batch is not None
    assert (batch.labelled, batch.held) == (1, 1)
    assert (
        await store.review.label_and_next(following.pick_id, reviewer="ann", category=None, idempotency_key="2") is None
    )
