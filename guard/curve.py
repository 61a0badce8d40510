"""The learning curve: judged cycles come in; its points and what the next labels should bring go out.

`learner.stopping` pauses the loop by it, the loop page of the desk shows it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Final

from guard.store.rows import Cycle

LOOKBACK: Final = 60  # cycles read, failed ones among them
_WINDOW: Final = (
    12  # points fitted: with 0.7 points of noise in each, 20 labels are told to ± 0.13 points by 12, ± 0.26 by 8
)
_LEAST: Final = 5
# 97.5 % point of Student's t with 3, 4, … 10 degrees of freedom: `learner status` need not load scipy for eight numbers
_T: Final = (3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


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
