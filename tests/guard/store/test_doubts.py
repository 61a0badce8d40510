"""Labels that models doubt: whose they are to look at again, what comes of it, and what does not."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from guard.errors import Conflict, NotFound
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.doubts import UNDOABLE, Suspicion
from guard.store.rows import Cycle, Doubt, Label, Message, Pick
from guard.store.states import CycleState, Deed, Role
from guard.taxonomy import Category
from tests.guard.store.scenes import add, advance, arrival, label_all, open_cycle, pooled

LEGAL, MEDICAL, NOT_HARMFUL = Category.LEGAL_ADVICE, Category.MEDICAL_ADVICE, Category.NOT_HARMFUL


async def trained(store: Store, fence: int, *texts: str, user: str | None = None) -> Cycle:
    """Have ann label texts as legal advice, and freeze them."""
    await add(store, *(replace(arrival(text, user), category=NOT_HARMFUL) for text in texts))
    cycle = await open_cycle(store, fence)
    await store.cycles.fill(cycle.id, [Picked(p.id, {}, 0.5) for p in await pooled(store)], fence=fence, figures={})
    await label_all(store, *[LEGAL] * len(texts))
    await advance(store, cycle, fence, CycleState.GENERATING)
    cycle = await advance(store, cycle, fence, CycleState.TRAINING)
    await store.variations.freeze(cycle.id, fence=fence)
    return cycle


async def suspect(store: Store, cycle: Cycle, fence: int, *message_ids: int, most: int = 10) -> int:
    """Suspect that messages are medical, the first one most."""
    suspicions = [Suspicion(id_, LEGAL, MEDICAL, 0.9 - id_ / 100) for id_ in message_ids]
    return await store.doubts.suspect(cycle.id, suspicions, most=most, fence=fence)


async def two(store: Store) -> None:
    """Let there be two reviewers, ann and ben."""
    for name in ("ann", "ben"):
        await store.reviewers.add(name, Role.REVIEWER, "hash")


async def frozen(store: Store, fence: int) -> dict[str, Category]:
    """Return what the next cycle would train on."""
    (latest,) = await store.cycles.recent(1)
    if not latest.state.ended:
        await advance(store, latest, fence, CycleState.HELD)
    cycle = await open_cycle(store, fence)
    await store.variations.freeze(cycle.id, fence=fence)
    return {row.text: row.category for row in await store.variations.snapshot(cycle.id)}


async def test_strongest_first_and_few(store: Store, fence: int) -> None:
    """Of what is suspected the first ones are taken, as many as the cycle may, and shown in that order."""
    cycle = await trained(store, fence, "one", "two", "three")
    assert await suspect(store, cycle, fence, 3, 1, 2, most=2) == 2
    assert await store.doubts.count() == 2
    first, second = await store.doubts.waiting("ben", 5)
    assert (first.text, second.text) == ("three", "one")
    assert (first.category, first.opinion, first.verdict) == (LEGAL, MEDICAL, NOT_HARMFUL)
    assert first.probability == pytest.approx(0.87)
    assert [d.text for d in await store.doubts.waiting("ben")] == ["three"]


async def test_another_category(store: Store, fence: int) -> None:
    """Another category takes the label's place in the next data set, and the opinion that was given stays as it is."""
    cycle = await trained(store, fence, "one", "two")
    await suspect(store, cycle, fence, 1)
    await store.doubts.settle(1, reviewer="ben", category=MEDICAL)
    assert await store.doubts.count() == 0
    async with store.database.read() as session:
        pick = await session.get_one(Pick, 1)
        labels = [
            (x.reviewer, x.category, x.adjudicates) for x in await session.scalars(select(Label).order_by(Label.id))
        ]
        doubt = await session.get_one(Doubt, 1)
    assert pick.category is MEDICAL
    assert labels == [("ann", LEGAL, False), ("ann", LEGAL, False), ("ben", MEDICAL, True)]
    assert (doubt.reviewer, doubt.label_id, doubt.settled_at) == ("ben", 3, store.clock())
    assert await frozen(store, fence) == {"one": MEDICAL, "two": LEGAL}
    (line,) = [e for e in await store.ledger.recent() if e.deed is Deed.DOUBT_SETTLED]
    assert (line.actor, line.subject) == ("ben", "pick 1")
    assert line.detail == {"category": "medical-advice", "before": "legal-advice"}


@pytest.mark.parametrize("category", [LEGAL, None])
async def test_the_label_stays(store: Store, fence: int, category: Category | None) -> None:
    """Kept, or where nobody can tell, the label is what it was, and it costs one of the budget all the same."""
    cycle = await trained(store, fence, "one")
    await suspect(store, cycle, fence, 1)
    spent = await store.cycles.labels_spent()
    await store.doubts.settle(1, reviewer="ben", category=category)
    assert await store.cycles.labels_spent() == spent + 1
    assert await store.doubts.count() == 0
    assert await frozen(store, fence) == {"one": LEGAL}


async def test_once_only(store: Store, fence: int) -> None:
    """What waits or was looked at again is not suspected again, nor is what an admin has adjudicated."""
    cycle = await trained(store, fence, "one", "two", "three")
    await suspect(store, cycle, fence, 1, 2)
    await store.doubts.settle(1, reviewer="ben", category=LEGAL)
    async with store.database.write() as session:
        label = await session.get_one(Label, 3)
        label.adjudicates = True
    assert await suspect(store, cycle, fence, 1, 2, 3) == 0
    assert await store.doubts.count() == 1


async def test_the_label_has_changed(store: Store, fence: int) -> None:
    """A suspicion of a label that is not the one any more raises no doubt, and one that was raised waits no longer."""
    cycle = await trained(store, fence, "one", "two")
    await suspect(store, cycle, fence, 1)
    async with store.database.write() as session:
        for id_ in (1, 2):
            (await session.get_one(Pick, id_)).category = NOT_HARMFUL
    assert await suspect(store, cycle, fence, 2) == 0
    assert await store.doubts.waiting("ben") == []
    with pytest.raises(Conflict, match="looked at again already"):
        await store.doubts.settle(1, reviewer="ben", category=LEGAL)


async def test_nobody_judges_their_own(store: Store, fence: int) -> None:
    """Who gave a label is not asked about it while there is another reviewer who has not passed it on."""
    await two(store)
    cycle = await trained(store, fence, "one")
    await suspect(store, cycle, fence, 1)
    assert await store.doubts.waiting("ann") == []
    assert await store.doubts.count("ann") == 0
    assert await store.doubts.count("ben") == 1
    with pytest.raises(Conflict, match="the label is yours"):
        await store.doubts.settle(1, reviewer="ann", category=MEDICAL)
    await store.doubts.hand_on(1, "ben")
    assert await store.doubts.waiting("ben") == []
    assert await store.doubts.count("ann") == 1, "nobody else is left"
    await store.doubts.settle(1, reviewer="ann", category=MEDICAL)


async def test_the_only_one(store: Store, fence: int) -> None:
    """Where nobody else reviews, or they are no more, a reviewer looks at their own labels again."""
    await two(store)
    cycle = await trained(store, fence, "one")
    await suspect(store, cycle, fence, 1)
    await store.reviewers.revoke("ben")
    assert await store.doubts.count("ann") == 1


async def test_decided_twice(store: Store, fence: int) -> None:
    """The same decision again changes nothing; another one, or another's, is refused."""
    cycle = await trained(store, fence, "one")
    await suspect(store, cycle, fence, 1)
    for _ in range(2):
        await store.doubts.settle(1, reviewer="ben", category=MEDICAL)
    for reviewer, category in (("ben", LEGAL), ("ben", None), ("cleo", MEDICAL)):
        with pytest.raises(Conflict, match="looked at again already"):
            await store.doubts.settle(1, reviewer=reviewer, category=category)
    async with store.database.read() as session:
        assert len((await session.scalars(select(Label))).all()) == 2


async def test_undo(store: Store, fence: int) -> None:
    """The last ten second looks can be taken back, the latest first; then they wait again and the label is as before."""
    cycle = await trained(store, fence, *(f"text {n}" for n in range(UNDOABLE + 1)))
    await suspect(store, cycle, fence, *range(1, UNDOABLE + 2), most=99)
    for pick in range(1, UNDOABLE + 2):
        store.clock.advance(seconds=1)  # type: ignore[attr-defined]
        await store.doubts.settle(pick, reviewer="ben", category=MEDICAL if pick % 2 else None)
    assert await store.doubts.undoable("ben") == UNDOABLE
    assert await store.doubts.undoable("ann") == 0
    assert [await store.doubts.undo("ben") for _ in range(3)] == [11, 10, 9]
    assert await store.doubts.count() == 3
    async with store.database.read() as session:
        assert [(await session.get_one(Pick, pick)).category for pick in (11, 10, 9, 7)] == [
            LEGAL,
            LEGAL,
            LEGAL,
            MEDICAL,
        ]
    await store.doubts.settle(11, reviewer="ben", category=NOT_HARMFUL)
    assert (await frozen(store, fence))["text 10"] is NOT_HARMFUL


async def test_undo_until_it_is_trained_on(store: Store, fence: int) -> None:
    """Once a data set was frozen with it, a second look stands; adjudicators cannot undo it as one of theirs either."""
    cycle = await trained(store, fence, "one")
    await suspect(store, cycle, fence, 1)
    store.clock.advance(seconds=1)  # type: ignore[attr-defined]
    await store.doubts.settle(1, reviewer="ben", category=MEDICAL)
    with pytest.raises(NotFound, match="no decision of yours"):
        await store.conflicts.undo("ben")
    await frozen(store, fence)
    with pytest.raises(NotFound, match="no second look"):
        await store.doubts.undo("ben")


async def test_error_rates_do_not_see_it(store: Store, fence: int) -> None:
    """Votes are what people said without the models' opinion: a second look is none, whatever it decided."""
    cycle = await trained(store, fence, "one")
    await suspect(store, cycle, fence, 1)
    before = await store.entries.votes()
    await store.doubts.settle(1, reviewer="ben", category=MEDICAL)
    assert await store.entries.votes() == before == {1: [LEGAL]}


async def test_erased(store: Store, fence: int) -> None:
    """A doubt goes with its message, settled or not, and acting on it says so."""
    cycle = await trained(store, fence, "one", "two", user="ada")
    await suspect(store, cycle, fence, 1, 2)
    await store.doubts.settle(1, reviewer="ben", category=MEDICAL)
    await store.pool.erase_user("ada")
    async with store.database.read() as session:
        assert (await session.scalars(select(Doubt))).all() == []
        assert (await session.scalars(select(Message))).all() == []
    for deed in (store.doubts.settle(2, reviewer="ben", category=None), store.doubts.hand_on(2, "ben")):
        with pytest.raises(NotFound, match="erased"):
            await deed
    assert await suspect(store, cycle, fence, 1, 2) == 0


async def test_only_the_learner(store: Store, fence: int) -> None:
    """A learner that lost its lease raises no doubts."""
    cycle = await trained(store, fence, "one")
    with pytest.raises(Conflict, match="taken over"):
        await suspect(store, cycle, fence + 1, 1)
    assert await store.doubts.count() == 0
