"""What estimates rest on: every verdict with its probability, every draw with its chance, every standing vote."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.entries import Batch, Reviewed, Share, Traffic
from guard.store.pool import Arrival
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import add, advance, arrival, label_all, learner, open_batch, open_cycle, pooled

LATER = timedelta(hours=1)
WINDOW = (START - timedelta(days=1), START + timedelta(days=9))


def audited(text: str, **changes: Any) -> Arrival:
    """Return a certain verdict of not-harmful that the audit let in, one of a hundred."""
    of_a_hundred = arrival(text, reason="audit", probability=0.01)
    return replace(of_a_hundred, **{"category": Category.NOT_HARMFUL, "uncertainty": 0.05, **changes})


async def close(store: Store, cycle: Cycle, fence: int) -> None:
    """Let people be done with a batch."""
    await advance(store, cycle, fence, CycleState.GENERATING)


async def test_verdicts_of_a_day_count_together(store: Store) -> None:
    """A text that comes again on a day counts in its entry, on the next day in another; the weights are 1 / probability."""
    await add(store, audited("hi"), audited("hi"), arrival("rope"))
    await add(store, audited("hi", seen_at=START + LATER), audited("hi", seen_at=START + timedelta(days=1)))
    assert await store.entries.traffic(*WINDOW) == [
        Traffic("0001", Category.NOT_HARMFUL, certain=True, verdicts=400),
        Traffic("0001", Category.SELF_HARM, certain=False, verdicts=1),
    ]
    (today,) = await store.entries.traffic(START, START + timedelta(days=9))
    assert today.verdicts == 100


async def test_each_version_and_stream_has_its_own(store: Store) -> None:
    """A text that another version judges anew keeps both verdicts, though its message keeps the first alone."""
    newer = audited("hi", model_version="0002", category=Category.LEGAL_ADVICE)
    await add(store, audited("hi"), newer)
    await add(store, arrival("hi"))
    assert [(t.model_version, t.category, t.certain, t.verdicts) for t in await store.entries.traffic(*WINDOW)] == [
        ("0001", Category.NOT_HARMFUL, True, 100),
        ("0001", Category.SELF_HARM, False, 1),
        ("0002", Category.LEGAL_ADVICE, True, 100),
    ]


async def test_disputed_verdicts_are_left_out(store: Store) -> None:
    """What came only because a second model disagreed has no entry: its probability would be one of agreement, too."""
    await add(store, audited("a", reason="shadow", inclusion_probability=0.1))
    assert await store.entries.traffic(*WINDOW) == []


async def test_full_pool(store: Store) -> None:
    """What finds no room leaves no entry."""
    await add(store, audited("a"), audited("b"), room=1)
    assert [t.verdicts for t in await store.entries.traffic(*WINDOW)] == [100]


async def test_erasure_takes_the_entries_along(store: Store) -> None:
    """The verdicts on a message that is erased go with it."""
    await add(store, replace(audited("a"), user="ann"), audited("b"))
    await store.pool.erase_user("ann")
    assert [t.verdicts for t in await store.entries.traffic(*WINDOW)] == [100]


async def test_mix(store: Store) -> None:
    """Verdicts are summed by category and tenth of uncertainty, beside the squares of their weights; 1 is in the last."""
    await add(
        store, arrival("a"), audited("b"), audited("b"), audited("c", uncertainty=0.1), audited("d", uncertainty=1)
    )
    assert sorted(await store.entries.mix(*WINDOW), key=lambda s: (s.category, s.uncertainty_bin)) == [
        Share(Category.NOT_HARMFUL, 0, 200, 20_000),
        Share(Category.NOT_HARMFUL, 1, 100, 10_000),
        Share(Category.NOT_HARMFUL, 9, 100, 10_000),
        Share(Category.SELF_HARM, 9, 1, 1),
    ]


async def test_reviewed(store: Store) -> None:
    """Of labelled messages all verdicts are told, those given after the label too; of others none."""
    fence = await learner(store)
    await add(store, audited("b"))
    await open_batch(store, fence, "a")
    await label_all(store, Category.LEGAL_ADVICE)
    await add(store, audited("b", seen_at=START + LATER), replace(arrival("b", after=LATER), model_version="0002"))
    rows = await store.entries.reviewed(*WINDOW)
    (message,) = {row.message_id for row in rows}
    assert rows == [
        Reviewed(message, "0001", Category.NOT_HARMFUL, certain=True, verdicts=200, probability=0.01),
        Reviewed(message, "0002", Category.SELF_HARM, certain=False, verdicts=1, probability=1),
    ]
    assert await store.entries.reviewed(START + LATER, START + timedelta(days=1)) == []


async def test_votes(store: Store) -> None:
    """Standing labels are told by message; what was undone or could not be told is not."""
    fence = await learner(store)
    await open_batch(store, fence, "a", "b", "c")
    await label_all(store, Category.LEGAL_ADVICE, None, Category.SELF_HARM)
    await store.review.undo("ann")
    assert list((await store.entries.votes()).values()) == [[Category.LEGAL_ADVICE]]


async def test_draws(store: Store, clock: Clock) -> None:
    """A pick's chance is that of its draw alone, given the pool; only batches that people are done with are told."""
    fence = await learner(store)
    await add(store, audited("a"), audited("b"), arrival("c"), arrival("d"))
    cycle = await open_cycle(store, fence)
    a, b, c, d = (message.id for message in await pooled(store))
    picks = [
        Picked(a, {"strategy": "audit"}, 0.01 * 0.5),
        Picked(c, {"strategy": "stochastic"}, 0.25),
        Picked(d, {"strategy": "stochastic"}, None),
        Picked(b, {"strategy": "audit"}, 0.01 * 0.5),
    ]
    figures = {"selection": {"audits_fresh": 3, "audits_stale": 4, "others": 5}}
    await store.cycles.fill(cycle.id, picks, fence=fence, figures=figures)
    await label_all(store, Category.LEGAL_ADVICE, None, Category.LEGAL_ADVICE)
    assert (await store.entries.batches(), await store.entries.drawn()) == ([], [])
    await close(store, cycle, fence)
    assert await store.entries.batches() == [Batch(cycle.id, START, 3, 4, 5)]
    assert [(x.message_id, x.audit, x.chance, x.decided) for x in await store.entries.drawn()] == [
        (a, True, pytest.approx(0.5), True),
        (c, False, 0.25, True),
        (d, False, None, True),
        (b, True, pytest.approx(0.5), False),
    ]
    assert {x.first_seen_at for x in await store.entries.drawn()} == {START}


async def test_batches_of_before(store: Store) -> None:
    """Of a batch whose pool nobody counted the sizes are unknown; a cycle without a batch is none."""
    fence = await learner(store)
    cycle = await open_batch(store, fence, "a")
    await label_all(store, None)
    await close(store, cycle, fence)
    await advance(store, cycle, fence, CycleState.FAILED)
    await advance(store, await open_cycle(store, fence), fence, CycleState.FAILED)
    assert await store.entries.batches() == [Batch(cycle.id, START, None, None, None)]


async def test_fresh_arrivals(store: Store, clock: Clock) -> None:
    """Fresh are audit arrivals of since the last cycle with a batch was opened."""
    fence = await learner(store)
    await add(store, audited("a"))
    first = await open_batch(store, fence, "x")
    assert await store.cycles.drawn_before(first.id) is None
    await advance(store, first, fence, CycleState.FAILED)
    clock.advance(seconds=20)
    second = await open_cycle(store, fence)
    assert await store.cycles.drawn_before(second.id) == START
    await add(store, audited("b", seen_at=START), audited("c", seen_at=clock()))
    assert len(await store.pool.audits()) == 3
    assert len(await store.pool.audits(after=START)) == 1
