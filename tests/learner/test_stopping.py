"""The learning curve, what it promises, when the loop pauses for it, and what ends the pause."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import numpy as np
import pytest

from guard.curve import Point, curve, expect
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.pool import AUDIT, UNCERTAIN, Arrival
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.taxonomy import Category
from learner.cycle import Loop, obstacle
from learner.stopping import drift, flat, paused, risen
from tests.conftest import Clock
from tests.guard.store.scenes import learner
from tests.learner.stages import World, build

FLAT = (0.801, 0.799, 0.8, 0.802, 0.8, 0.798, 0.8, 0.801, 0.799, 0.8, 0.8, 0.801)
STILL = (0.8,) * 7
RISING = tuple(0.6 + 0.01 * step for step in range(12))


def points(values: Sequence[float]) -> list[Point]:
    """Return a curve with 20 labels between its points."""
    return [Point(20 * (place + 1), value) for place, value in enumerate(values)]


def judged(number: int, macro_f1: float | None = None, *, labels: int = 20, rows: float = 9.0) -> Cycle:
    """Return a cycle that has ended; not by the gate when no macro-F1 is given."""
    figures = {} if macro_f1 is None else {"gate": {"macro_f1": macro_f1, "rows": rows}}
    return Cycle(id=number, labels_spent=labels, figures=figures)


def begun(macro_f1: float, before: float) -> Cycle:
    """Return the first cycle, judged against a champion of macro-F1 `before`."""
    cycle = judged(1, macro_f1)
    cycle.figures["gate"]["champion.macro_f1"] = before
    return cycle


class TestCurve:
    """Cycles into points."""

    def test_counts_the_labels_of_every_cycle(self) -> None:
        """The first champion is the beginning; labels of a cycle that failed count with the next."""
        cycles = [
            judged(3, 0.7, labels=10),
            judged(2, labels=15),
            begun(0.6, 0.5),
        ]
        assert curve(cycles) == [Point(0, 0.5), Point(20, 0.6), Point(45, 0.7)]

    def test_knows_no_beginning_where_cycles_are_missing(self) -> None:
        """Of the latest cycles alone the champion's labels are not known."""
        cycles = [judged(8, 0.7), begun(0.6, 0.5)]
        cycles[1].id = 7
        assert curve(cycles) == [Point(20, 0.6), Point(40, 0.7)]

    def test_begins_anew_with_another_gate_set(self) -> None:
        """What was measured on other rows is not compared."""
        cycles = [
            judged(3, 0.75, rows=12.0),
            judged(2, 0.7),
            begun(0.6, 0.5),
        ]
        assert curve(cycles) == [Point(60, 0.75)]

    def test_of_nothing_is_nothing(self) -> None:
        """Before the first cycle there is no curve."""
        assert curve([]) == []


class TestExpectation:
    """What the next labels should bring."""

    def test_of_a_straight_curve_is_its_slope(self) -> None:
        """A curve that rises by a point each 20 labels promises a point for the next 20 and half of it for 10."""
        promise = expect(points(RISING), 20)
        assert promise.gain == pytest.approx(0.01)
        assert promise.low == pytest.approx(0.01)
        assert promise.says == "the next 20 labels should bring +1.0 points of macro-F1 (95 % between +1.0 and +1.0)"
        assert expect(points(RISING), 10).gain == pytest.approx(0.005)

    def test_forgets_what_is_long_ago(self) -> None:
        """Only the last twelve points count."""
        assert expect(points((*RISING, *[0.71] * 12)), 20).gain == pytest.approx(0)

    def test_is_not_told_from_few_points(self) -> None:
        """Four points give no interval worth the name, and the sentence says what is missing."""
        promise = expect(points(RISING[:4]), 20)
        assert (promise.gain, promise.low, promise.high) == (None, None, None)
        assert promise.says == "cannot be told yet: the learning curve has 4 points of at least 5"

    def test_the_interval_covers(self) -> None:
        """Over 1,000 noisy curves of the same slope its interval holds the true gain in 93 to 97 % of them."""
        generator, held = np.random.default_rng(0), 0
        for _ in range(1000):
            count = int(generator.integers(5, 13))
            promise = expect(points((0.7 + 0.002 * np.arange(count) + generator.normal(0, 0.005, count)).tolist()), 20)
            assert promise.low is not None
            assert promise.high is not None
            held += promise.low <= 0.002 <= promise.high
        assert 930 <= held <= 970


class TestFlat:
    """Whether the labels still bring something."""

    def test_a_flat_curve_is_found(self) -> None:
        """After twelve points with a noise of a tenth of a point the curve is known to be flat."""
        assert flat(points(FLAT), 20, 0.002)

    def test_a_rising_curve_is_not(self) -> None:
        """A point each cycle is worth its labels, and so are three tenths."""
        assert not flat(points(RISING), 20, 0.002)
        assert not flat(points([0.6 + 0.003 * step for step in range(12)]), 20, 0.002)

    def test_nor_is_a_curve_too_noisy_to_tell(self) -> None:
        """Where the interval is wide the loop goes on."""
        assert not flat(points([0.8 + 0.03 * (-1) ** step for step in range(12)]), 20, 0.002)

    def test_it_takes_three_in_a_row(self) -> None:
        """One expectation more than two below the threshold makes the pause."""
        first = next(end for end in range(5, 13) if (expect(points(FLAT[:end]), 20).high or 1) < 0.002)
        assert not flat(points(FLAT[: first + 1]), 20, 0.002)
        assert flat(points(FLAT[: first + 2]), 20, 0.002)

    def test_not_before_it_can_be_told(self) -> None:
        """However flat a few points are, they are too few."""
        assert not flat(points([0.8] * 6), 20, 0.002)
        assert flat(points([0.8] * 7), 20, 0.002)


def verdicts(count: int, uncertainty: float, *, medical: float = 0.2, seed: int = 0) -> list[tuple[Category, float]]:
    """Return verdicts of a mean uncertainty, a share of them medical."""
    generator = np.random.default_rng(seed)
    return [
        (Category.MEDICAL_ADVICE if generator.random() < medical else Category.NOT_HARMFUL, float(value))
        for value in generator.normal(uncertainty, 0.2, count)
    ]


class TestDrift:
    """Whether traffic is another than before."""

    def test_the_same_traffic_does_not_drift(self) -> None:
        """In 200 comparisons of the same traffic none is found to drift."""
        assert not any(drift(verdicts(500, 0.5, seed=s), verdicts(500, 0.5, seed=s + 1000)) for s in range(200))

    def test_more_uncertainty_is_drift_and_less_is_not(self) -> None:
        """A mean that rises by a tenth counts, one that falls does not."""
        assert drift(verdicts(500, 0.5), verdicts(500, 0.6, seed=1)) == (
            "mean uncertainty of new messages rose from 0.49 to 0.59"
        )
        assert drift(verdicts(500, 0.6), verdicts(500, 0.5, seed=1)) is None

    def test_another_mix_is_drift(self) -> None:
        """A category that comes twice as often counts."""
        said = drift(verdicts(500, 0.5), verdicts(500, 0.5, medical=0.4, seed=1))
        assert str(said).startswith("medical-advice went from")

    def test_few_messages_say_nothing(self) -> None:
        """Below a hundred on either side there is no drift."""
        assert drift(verdicts(500, 0.5), verdicts(99, 0.9)) is None
        assert drift(verdicts(99, 0.5), verdicts(500, 0.9)) is None


class TestRisen:
    """Whether audits find more errors."""

    def test_more_errors_are_seen(self) -> None:
        """Two of 40 before and four of 12 now are a rise (p = 0.02), two of 12 are not (p = 0.22)."""
        earlier = [False] * 2 + [True] * 38
        assert risen(earlier, [False] * 4 + [True] * 8)
        assert not risen(earlier, [False] * 2 + [True] * 10)

    def test_nothing_to_compare_is_no_rise(self) -> None:
        """Without audits on one of the sides nothing has risen."""
        assert not risen([], [False] * 9)
        assert not risen([True] * 9, [])


@pytest.fixture
async def world(guard_settings: GuardSettings, clock: Clock) -> AsyncIterator[World]:
    """A world on SQLite, with 150 messages of an uncertainty of a half."""
    async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
        made = await build(store, clock, guard_settings)
        await arrive(store, "before", uncertainty=0.5)
        yield made


async def arrive(store: Store, name: str, *, uncertainty: float, count: int = 150, reason: str = UNCERTAIN) -> None:
    """Put messages into the pool, seen now."""
    generator = np.random.default_rng(3)
    arrivals = [
        Arrival(
            text=f"{name} {number}",
            user=None,
            reason=reason,
            inclusion_probability=1.0 if reason == UNCERTAIN else 0.01,
            model_version="0001",
            category=Category.NOT_HARMFUL,
            scores=(1 / 6,) * 6,
            uncertainty=float(generator.normal(uncertainty, 0.1)),
            seen_at=store.clock(),
        )
        for number in range(count)
    ]
    await store.pool.add(arrivals, max_messages=10_000)


async def learn(world: World, curve_: Sequence[float], **audits: list[Category]) -> None:
    """Let cycles end with challengers on a curve; `audits` are the labels of the audit messages of the last three."""
    for place, value in enumerate(curve_):
        late = place >= len(curve_) - 3
        await end_one(world, value, audits.get("late" if late else "early", []))


async def end_one(world: World, macro_f1: float, labels: Sequence[Category]) -> None:
    """Let one cycle of audit picks end with a challenger of this macro-F1."""
    world.clock.advance(seconds=30)
    await world.store.leases.renew(LEARNER, fence=world.fence, ttl=timedelta(seconds=60))
    cycle = await world.store.cycles.open(
        fence=world.fence,
        strategy="random",
        seed=1,
        batch_size=4,
        champion="0001",
        due_at=world.clock() + timedelta(days=1),
    )
    await arrive(world.store, f"cycle {cycle.id}", uncertainty=0.5, count=4, reason=AUDIT)
    picks = [Picked(message_id, {}, 0.5) for message_id in await world.store.pool.audits()]
    await world.store.cycles.fill(cycle.id, picks, fence=world.fence, figures={})
    for label in labels or [Category.NOT_HARMFUL] * 4:
        held = await world.store.review.next("ann")
        assert held is not None
        await world.store.review.label(held.pick_id, reviewer="ann", category=label)
    await world.store.cycles.advance(
        cycle.id,
        fence=world.fence,
        source=CycleState.LABELLING,
        target=CycleState.HELD,
        figures={"gate": {"macro_f1": macro_f1, "rows": 900.0}},
    )
    world.clock.advance(seconds=1)


class TestPause:
    """The rule in the store."""

    async def test_a_flat_curve_pauses_the_loop(self, world: World) -> None:
        """The loop opens nothing and says what it expects, what ends the pause and how to go on by hand."""
        await learn(world, STILL)
        step = await world.loop().step()
        assert step.cycle_id is None
        assert str(step.waits_for).startswith("paused: the next 4 labels should bring")
        assert "LEARNER_PAUSE_BELOW" in str(step.waits_for)
        assert "at 2026-12-20" in str(step.waits_for)
        assert "`learner cycle`" in str(step.waits_for)

    async def test_a_rising_curve_does_not(self, world: World) -> None:
        """While the labels bring something the next cycle opens."""
        await learn(world, RISING[:8])
        assert (await world.loop().step()).state is CycleState.SELECTING

    async def test_a_person_is_not_held_up(self, world: World) -> None:
        """By hand a cycle opens in a pause."""
        await learn(world, STILL)
        loop = Loop(world.store, world.exports, world.settings, world.work, fence=world.fence, by_hand=True)
        assert (await loop.step()).state is CycleState.SELECTING

    async def test_the_setting_turns_it_off(self, world: World) -> None:
        """With a threshold of 0 the loop never pauses, not even on a curve that falls."""
        await learn(world, RISING[6::-1])
        assert await paused(world.store, world.settings) is not None
        assert await paused(world.store, world.settings.model_copy(update={"pause_below": 0.0})) is None

    async def test_drift_ends_it(self, world: World) -> None:
        """New messages like the old ones change nothing; once the model is less certain a cycle opens."""
        await learn(world, STILL)
        await arrive(world.store, "like before", uncertainty=0.5)
        assert await obstacle(world.store, world.exports, world.settings) is not None
        world.clock.advance(minutes=1)
        await arrive(world.store, "unlike before", uncertainty=0.8, count=300)
        assert await obstacle(world.store, world.exports, world.settings) is None

    async def test_audit_errors_end_it(self, world: World) -> None:
        """Where the audits of the last three cycles find more errors than those before there is no pause."""
        wrong = [Category.LEGAL_ADVICE] * 2 + [Category.NOT_HARMFUL] * 2
        await learn(world, STILL, late=wrong)
        assert await paused(world.store, world.settings) is None

    async def test_audit_errors_that_were_always_there_do_not(self, world: World) -> None:
        """A rate of errors that has not changed is no reason to go on."""
        wrong = [Category.LEGAL_ADVICE] * 2 + [Category.NOT_HARMFUL] * 2
        await learn(world, STILL, early=wrong, late=wrong)
        assert await paused(world.store, world.settings) is not None

    async def test_time_ends_it(self, world: World) -> None:
        """After `pause_days` one cycle measures anew, and if nothing has changed the loop pauses again."""
        await learn(world, STILL)
        world.clock.advance(days=29, hours=23)
        assert await paused(world.store, world.settings) is not None
        world.clock.advance(hours=2)
        assert await paused(world.store, world.settings) is None
        world.fence = await learner(world.store)
        await end_one(world, 0.8, [])
        assert await paused(world.store, world.settings) is not None
