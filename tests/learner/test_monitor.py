"""From the store to error rates and back: verdicts, draws and votes of a whole little service, and what comes of them."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.figures import Estimated
from guard.store.pool import AUDIT, UNCERTAIN, Arrival
from guard.store.rows import Cycle, Label
from guard.store.states import CycleState
from guard.taxonomy import Category
from learner.estimate import Measure
from learner.monitor import estimate
from tests.conftest import Clock
from tests.guard.store.scenes import advance, learner

CLEAR, SELF_HARM, LEGAL = Category.NOT_HARMFUL, Category.SELF_HARM, Category.LEGAL_ADVICE
RATE = 0.1


def arrival(store: Store, text: str, verdict: Category, *, certain: bool = True, version: str = "0001") -> Arrival:
    """Return a verdict of now."""
    return Arrival(
        text=text,
        user=None,
        reason=AUDIT if certain else UNCERTAIN,
        inclusion_probability=RATE if certain else 1.0,
        model_version=version,
        category=verdict,
        scores=(1 / 6,) * 6,
        uncertainty=0.1 if certain else 0.9,
        seen_at=store.clock(),
    )


async def review(store: Store, fence: int, labels: Mapping[str, Category | None], picks: int) -> Cycle:
    """Draw so many of each stream, all alike, let people label them by text, and close the batch."""
    cycle = await store.cycles.open(
        fence=fence, strategy="random", seed=1, batch_size=20, champion="0001", due_at=store.clock() + timedelta(days=1)
    )
    audits = await store.pool.audits()
    messages = [message async for part in store.pool.texts() for message in part]
    others = [m.id for m in messages if m.id not in audits]
    drawn = [(m, AUDIT, RATE * min(1, picks / len(audits))) for m in list(audits)[:picks]]
    drawn += [(m, "random", min(1, picks / len(others))) for m in others[:picks]]
    await store.cycles.fill(
        cycle.id,
        [Picked(message_id, {"strategy": by}, chance) for message_id, by, chance in drawn],
        fence=fence,
        figures={"selection": {"audits_fresh": len(audits), "audits_stale": 0, "others": len(others)}},
    )
    while (held := await store.review.next("ann")) is not None:
        await store.review.label(held.pick_id, reviewer="ann", category=labels[held.text])
    await advance(store, cycle, fence, CycleState.GENERATING)
    await advance(store, cycle, fence, CycleState.HELD)
    return cycle


def of(figures: list[Estimated], measure: Measure, category: Category, version: str = "0001") -> Estimated:
    """Return one figure."""
    (found,) = (f for f in figures if (f.measure, f.category, f.model_version) == (measure, category, version))
    return found


async def test_nothing_yet(store: Store) -> None:
    """Without a batch there are no rates, and drift cannot be told."""
    assert [(f.measure, f.value) for f in await estimate(store, days=28)] == [
        ("class_mix", None),
        ("uncertainty", None),
    ]


async def test_streams_weigh_what_they_stand_for(store: Store, clock: Clock) -> None:
    """Twelve audits of a tenth of the traffic and twelve of twenty-four uncertain verdicts: 120 and 24 verdicts."""
    fence = await learner(store)
    labels: dict[str, Category | None] = {f"c{n}": LEGAL if n == 0 else CLEAR for n in range(12)}
    labels |= {f"u{n}": LEGAL if n < 12 else None for n in range(24)}
    await store.pool.add([arrival(store, f"c{n}", CLEAR) for n in range(12)], max_messages=99)
    await store.pool.add([arrival(store, f"u{n}", LEGAL, certain=False) for n in range(24)], max_messages=99)
    clock.advance(seconds=1)
    await review(store, fence, labels, 12)
    figures = await estimate(store, days=28)
    miss = of(figures, Measure.MISS_RATE, LEGAL)
    assert miss.value == pytest.approx(10 / (10 + 24))
    assert miss.naive == pytest.approx(1 / 13)
    assert miss.labels == 13
    assert (miss.since, miss.until) == (clock() - timedelta(days=28), clock())
    assert of(figures, Measure.CLEARED_RATE, LEGAL).value == miss.value
    assert of(figures, Measure.PRECISION, CLEAR).value == pytest.approx(11 / 12)
    assert of(figures, Measure.FALSE_ALARM_RATE, LEGAL).value == 0
    assert of(figures, Measure.MISS_RATE, SELF_HARM).value is None


async def test_each_version_has_its_own_rates(store: Store, clock: Clock) -> None:
    """A labelled text that the next version judges too counts for both, by what each said; nobody labels it again."""
    fence = await learner(store)
    labels: dict[str, Category | None] = {f"u{n}": LEGAL for n in range(12)}
    for version, verdict in (("0001", LEGAL), ("0002", CLEAR)):
        await store.pool.add(
            [arrival(store, f"u{n}", verdict, certain=False, version=version) for n in range(12)], max_messages=99
        )
    clock.advance(seconds=1)
    await review(store, fence, labels, 12)
    figures = await estimate(store, days=28)
    assert of(figures, Measure.MISS_RATE, LEGAL).value == 0
    assert of(figures, Measure.MISS_RATE, LEGAL, "0002").value == 1
    assert of(figures, Measure.MISS_RATE, LEGAL, "0002").labels == 12


async def test_repeated_texts_count_as_often_as_they_come(store: Store, clock: Clock) -> None:
    """A text that came nine times weighs nine, and what lies before the window nothing."""
    fence = await learner(store)
    old = [arrival(store, "u0", LEGAL, certain=False)] * 50
    await store.pool.add(old, max_messages=99)
    clock.advance(days=20)
    new = [arrival(store, f"u{min(n, 10)}", LEGAL, certain=False) for n in range(19)]
    await store.pool.add(new, max_messages=99)
    clock.advance(seconds=1)
    fence = await learner(store, "later")
    await review(store, fence, {f"u{n}": CLEAR if n == 10 else LEGAL for n in range(11)}, 11)
    assert of(await estimate(store, days=10), Measure.PRECISION, LEGAL).value == pytest.approx(10 / 19)
    assert of(await estimate(store, days=28), Measure.PRECISION, LEGAL).value == pytest.approx(60 / 69)


async def test_disagreement(store: Store, clock: Clock) -> None:
    """A message with two labels counts half for each."""
    fence = await learner(store)
    await store.pool.add([arrival(store, f"u{n}", LEGAL, certain=False) for n in range(12)], max_messages=99)
    clock.advance(seconds=1)
    await review(store, fence, {f"u{n}": LEGAL for n in range(12)}, 12)
    async with store.database.write() as session:
        first = await session.get_one(Label, 1)
        session.add(
            Label(
                pick_id=first.pick_id,
                message_id=first.message_id,
                reviewer="bob",
                category=CLEAR,
                decided_at=clock(),
                undone_at=None,
                idempotency_key=None,
            )
        )
    precision = of(await estimate(store, days=28), Measure.PRECISION, LEGAL)
    assert precision.value == pytest.approx(11.5 / 12)
    assert precision.labels == 12


async def test_drift(store: Store, clock: Clock) -> None:
    """The last seven days are held against those before them, whatever people have labelled."""
    await store.pool.add([arrival(store, f"a{n}", CLEAR) for n in range(150)], max_messages=999)
    clock.advance(days=10)
    await store.pool.add([arrival(store, f"b{n}", LEGAL, certain=False) for n in range(150)], max_messages=999)
    clock.advance(days=1)
    found = {f.measure: f for f in await estimate(store, days=28)}
    assert (found["class_mix"].value or 0) > 1
    assert (found["uncertainty"].value or 0) > 1
    assert found["class_mix"].since == clock() - timedelta(days=7)
    clock.advance(days=7)
    assert {f.measure: f.value for f in await estimate(store, days=28)} == {"class_mix": None, "uncertainty": None}
