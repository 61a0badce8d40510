"""Variations of labelled messages, and the data sets that are frozen from both."""

import pytest

from guard.errors import Conflict
from guard.store import Store
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.store.variations import LabelledText, Seed
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import add, advance, arrival, label_all, open_batch


async def _generating(store: Store, fence: int, *categories: Category | None) -> Cycle:
    """Return a cycle in `generating` whose picks `text 0`, `text 1`, … have these labels."""
    cycle = await open_batch(store, fence, *(f"text {n}" for n in range(len(categories))))
    await label_all(store, *categories)
    return await advance(store, cycle, fence, CycleState.GENERATING)


async def _record(store: Store, cycle: Cycle, seed: Seed, fence: int, *texts: str) -> int:
    return await store.variations.record(
        cycle.id, seed, texts, fence=fence, llm="model", template="v1", fates={"accepted": len(texts), "refused": 1}
    )


def _texts(rows: list[LabelledText]) -> list[tuple[str, Category, bool]]:
    return [(row.text, row.category, row.variation) for row in rows]


async def test_pending(store: Store, fence: int) -> None:
    """What waits for variations are the labelled messages of the cycle, in order, with their labels."""
    cycle = await _generating(store, fence, Category.SELF_HARM, None, Category.LEGAL_ADVICE)
    seeds = await store.variations.pending(cycle.id)
    assert [(s.text, s.category) for s in seeds] == [("text 0", Category.SELF_HARM), ("text 2", Category.LEGAL_ADVICE)]
    assert await store.variations.pending(cycle.id + 1) == []


async def test_pending_after_undo(store: Store, fence: int) -> None:
    """A label that was taken back and given anew waits once, as what it is now."""
    cycle = await open_batch(store, fence, "a")
    await label_all(store, Category.SELF_HARM)
    await store.review.undo("ann")
    await label_all(store, Category.LEGAL_ADVICE)
    assert [s.category for s in await store.variations.pending(cycle.id)] == [Category.LEGAL_ADVICE]


async def test_record(store: Store, fence: int) -> None:
    """Recording stores the accepted texts, counts every fate in the cycle, and the seed waits no longer."""
    cycle = await _generating(store, fence, Category.SELF_HARM, Category.SELF_HARM)
    first, second = await store.variations.pending(cycle.id)
    assert await _record(store, cycle, first, fence, "one", "two") == 2
    assert await store.variations.pending(cycle.id) == [second]
    assert await _record(store, cycle, second, fence) == 0
    assert await store.variations.pending(cycle.id) == []
    assert await store.variations.count() == 2
    after = await store.cycles.get(cycle.id)
    assert after is not None
    assert after.figures["variations"] == {"accepted": 2, "refused": 2}
    assert await store.cycles.variation_fates() == {"accepted": 2, "refused": 2}


async def test_record_twice(store: Store, fence: int) -> None:
    """A seed is varied once: a learner that was thought dead cannot pay for it and count it again."""
    cycle = await _generating(store, fence, Category.SELF_HARM)
    (seed,) = await store.variations.pending(cycle.id)
    await _record(store, cycle, seed, fence, "one")
    with pytest.raises(Conflict, match="varied or erased already"):
        await _record(store, cycle, seed, fence, "two")
    assert await store.variations.count() == 1
    assert await store.cycles.variation_fates() == {"accepted": 1, "refused": 1}


async def test_record_of_the_erased(store: Store, fence: int) -> None:
    """Variations of a message that was erased while they were written are not stored."""
    cycle = await open_batch(store, fence, "a", user="ann")
    await label_all(store, Category.SELF_HARM)
    (seed,) = await store.variations.pending(cycle.id)
    await store.pool.erase_user("ann")
    with pytest.raises(Conflict, match="varied or erased already"):
        await _record(store, cycle, seed, fence, "one")
    assert await store.variations.count() == 0


async def test_record_duplicates(store: Store, fence: int) -> None:
    """A text that is a variation already, or twice among these, is stored once and belongs to the seed that was first."""
    cycle = await _generating(store, fence, Category.SELF_HARM, Category.SELF_HARM)
    first, second = await store.variations.pending(cycle.id)
    assert await _record(store, cycle, first, fence, "one", "one", "two") == 2
    assert await _record(store, cycle, second, fence, "two", "three") == 1
    await store.variations.freeze(cycle.id, fence=fence)
    groups = {row.text: row.message_id for row in await store.variations.snapshot(cycle.id)}
    assert (groups["one"], groups["two"], groups["three"]) == (first.message_id, first.message_id, second.message_id)


async def test_known(store: Store, fence: int) -> None:
    """Of some texts those are known that are in the pool, in a batch or among the variations."""
    cycle = await _generating(store, fence, Category.SELF_HARM)
    (seed,) = await store.variations.pending(cycle.id)
    await _record(store, cycle, seed, fence, "one")
    await add(store, arrival("waiting"))
    assert await store.variations.known(["text 0", "one", "waiting", "new", "new"]) == {"text 0", "one", "waiting"}
    assert await store.variations.known([]) == set()


# snapshots


async def test_freeze(store: Store, fence: int) -> None:
    """A frozen data set holds every labelled message and its variations under one group, and nothing undecided."""
    cycle = await _generating(store, fence, Category.SELF_HARM, None, Category.LEGAL_ADVICE)
    first, _ = await store.variations.pending(cycle.id)
    await _record(store, cycle, first, fence, "one", "two")
    assert await store.variations.freeze(cycle.id, fence=fence) == 4
    rows = await store.variations.snapshot(cycle.id)
    assert _texts(rows) == [
        ("text 0", Category.SELF_HARM, False),
        ("text 2", Category.LEGAL_ADVICE, False),
        ("one", Category.SELF_HARM, True),
        ("two", Category.SELF_HARM, True),
    ]
    assert {row.message_id for row in rows if row.variation} == {first.message_id}


async def test_frozen_stays(store: Store, fence: int) -> None:
    """What is labelled and written later is in the next cycle's data set, not in the frozen one."""
    first = await _generating(store, fence, Category.SELF_HARM)
    await store.variations.freeze(first.id, fence=fence)
    before = await store.variations.snapshot(first.id)
    (seed,) = await store.variations.pending(first.id)
    await _record(store, first, seed, fence, "one")
    await advance(store, first, fence, CycleState.HELD)
    second = await open_batch(store, fence, "later")
    await label_all(store, Category.LEGAL_ADVICE)
    assert await store.variations.freeze(first.id, fence=fence) == 1
    assert await store.variations.snapshot(first.id) == before
    assert await store.variations.freeze(second.id, fence=fence) == 3
    assert [row.text for row in await store.variations.snapshot(second.id)] == ["text 0", "later", "one"]


async def test_frozen_empty(store: Store, fence: int, clock: Clock) -> None:
    """A data set that was frozen without any label stays empty, whatever is labelled afterwards."""
    cycle = await open_batch(store, fence, "a")
    assert await store.variations.freeze(cycle.id, fence=fence) == 0
    clock.advance(minutes=1)
    await label_all(store, Category.SELF_HARM)
    assert await store.variations.freeze(cycle.id, fence=fence) == 0
    assert await store.variations.snapshot(cycle.id) == []
    after = await store.cycles.get(cycle.id)
    assert after is not None
    assert after.frozen_at == START


async def test_erasure_after_freezing(store: Store, fence: int) -> None:
    """What is erased leaves every frozen data set, with its variations."""
    await add(store, arrival("ann's", "ann"), arrival("bob's", "bob"))
    cycle = await open_batch(store, fence)
    await label_all(store, Category.SELF_HARM, Category.LEGAL_ADVICE)
    for seed in await store.variations.pending(cycle.id):
        await _record(store, cycle, seed, fence, f"variation of {seed.text}")
    assert await store.variations.freeze(cycle.id, fence=fence) == 4
    await store.pool.erase_user("ann")
    assert await store.variations.freeze(cycle.id, fence=fence) == 2
    rows = await store.variations.snapshot(cycle.id)
    assert [row.text for row in rows] == ["bob's", "variation of bob's"]


async def test_variations_of_another_label(store: Store, fence: int) -> None:
    """A variation that was written for a label which stands no longer is left out."""
    cycle = await open_batch(store, fence, "a")
    await label_all(store, Category.SELF_HARM)
    (seed,) = await store.variations.pending(cycle.id)
    await _record(store, cycle, seed, fence, "one")
    await store.review.undo("ann")
    await label_all(store, Category.MEDICAL_ADVICE)
    await store.variations.freeze(cycle.id, fence=fence)
    assert _texts(await store.variations.snapshot(cycle.id)) == [("a", Category.MEDICAL_ADVICE, False)]
