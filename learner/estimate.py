"""Labelled verdicts with their weights come in; error rates with 95 % intervals go out.

`learner.weights` says how many verdicts each stands for, `learner.monitor` brings both from the store and the rates back.

**Estimator.** Every rate is A / (A + B), where A and B are totals over disjoint sets of verdicts (missed and not missed,
say), each the sum of w q over the labelled ones: w is how many verdicts one stands for, q the share of the reviewers who
put its message into the set. This is Hájek's ratio (Särndal, Swensson and Wretman 1992, section 5.7). The weights are
first poststratified (section 7.6 there): within each stream and predicted category they are scaled to the number of
verdicts that the pool knows of.

**Interval.** A weighted sum of Poisson counts y with variance estimate v = Σ w² q² has the gamma limits of Fay and Feuer
(1997, Statistics in Medicine 16, 791-801): below of G(y²/v, v/y), above of the same after one more observation of weight
w*. The limits of A and B are melded into those of A / (A + B) (Fay, Proschan and Brittain 2015, Biometrics 71, 146-156):
the upper one is the 97.5 % point of U_A / (U_A + L_B), a scaled beta. With equal weights both are Clopper and Pearson's
exact limits. What matters for rare errors: with none observed the upper limit is that of one more observation as heavy
as those that make up the rate's denominator, so a thin audit of much traffic is never taken for certainty. w* is Σ w² q /
Σ w q over the denominator, the mean weight that a verdict of the traffic has there. Fay and Feuer take the greatest,
which is never too short, and too long by far where weights are as skewed as those of picks: in `benchmarks.estimates`
it holds the truth up to 99.8 times in a hundred, this one 93.5 to 99.2 and is up to twice as short; with the root mean
square (nearest to Tiwari, Clegg and Zou 2006) it would be 1 to 2 less.

**Disagreement.** q enters as it is: the truth is what reviewers would say on average, a message about which they are
divided counts for each category with its share of the votes. Σ w² q² holds the scatter of the votes, for they are drawn
with the message; no imputation is needed for a total.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from guard.taxonomy import CATEGORIES, Category

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int_]  # into CATEGORIES

LEAST_LABELS: Final = 10
_LEAST_IN_CELL: Final = 5
_LEAST_OF_STREAM: Final = 3
_TAIL: Final = 0.025
_NOT_HARMFUL: Final = CATEGORIES.index(Category.NOT_HARMFUL)


class Measure(StrEnum):
    """How often the guard is wrong about a category; c is the category, verdicts are weighed back to all of them."""

    MISS_RATE = "miss_rate"
    """Of the verdicts on messages that are c: those that name another category."""
    CLEARED_RATE = "cleared_rate"
    """Of the verdicts on messages that are c, for a harmful c: those that say not-harmful. Part of the misses."""
    FALSE_ALARM_RATE = "false_alarm_rate"
    """Of the verdicts on messages that are not c: those that name c."""
    PRECISION = "precision"
    """Of the verdicts that name c: those on messages that are c."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled verdicts of one model version, one row for those of one kind about one message.

    Args:
        verdicts: `(n,)` the categories given.
        certain: `(n,)` whether they came by the audit stream.
        votes: `(n, 6)` what share of the reviewers said what; rows sum to 1.
        weights: `(n,)` how many verdicts each row stands for.
        single: `(n,)` the part of it that one verdict has, where a text came more than once.
        totals: `(2, 6)` how many verdicts there were, by `certain` and category, by all that the pool holds.
    """

    verdicts: Indices
    certain: Flags
    votes: Floats
    weights: Floats
    single: Floats
    totals: Floats


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate with its 95 % interval; None where there are too few labels.

    Args:
        naive: The rate over the labels as they are, unweighted.
        labels: How many there are in its denominator; votes are shared out.
    """

    value: float | None
    low: float | None
    high: float | None
    naive: float | None
    labels: float


def rates(sample: Sample) -> dict[tuple[Measure, Category], Rate]:
    """Return every measure of every category.

    All are absent where a stream has verdicts but no label: then nothing is known of a part of the traffic. So is the
    precision of a category of which a stream has verdicts but fewer than three labels. To ask for more than a number of
    labels elsewhere, an effective one, would choose the samples by what was found in them: at 5 by Kish's measure, the
    precision of self-harm in the thin scenario of `benchmarks.estimates` is told in 27 months of a hundred, and is 26
    points too low in these.
    """
    seen = [bool((sample.certain == certain).any()) for certain in (False, True)]
    known = all(seen[certain] or not sample.totals[certain].any() for certain in (0, 1))
    sample = poststratified(sample)
    return {
        (measure, category): _rate(
            sample, hits, rest, known=known and (measure is not Measure.PRECISION or _told(sample, category))
        )
        for measure, category, hits, rest in _sets(sample)
    }


def _told(sample: Sample, category: Category) -> bool:
    """Return whether people have seen enough verdicts that name a category, of either stream."""
    index = CATEGORIES.index(category)
    counts = [int(((sample.certain == certain) & (sample.verdicts == index)).sum()) for certain in (False, True)]
    return all(
        count >= _LEAST_OF_STREAM or not total for count, total in zip(counts, sample.totals[:, index], strict=True)
    )


def poststratified(sample: Sample) -> Sample:
    """Scale the weights so that those of each stream and category sum to its total; small cells go together."""
    factors = np.ones(len(sample.weights))
    for certain in (False, True):
        stream, totals = sample.certain == certain, sample.totals[int(certain)]
        counts = np.bincount(sample.verdicts[stream], minlength=len(CATEGORIES))
        full = counts >= _LEAST_IN_CELL
        cells = [(stream & (sample.verdicts == c), totals[c]) for c in np.flatnonzero(full)]
        cells.append((stream & ~full[sample.verdicts], totals[~full].sum()))
        for rows, total in cells:
            weight = sample.weights[rows].sum()
            if weight > 0 and total > 0:
                factors[rows] = total / weight
    return replace(sample, weights=sample.weights * factors, single=sample.single * factors)


def proportion(hits: Floats, rest: Floats, weights: Floats, single: Floats) -> tuple[float, float, float]:
    """Return A / (A + B) and the ends of its 95 % interval.

    Args:
        hits: `(n,)` the share of each row that belongs to A.
        rest: `(n,)` that which belongs to B; one of them is not 0 in some row.
        weights: `(n,)` how many verdicts each row stands for.
        single: `(n,)` how many one verdict of it does.
    """
    members = hits + rest
    next_ = float((single * single) @ members) / float(single @ members)
    a, b = (_Total(float(weights @ q), float((weights * q) @ (weights * q)), next_) for q in (hits, rest))
    return a.amount / (a.amount + b.amount), 1 - _upper(b, a), _upper(a, b)


@dataclass(frozen=True, slots=True)
class _Total:
    """A weighted count, its variance, and the weight of one more."""

    amount: float
    variance: float
    next: float


def _upper(total: _Total, other: _Total) -> float:
    """Return the upper limit of total / (total + other)."""
    if other.amount <= 0:
        return 1.0
    amount, variance = total.amount + total.next, total.variance + total.next**2
    shape, scale = amount**2 / variance, variance / amount
    other_shape, other_scale = other.amount**2 / other.variance, other.variance / other.amount
    share = float(betaincinv(shape, other_shape, 1 - _TAIL))
    return scale * share / (scale * share + other_scale * (1 - share))


def _sets(sample: Sample) -> Iterator[tuple[Measure, Category, Floats, Floats]]:
    """Yield for each measure and category the shares of each row in A and in B."""
    cleared = (sample.verdicts == _NOT_HARMFUL).astype(np.float64)
    for index, category in enumerate(CATEGORIES):
        truly, named = sample.votes[:, index], (sample.verdicts == index).astype(np.float64)
        yield Measure.MISS_RATE, category, truly * (1 - named), truly * named
        if index != _NOT_HARMFUL:
            yield Measure.CLEARED_RATE, category, truly * cleared, truly * (1 - cleared)
        yield Measure.FALSE_ALARM_RATE, category, (1 - truly) * named, (1 - truly) * (1 - named)
        yield Measure.PRECISION, category, truly * named, (1 - truly) * named


def _rate(sample: Sample, hits: Floats, rest: Floats, *, known: bool) -> Rate:
    labels = float((hits + rest).sum())
    naive = float(hits.sum()) / labels if labels else None
    if not known or labels < LEAST_LABELS:
        return Rate(None, None, None, naive, labels)
    value, low, high = proportion(hits, rest, sample.weights, sample.single)
    return Rate(value, low, high, naive, labels)
