"""What people check of an LLM's texts: who gets which pair, what their verdict does to training, and its undoing."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from guard.errors import Conflict, NotFound
from guard.store import Store
from guard.store.contrasts import Proposal
from guard.store.pairs import UNDOABLE, Pair, Stratum
from guard.store.rows import Contrast, Cycle, SnapshotItem, Variation
from guard.store.states import ContrastState, CycleState, Deed, PairKind, PairVerdict
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import advance, label_all, open_batch

LEGAL, MONEY = Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE
HOLDS, FLIPS, UNCLEAR = PairVerdict.HOLDS, PairVerdict.FLIPS, PairVerdict.UNCLEAR


async def _scene(
    store: Store, fence: int, *, variations: int = 0, contrasts: int = 0, user: str | None = None
) -> Cycle:
    """Return a cycle in `generating`: one legal message with so many variations, and others with a contrast each."""
    texts = ["text", *(f"text {n}" for n in range(contrasts))]
    cycle = await open_batch(store, fence, *texts, user=user)
    await label_all(store, *[LEGAL] * len(texts))
    await advance(store, cycle, fence, CycleState.GENERATING)
    first, *others = await store.variations.pending(cycle.id)
    await store.variations.record(
        cycle.id, first, [f"variation {n}" for n in range(variations)], fence=fence, llm="m", template="t", fates={}
    )
    for number, seed in enumerate(others):
        proposal = Proposal(f"edit {number}", MONEY, LEGAL, llm="m", template="t")
        await store.contrasts.propose(cycle.id, seed, proposal, fence=fence, counts={}, tally={})
    return cycle


async def _next(store: Store, reviewer: str = "ann") -> Pair:
    pair = await store.pairs.next(reviewer)
    assert pair is not None
    return pair


async def _decide(store: Store, pair: Pair, verdict: PairVerdict, reviewer: str = "ann") -> Pair | None:
    return await store.pairs.decide(pair.kind, pair.id, verdict=verdict, reviewer=reviewer)


async def _frozen(store: Store, cycle: Cycle, fence: int) -> set[str]:
    await store.variations.freeze(cycle.id, fence=fence)
    return {row.text for row in await store.variations.snapshot(cycle.id)}


# who gets which


async def test_contrasts_first(store: Store, fence: int) -> None:
    """Contrasts come first, oldest first, then variations; each opened, with its message's label and its own."""
    cycle = await _scene(store, fence, variations=1, contrasts=2)
    pair: Pair | None = await _next(store)
    until = START + timedelta(minutes=10)
    for number in range(2):
        assert pair == Pair(
            PairKind.CONTRAST, number + 1, cycle.id, f"text {number}", LEGAL, f"edit {number}", MONEY, until
        )
        pair = await _decide(store, pair, FLIPS)
    assert pair == Pair(PairKind.VARIATION, 1, cycle.id, "text", LEGAL, "variation 0", LEGAL, until)
    assert await _decide(store, pair, HOLDS) is None
    assert await store.pairs.next("ann") is None


async def test_order_of_variations(store: Store, fence: int) -> None:
    """Variations are offered by their keyed hashes: an order that neither their texts nor who wrote them decides."""
    await _scene(store, fence, variations=12)
    async with store.database.read() as session:
        hashes = {row.fingerprint: row.id for row in await session.scalars(select(Variation))}
    offered, pair = [], await store.pairs.next("ann")
    while pair is not None:
        offered.append(pair.id)
        pair = await _decide(store, pair, HOLDS)
    assert offered == [id_ for _, id_ in sorted(hashes.items())]
    assert all(hash_ == store.keyring.fingerprint(f"variation {id_ - 1}") for hash_, id_ in hashes.items())


async def test_two_reviewers(store: Store, fence: int, clock: Clock) -> None:
    """Two reviewers at once get different pairs, keep what they hold, and who left one too long finds it with another."""
    await _scene(store, fence, contrasts=1, variations=1)
    pairs = await asyncio.gather(store.pairs.next("ann"), store.pairs.next("ben"))
    assert {pair.kind for pair in pairs if pair} == set(PairKind)
    assert [pair and pair.id for pair in [await _next(store, "ann"), await _next(store, "ben")]] == [1, 1]
    assert await store.pairs.next("cleo") is None
    clock.advance(seconds=601)
    assert (await _next(store, "cleo")).kind is PairKind.CONTRAST
    mine = next(pair for pair in pairs if pair and pair.kind is PairKind.CONTRAST)
    reviewer = "ann" if mine is pairs[0] else "ben"
    with pytest.raises(Conflict, match=r"contrast \(1\) is held by another reviewer until 12:20:01 UTC"):
        await _decide(store, mine, FLIPS, reviewer)


async def test_late_verdict(store: Store, fence: int, clock: Clock) -> None:
    """A verdict after the lease has ended counts as long as nobody else holds the pair."""
    await _scene(store, fence, variations=1)
    pair = await _next(store)
    clock.advance(hours=2)
    await _decide(store, pair, HOLDS)
    assert await store.pairs.undoable("ann") == 1


async def test_only_what_is_trained_on_is_offered(store: Store, fence: int) -> None:
    """A variation written for a label that was taken back since is not offered, nor counted."""
    await open_batch(store, fence, "text")
    await label_all(store, LEGAL)
    (seed,) = await store.variations.pending(1)
    await store.variations.record(1, seed, ["variation"], fence=fence, llm="m", template="t", fates={})
    await store.review.undo("ann")
    assert await store.pairs.next("ann") is None
    await label_all(store, MONEY)
    assert await store.pairs.next("ann") is None
    assert await store.pairs.strata() == []
    await store.review.undo("ann")
    await label_all(store, LEGAL)
    assert (await _next(store)).text == "variation"


# what a verdict does


@pytest.mark.parametrize("verdict", PairVerdict)
async def test_variation(store: Store, fence: int, verdict: PairVerdict) -> None:
    """A verdict is kept with who gave it and when; what does not hold is in no data set frozen later, the unchecked is."""
    cycle = await _scene(store, fence, variations=2)
    first = await _next(store)
    second = await _decide(store, first, verdict)
    assert second is not None
    async with store.database.read() as session:
        row = await session.get_one(Variation, first.id)
    assert (row.verdict, row.reviewer, row.decided_at, row.leased_by) == (verdict, "ann", START, None)
    assert await _frozen(store, cycle, fence) == {"text", second.text, *([first.text] if verdict is HOLDS else [])}
    line, *_ = await store.ledger.recent(1)
    assert (line.actor, line.deed, line.detail) == ("ann", Deed.VARIATION_DECIDED, {"verdict": verdict})
    assert line.subject == f"variation {first.id}"
    (stratum,) = await store.pairs.strata()
    assert (stratum.category, stratum.size, stratum.checked, getattr(stratum, verdict)) == (LEGAL, 2, 1, 1)


async def test_frozen_keeps_what_is_taken_out_later(store: Store, fence: int) -> None:
    """A data set that is frozen stays as it is when a variation of it is taken out."""
    cycle = await _scene(store, fence, variations=1)
    assert await _frozen(store, cycle, fence) == {"text", "variation 0"}
    await _decide(store, await _next(store), FLIPS)
    assert await _frozen(store, cycle, fence) == {"text", "variation 0"}


@pytest.mark.parametrize("kind", PairKind)
async def test_decided_once(store: Store, fence: int, kind: PairKind) -> None:
    """The same verdict again is the same decision; another, or another's, is refused and changes nothing."""
    await _scene(store, fence, variations=kind is PairKind.VARIATION, contrasts=kind is PairKind.CONTRAST)
    pair = await _next(store)
    await _decide(store, pair, FLIPS)
    lines = len(await store.ledger.recent())
    assert await _decide(store, pair, FLIPS) is None
    for verdict, reviewer in ((HOLDS, "ann"), (FLIPS, "ben")):
        with pytest.raises(Conflict, match="is decided already"):
            await _decide(store, pair, verdict, reviewer)
    assert len(await store.ledger.recent()) == lines
    assert await store.pairs.undoable("ben") == 0


@pytest.mark.parametrize("kind", PairKind)
async def test_erased(store: Store, fence: int, kind: PairKind) -> None:
    """A pair goes with its message, decided or not, and a verdict on it is told so."""
    await _scene(store, fence, variations=1, contrasts=1, user="eve")
    pair = await _next(store)
    await _decide(store, pair, FLIPS)
    await store.pool.erase_user("eve")
    assert await store.pairs.next("ann") is None
    assert await store.pairs.undoable("ann") == 0
    with pytest.raises(NotFound, match=f"no {kind} 1: its message may have been erased"):
        await store.pairs.decide(kind, 1, verdict=HOLDS, reviewer="ann")


async def test_counts(store: Store, fence: int) -> None:
    """Contrasts that nobody decided about wait; variations are counted by cycle and category with what was said."""
    assert await store.pairs.waiting() == 0
    await _scene(store, fence, contrasts=2, variations=3)
    assert await store.pairs.waiting() == 2
    pair: Pair | None = await _next(store)
    for verdict in (FLIPS, HOLDS, HOLDS, UNCLEAR):
        assert pair is not None
        pair = await _decide(store, pair, verdict)
    assert await store.pairs.waiting() == 0
    assert await store.pairs.strata() == [Stratum(LEGAL, size=3, holds=1, unclear=1)]


# undoing


async def test_undo(store: Store, fence: int, clock: Clock) -> None:
    """Undone, a pair is as before and held by the same reviewer; the latest first, whatever its kind; others are no matter."""
    cycle = await _scene(store, fence, contrasts=1, variations=1)
    contrast = await _next(store)
    clock.advance(seconds=1)
    variation = await _decide(store, contrast, FLIPS)
    assert variation is not None
    clock.advance(seconds=1)
    await _decide(store, variation, FLIPS)
    assert await store.pairs.undoable("ann") == 2
    with pytest.raises(NotFound, match="no verdict of yours to undo among your last 10"):
        await store.pairs.undo("ben")
    for pair in (variation, contrast):
        clock.advance(seconds=1)
        await store.pairs.undo("ann")
        assert (await _next(store)).kind is pair.kind
    with pytest.raises(NotFound):
        await store.pairs.undo("ann")
    assert await store.pairs.undoable("ann") == 0
    assert await store.pairs.next("ben") is None
    lines = [(line.deed, line.subject) for line in await store.ledger.recent(2)]
    assert lines == [(Deed.UNDONE, "contrast 1"), (Deed.UNDONE, "variation 1")]
    assert await _frozen(store, cycle, fence) == {"text", "text 0", "variation 0"}
    async with store.database.read() as session:
        assert (await session.get_one(Contrast, 1)).state is ContrastState.PROPOSED


async def test_undo_ten(store: Store, fence: int) -> None:
    """No more than the last ten verdicts can be undone, however often one was undone and given again."""
    await _scene(store, fence, variations=UNDOABLE + 3)
    pair: Pair | None = await _next(store)
    while pair is not None:
        pair = await _decide(store, pair, HOLDS)
    assert await store.pairs.undoable("ann") == UNDOABLE
    for left in reversed(range(UNDOABLE)):
        await store.pairs.undo("ann")
        assert await store.pairs.undoable("ann") == left
    with pytest.raises(NotFound):
        await store.pairs.undo("ann")
    assert await store.pairs.strata() == [Stratum(LEGAL, size=UNDOABLE + 3, holds=3)]


@pytest.mark.parametrize("verdict", PairVerdict)
async def test_undo_of_what_was_trained_on(store: Store, fence: int, verdict: PairVerdict) -> None:
    """A confirmed contrast that a data set holds stays as it is, and who would undo it is told why; others go back."""
    cycle = await _scene(store, fence, contrasts=1)
    await _decide(store, await _next(store), verdict)
    await store.variations.freeze(cycle.id, fence=fence)
    if verdict is not FLIPS:
        await store.pairs.undo("ann")
        assert await store.pairs.waiting() == 1
        return
    with pytest.raises(Conflict, match="on contrast 1, stands: the data set of cycle 1 holds it"):
        await store.pairs.undo("ann")
    assert await store.pairs.waiting() == 0
    async with store.database.read() as session:
        assert (await session.scalars(select(SnapshotItem).where(SnapshotItem.contrast_id == 1))).one()


async def test_undo_brings_back(store: Store, fence: int) -> None:
    """A variation that was taken out by mistake is trained on again when that is undone."""
    cycle = await _scene(store, fence, variations=1)
    await _decide(store, await _next(store), FLIPS)
    await store.pairs.undo("ann")
    assert await _frozen(store, cycle, fence) == {"text", "variation 0"}
