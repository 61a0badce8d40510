"""Several opinions about one message: who is asked, when it is settled, and what becomes of it when somebody leaves."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from guard.errors import Conflict
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.cycles import Picked
from guard.store.pool import AUDIT, UNCERTAIN
from guard.store.rows import Cycle, Label, Message, Pick
from guard.store.states import CycleState, MessageState, PickState, Role
from guard.taxonomy import Category
from tests.conftest import Clock
from tests.guard.store.scenes import add, advance, arrival, label_all, learner, open_cycle, pooled

SELF_HARM, LEGAL, CLEAR, MEDICAL = (
    Category.SELF_HARM,
    Category.LEGAL_ADVICE,
    Category.NOT_HARMFUL,
    Category.MEDICAL_ADVICE,
)
LEASE_S = 600


async def staff(store: Store, *names: str, role: Role = Role.REVIEWER) -> None:
    """Make accounts."""
    for name in names:
        await store.reviewers.add(name, role, "hash")


async def batch(store: Store, *verdicts: Category, reason: str = UNCERTAIN) -> tuple[Cycle, int]:
    """Open a batch of a message for each verdict, and return its cycle and the fence."""
    fence = await learner(store)
    arrivals = [replace(arrival(f"text {n}", reason=reason), category=verdict) for n, verdict in enumerate(verdicts)]
    await add(store, *arrivals)
    cycle = await open_cycle(store, fence)
    picks = [Picked(message.id, {}, 0.5) for message in await pooled(store)]
    return await store.cycles.fill(cycle.id, picks, fence=fence, figures={}), fence


async def say(store: Store, pick_id: int, **opinions: Category | None) -> None:
    """Record opinions about a pick, each by whom it is named after."""
    for reviewer, category in opinions.items():
        await store.review.label(pick_id, reviewer=reviewer, category=category)


async def state_of(store: Store, pick_id: int = 1) -> tuple[PickState, Category | None, MessageState]:
    """Return what a pick is, and its message."""
    async with store.database.read() as session:
        pick = await session.get_one(Pick, pick_id)
        return pick.state, pick.category, (await session.get_one(Message, pick.message_id)).state


async def _asked(store: Store, *names: str) -> list[bool]:
    return [await store.review.next(name) is not None for name in names]


WAITING = (PickState.WAITING, None, MessageState.PICKED)
CONTESTED = (PickState.CONTESTED, None, MessageState.PICKED)


def settled(category: Category) -> tuple[PickState, Category, MessageState]:
    """Return what a pick settled as a category is."""
    return PickState.LABELLED, category, MessageState.LABELLED


# asking


@pytest.mark.parametrize(
    ("verdict", "reason", "times"),
    [
        (LEGAL, UNCERTAIN, 1),
        (SELF_HARM, UNCERTAIN, 2),
        (Category.EMERGENCY_SITUATION, UNCERTAIN, 2),
        (CLEAR, AUDIT, 2),
    ],
)
async def test_how_often(store: Store, verdict: Category, reason: str, times: int) -> None:
    """Audits and what the guard takes for self-harm or an emergency are asked of two, anything else of one."""
    await staff(store, "ann", "bob", "cyd")
    cycle, _ = await batch(store, verdict, reason=reason)
    async with store.database.read() as session:
        assert list(await session.scalars(select(Pick.wanted))) == [times]
    for name in ("ann", "bob")[:times]:
        assert await store.cycles.undecided(cycle.id) == 1
        await label_all(store, LEGAL, reviewer=name)
    assert await state_of(store) == settled(LEGAL)
    assert await _asked(store, "ann", "bob", "cyd") == [False, False, False]
    assert await store.cycles.labels_spent() == times


async def test_grave_opinion(store: Store) -> None:
    """Whoever takes a message for self-harm is asked to be confirmed, though the guard saw nothing in it."""
    await staff(store, "ann", "bob")
    await batch(store, LEGAL)
    await say(store, 1, ann=SELF_HARM)
    assert await state_of(store) == WAITING
    assert await _asked(store, "ann", "bob") == [False, True]
    await say(store, 1, bob=SELF_HARM)
    assert await state_of(store) == settled(SELF_HARM)


@pytest.mark.parametrize("names", [(), ("ann",)])
async def test_alone(store: Store, names: Sequence[str]) -> None:
    """Where there is nobody else everything is labelled once."""
    await staff(store, *names)
    await staff(store, "ada", role=Role.ADMIN)
    await store.keys.create("chatbot", Role.CLIENT)
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    assert await state_of(store) == settled(SELF_HARM)


async def test_keys_are_people_too(store: Store) -> None:
    """A reviewer who comes by a key counts like one with an account."""
    await staff(store, "ann")
    await store.keys.create("bob", Role.REVIEWER)
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    assert await state_of(store) == WAITING


async def test_overlap_of_one(store_settings: GuardSettings, store: Store, clock: Clock) -> None:
    """With GUARD_OVERLAP at 1 everything is labelled once, though others are there."""
    await staff(store, "ann", "bob")
    async with open_store(store_settings.model_copy(update={"overlap": 1}), clock=clock) as once:
        await batch(once, SELF_HARM)
        await say(once, 1, ann=SELF_HARM)
        assert await state_of(once) == settled(SELF_HARM)


async def test_never_twice_the_same(store: Store) -> None:
    """Who has given an opinion is neither asked again nor heard again, and the database would refuse it."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM, LEGAL)
    await label_all(store, LEGAL, reviewer="ann")
    held = await store.review.next("ann")
    assert held is not None
    assert held.pick_id == 2
    with pytest.raises(Conflict, match="decided already: undo"):
        await say(store, 1, ann=CLEAR)
    with pytest.raises(IntegrityError):
        await _copy_first(store)


async def _copy_first(store: Store) -> None:
    async with store.database.write() as session:
        first = await session.get_one(Label, 1)
        same = {name: getattr(first, name) for name in ("pick_id", "message_id", "reviewer", "decided_at")}
        session.add(Label(**same, category=CLEAR, undone_at=None))


async def test_one_at_a_time(store: Store, clock: Clock) -> None:
    """A message is before one of its reviewers at a time."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM)
    assert await _asked(store, "ann", "bob") == [True, False]
    clock.advance(seconds=LEASE_S)
    assert await _asked(store, "bob", "ann") == [True, False]


# differing


async def test_a_third_decides(store: Store) -> None:
    """When two differ a third is asked, and the majority settles it."""
    await staff(store, "ann", "bob", "cyd")
    cycle, _ = await batch(store, SELF_HARM)
    await say(store, 1, ann=LEGAL, bob=CLEAR)
    assert await state_of(store) == CONTESTED
    assert await store.cycles.undecided(cycle.id) == 1
    assert await _asked(store, "ann", "bob", "cyd") == [False, False, True]
    await say(store, 1, cyd=CLEAR)
    assert await state_of(store) == settled(CLEAR)
    assert await store.review.label_counts() == {CLEAR: 1}


async def test_three_ways(store: Store) -> None:
    """Three different opinions stay contested: no fourth is asked for or taken."""
    await staff(store, "ann", "bob", "cyd", "dan")
    await batch(store, SELF_HARM)
    await say(store, 1, ann=LEGAL, bob=CLEAR, cyd=None)
    assert await state_of(store) == CONTESTED
    assert await _asked(store, "dan") == [False]
    with pytest.raises(Conflict, match="no further opinion: an admin settles it"):
        await say(store, 1, dan=CLEAR)


async def test_admins_adjudicate(store: Store) -> None:
    """An admin, who sees what others said, gives no third opinion; before others have spoken they label like anybody."""
    await staff(store, "ann", "bob", "cyd")
    await staff(store, "ada", role=Role.ADMIN)
    await batch(store, SELF_HARM, SELF_HARM)
    await say(store, 1, ann=LEGAL, bob=CLEAR)
    held = await store.review.next("ada")
    assert held is not None
    assert held.pick_id == 2
    with pytest.raises(Conflict, match="an admin settles it"):
        await say(store, 1, ada=CLEAR)
    await say(store, 2, ada=CLEAR, bob=LEGAL)
    with pytest.raises(Conflict, match="settle it at /review/agreement"):
        await store.review.undo("ada")


# leaving


async def test_revoked(store: Store) -> None:
    """Nothing waits for somebody who was revoked: what they were asked for is settled by what there is."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM, SELF_HARM, LEGAL)
    await say(store, 1, ann=SELF_HARM)
    await say(store, 3, ann=LEGAL)
    await store.reviewers.revoke("bob")
    assert await state_of(store, 1) == settled(SELF_HARM)
    assert await state_of(store, 2) == WAITING
    await say(store, 2, ann=CLEAR)
    assert await state_of(store, 2) == settled(CLEAR)


async def test_revoked_key(store: Store) -> None:
    """The same holds for a key."""
    await staff(store, "ann", "bob")
    await store.keys.create("cyd", Role.REVIEWER)
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM, bob=CLEAR)
    await store.keys.revoke("cyd")
    assert await state_of(store) == CONTESTED
    async with store.database.read() as session:
        assert list(await session.scalars(select(Pick.wanted))) == [2]


async def test_revoked_after_labelling(store: Store) -> None:
    """What somebody said before they were revoked stands, and others are still asked beside it."""
    await staff(store, "ann", "bob", "cyd")
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    await store.reviewers.revoke("ann")
    assert await state_of(store) == WAITING
    await say(store, 1, bob=SELF_HARM)
    assert await state_of(store) == settled(SELF_HARM)


async def test_handed_on_by_all_others(store: Store) -> None:
    """When everybody else hands a message on, it is settled by those who did not."""
    await staff(store, "ann", "bob", "cyd")
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    await store.marks.hand_on(1, "bob")
    assert await state_of(store) == WAITING
    await store.marks.hand_on(1, "cyd")
    assert await state_of(store) == settled(SELF_HARM)


async def test_handed_on_by_everybody(store: Store) -> None:
    """What nobody wants stays in the batch for whoever comes."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM)
    for name in ("ann", "bob"):
        await store.marks.hand_on(1, name)
    assert await state_of(store) == WAITING
    await staff(store, "cyd")
    assert await _asked(store, "cyd") == [True]


async def test_newcomer(store: Store) -> None:
    """Whoever joins is asked about what is labelled from then on, not about what is settled."""
    await staff(store, "ann")
    await batch(store, SELF_HARM, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    await staff(store, "bob")
    await say(store, 2, ann=SELF_HARM)
    assert [(await state_of(store, n))[0] for n in (1, 2)] == [PickState.LABELLED, PickState.WAITING]
    held = await store.review.next("bob")
    assert held is not None
    assert held.pick_id == 2


# undoing


async def test_undo_of_one_opinion(store: Store) -> None:
    """Taking back one of two opinions leaves the other, and the message comes back to whoever took theirs back."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM, bob=SELF_HARM)
    assert await store.review.undo("ann") == 1
    assert await state_of(store) == WAITING
    assert await store.cycles.labels_spent() == 1
    assert await _asked(store, "bob", "ann") == [False, True]
    await say(store, 1, ann=LEGAL)
    assert await state_of(store) == CONTESTED
    await store.review.undo("bob")
    await say(store, 1, bob=LEGAL)
    assert await state_of(store) == settled(LEGAL)


async def test_undo_of_a_third(store: Store) -> None:
    """Taking back one of three opinions settles the message where the others agree, and it is not held again."""
    await staff(store, "ann", "bob", "cyd")
    await batch(store, SELF_HARM)
    await say(store, 1, ann=LEGAL, bob=CLEAR, cyd=CLEAR)
    await store.review.undo("ann")
    assert await state_of(store) == settled(CLEAR)
    assert await _asked(store, "ann") == [False]


async def test_undo_leaves_anothers_hold_alone(store: Store) -> None:
    """Who takes back an opinion waits for whoever has the message before them just then."""
    await staff(store, "ann", "bob")
    await batch(store, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    assert await _asked(store, "bob") == [True]
    await store.review.undo("ann")
    assert await _asked(store, "ann", "bob") == [False, True]
    await say(store, 1, bob=CLEAR)
    assert await _asked(store, "ann") == [True]


# how far


async def test_batch(store: Store) -> None:
    """The batch says how much is settled, contested and begun, and each how much of theirs waits for others."""
    await staff(store, "ann", "bob", "cyd")
    await batch(store, SELF_HARM, SELF_HARM, SELF_HARM, LEGAL, LEGAL)
    await say(store, 1, ann=SELF_HARM, bob=SELF_HARM)
    await say(store, 2, ann=SELF_HARM, bob=LEGAL)
    await say(store, 3, ann=None)
    await say(store, 4, bob=None)
    found = await store.review.batch()
    assert found is not None
    assert (found.size, found.labelled, found.unclear, found.contested) == (5, 1, 1, 1)
    assert (found.waiting, found.begun) == (2, 1)
    assert [await store.review.left_to_others(name) for name in ("ann", "bob", "cyd")] == [2, 1, 0]


async def test_time_is_up(store: Store) -> None:
    """When the batch is closed one opinion is enough, differences stay open, and what has none goes back."""
    await staff(store, "ann", "bob", "cyd")
    cycle, fence = await batch(store, SELF_HARM, SELF_HARM, SELF_HARM, SELF_HARM)
    await say(store, 1, ann=SELF_HARM)
    await say(store, 2, ann=SELF_HARM, bob=LEGAL)
    await say(store, 3, ann=None)
    expected = {
        PickState.LABELLED: 1,
        PickState.UNCLEAR: 1,
        PickState.CONTESTED: 1,
        PickState.RETURNED: 1,
    }
    assert await store.cycles.if_closed(cycle.id) == expected
    assert await state_of(store) == WAITING, "asking changes nothing"
    await advance(store, cycle, fence, CycleState.GENERATING)
    assert [await state_of(store, n) for n in (1, 2, 3, 4)] == [
        settled(SELF_HARM),
        (PickState.CONTESTED, None, MessageState.CONTESTED),
        (PickState.UNCLEAR, None, MessageState.UNCLEAR),
        (PickState.RETURNED, None, MessageState.POOLED),
    ]
    assert await _asked(store, "cyd") == [False]
    assert [seed.category for seed in await store.variations.pending(cycle.id)] == [SELF_HARM]
