"""Judged cycles come in; what the next labels should bring, and whether to pause, goes out.

`learner.cycle` asks before it opens a cycle. No pause is for good: it ends when traffic drifts and after `pause_days`, is
none where the audits of the last cycles found more errors, and `learner cycle` opens a cycle all the same.
"""

import math
from collections.abc import Sequence
from datetime import timedelta
from itertools import takewhile
from statistics import fmean, variance
from typing import Final

from guard.curve import LOOKBACK, Expectation, Point, curve, expect
from guard.store import Store
from guard.taxonomy import CATEGORIES, Category
from learner.settings import LearnerSettings

_IN_A_ROW: Final = 3
_ARRIVALS: Final = 500  # messages compared on either side of the pause,
_FEW: Final = 100  # and how many there must be
_MARGIN: Final = 0.05  # change of a mean or a share below which nobody need care
_ERRORS: Final = 4.0  # standard errors of a drift: seven figures are looked at every few seconds, for weeks
_RARE: Final = 0.05  # chance of so many audit errors late, were they no more frequent than before

_Verdicts = Sequence[tuple[Category, float]]


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
    return expect(curve(await store.cycles.recent(LOOKBACK)), settings.batch_size)


async def paused(store: Store, settings: LearnerSettings) -> str | None:
    """Return why no cycle opens by itself, and what will end that; None when nothing is in the way.

    Nothing is kept of a pause: it is found anew from cycles, audits and messages each time, so it cannot outlast them.
    """
    cycles = await store.cycles.recent(LOOKBACK)
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
