"""Judged cycles come in; what the next labels should bring, and whether to pause, goes out.

`learner.cycle` asks before it opens a cycle. No pause is for good: it ends when traffic drifts and after `pause_days`, is
none where the audits of the last cycles found more errors, and `learner cycle` opens a cycle all the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from statistics import fmean, linear_regression, variance
from typing import Final

from guard.store import Store
from guard.store.rows import Cycle
from guard.taxonomy import CATEGORIES, Category
from learner.settings import LearnerSettings

_LOOKBACK: Final = 60  # cycles read, failed ones among them
_WINDOW: Final = (
    12  # points fitted: with 0.7 points of noise in each, 20 labels are told to ± 0.13 points by 12, ± 0.26 by 8
)
_LEAST: Final = 5
_IN_A_ROW: Final = 3
# 97.5 % point of Student's t with 3, 4, … 10 degrees of freedom: `learner status` need not load scipy for eight numbers
_T: Final = (3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_ARRIVALS: Final = 500  # messages compared on either side of the pause,
_FEW: Final = 100  # and how many there must be
_MARGIN: Final = 0.05  # change of a mean or a share below which nobody need care
_ERRORS: Final = 4.0  # standard errors of a drift: seven figures are looked at every few seconds, for weeks
_RARE: Final = 0.05  # chance of so many audit errors late, were they no more frequent than before

_Verdicts = Sequence[tuple[Category, float]]


@dataclass(frozen=True, slots=True)
class Point:
    """A challenger on the learning curve: labels spent in all, and its macro-F1 on the gate set."""

    labels: int
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the next labels should bring.

    Args:
        labels: How many.
        gain: Of macro-F1, in shares of 1, with the ends of its 95 % interval; None where it cannot be told.
        says: The same, or why it cannot be told, in a sentence.
    """

    labels: int
    gain: float | None
    low: float | None
    high: float | None
    says: str


def curve(cycles: Sequence[Cycle]) -> list[Point]:
    """Return the learning curve, oldest first: every judged challenger, promoted or held, by the labels spent till then.

    Where the cycles go back to the first one, the champion of that time is the beginning. A gate set of another size
    begins a new curve.

    Args:
        cycles: Newest first, as `store.cycles.recent` gives them.
    """
    points: list[Point] = []
    spent, rows, began = 0, None, bool(cycles) and cycles[-1].id == 1
    for cycle in reversed(cycles):
        spent += cycle.labels_spent
        gate = cycle.figures.get("gate", {})
        if "macro_f1" not in gate:
            continue
        if points and gate.get("rows") != rows:
            points, began = [], False
        if not points and began and "champion.macro_f1" in gate:
            points.append(Point(0, gate["champion.macro_f1"]))
        rows = gate.get("rows")
        points.append(Point(spent, gate["macro_f1"]))
    return points


def expect(points: Sequence[Point], labels: int) -> Expectation:
    """Return what the next labels should bring, by the slope of the curve's last twelve points.

    Least squares with Student's interval of the slope: a power law has three parameters, which so few and noisy points
    do not give. Curves flatten, so a straight line errs towards too much, and the loop asks longer rather than less.
    The interval is of the learner's noise on this gate set, not of another gate set.
    """
    window = points[-_WINDOW:]
    if len(window) < _LEAST:
        says = f"cannot be told yet: the learning curve has {len(window)} points of at least {_LEAST}"
        return Expectation(labels, None, None, None, says)
    x, y = [float(point.labels) for point in window], [point.macro_f1 for point in window]
    slope, start = linear_regression(x, y)
    freedom = len(window) - 2
    residual = math.fsum((v - start - slope * u) ** 2 for u, v in zip(x, y, strict=True)) / freedom
    error = math.sqrt(residual / math.fsum((u - fmean(x)) ** 2 for u in x))
    half = _T[freedom - 3] * error
    gain, low, high = (labels * value for value in (slope, slope - half, slope + half))
    says = (
        f"the next {labels} labels should bring {100 * gain:+z.1f} points of macro-F1 "
        f"(95 % between {100 * low:+z.1f} and {100 * high:+z.1f})"
    )
    return Expectation(labels, gain, low, high, says)


def flat(points: Sequence[Point], labels: int, below: float) -> bool:
    """Return whether after each of the last three judged cycles the next labels could bring less than `below` only."""
    ends = range(len(points), len(points) - _IN_A_ROW, -1)
    bounds = [expect(points[: max(end, 0)], labels).high for end in ends]
    return all(bound is not None and bound < below for bound in bounds)


def drift(before: _Verdicts, after: _Verdicts) -> str | None:
    """Return how traffic has changed: the model is less certain, or categories come in other shares; None when not.

    Both are plain means over what entered the pool. They are not those of the traffic, but the same of the same traffic.
    """
    if min(len(before), len(after)) < _FEW:
        return None
    old, new = ([uncertainty for _, uncertainty in verdicts] for verdicts in (before, after))
    if fmean(new) > fmean(old) and _differ(old, new):
        return f"mean uncertainty of new messages rose from {fmean(old):.2f} to {fmean(new):.2f}"
    for category in CATEGORIES:
        old, new = ([float(verdict is category) for verdict, _ in verdicts] for verdicts in (before, after))
        if _differ(old, new):
            return f"{category} went from {fmean(old):.0%} to {fmean(new):.0%} of new messages"
    return None


def _differ(old: Sequence[float], new: Sequence[float]) -> bool:
    error = math.sqrt(variance(old) / len(old) + variance(new) / len(new))
    return abs(fmean(new) - fmean(old)) > max(_MARGIN, _ERRORS * error)


def risen(earlier: Sequence[bool], late: Sequence[bool]) -> bool:
    """Return whether errors are more frequent among the late audits (Fisher's exact test, one-sided, 5 %).

    Args:
        earlier: Whether the verdict was right, for each audited message.
        late: Likewise.
    """
    wrong, drawn = late.count(False), len(late)
    total, errors = drawn + len(earlier), wrong + earlier.count(False)
    if not earlier or not drawn:
        return False
    tail = sum(
        math.comb(errors, k) * math.comb(total - errors, drawn - k) for k in range(wrong, min(errors, drawn) + 1)
    )
    return tail / math.comb(total, drawn) < _RARE


async def expected(store: Store, settings: LearnerSettings) -> Expectation:
    """Return what a batch of the usual size should bring."""
    return expect(curve(await store.cycles.recent(_LOOKBACK)), settings.batch_size)


async def paused(store: Store, settings: LearnerSettings) -> str | None:
    """Return why no cycle opens by itself, and what will end that; None when nothing is in the way.

    Nothing is kept of a pause: it is found anew from cycles, audits and messages each time, so it cannot outlast them.
    """
    cycles = await store.cycles.recent(_LOOKBACK)
    points = curve(cycles)
    if not settings.pause_below or not flat(points, settings.batch_size, settings.pause_below):
        return None
    judged = [cycle for cycle in cycles if "macro_f1" in cycle.figures.get("gate", {})]
    since = judged[0].closed_at or judged[0].opened_at
    until = since + timedelta(days=settings.pause_days)
    if store.clock() >= until:
        return None
    audits = await store.cycles.audits()
    earlier = [right for _, right in takewhile(lambda audit: audit[0] < judged[_IN_A_ROW - 1].id, audits)]
    if risen(earlier, [right for _, right in audits[len(earlier) :]]):
        return None
    before = await store.pool.verdicts(until=since, limit=_ARRIVALS)
    if drift(before, await store.pool.verdicts(after=since, limit=_ARRIVALS)) is not None:
        return None
    return (
        f"{expect(points, settings.batch_size).says}; for {_IN_A_ROW} cycles the upper end has not reached "
        f"{100 * settings.pause_below:g} (LEARNER_PAUSE_BELOW); one opens when traffic drifts or audits find more "
        f"errors, at {until:%Y-%m-%d %H:%M} UTC, or by `learner cycle`"
    )
