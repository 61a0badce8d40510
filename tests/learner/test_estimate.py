"""Error rates and their intervals: exact where the weights are equal, honest where a stratum is thin."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from guard.taxonomy import CATEGORIES, Category
from learner.estimate import LEAST_LABELS, Measure, Rate, Sample, poststratified, proportion, rates

SELF_HARM, LEGAL, CLEAR = (
    CATEGORIES.index(c) for c in (Category.SELF_HARM, Category.LEGAL_ADVICE, Category.NOT_HARMFUL)
)


def sample(*rows: tuple[int, int, float, bool], totals: Any = None) -> Sample:
    """Return a sample of rows of truth, verdict, weight and whether the model was certain; its totals are its own sums."""
    truth, verdicts, weights, certain = (np.array(column) for column in zip(*rows, strict=True))
    own = [np.bincount(verdicts, weights * (certain == sure), len(CATEGORIES)) for sure in (False, True)]
    votes = np.eye(len(CATEGORIES))[truth]
    return Sample(verdicts, certain, votes, weights.astype(float), weights.astype(float), np.array(totals or own))


def flags(hits: int, rest: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the rows of so many hits and others."""
    return np.repeat([1.0, 0.0], [hits, rest]), np.repeat([0.0, 1.0], [hits, rest])


@pytest.mark.parametrize(("hits", "rest"), [(0, 20), (1, 9), (7, 13), (30, 1), (12, 0)])
@pytest.mark.parametrize("weight", [1.0, 250.0])
def test_equal_weights_give_clopper_pearson(hits: int, rest: int, weight: float) -> None:
    """Whatever all weigh, as long as it is the same, estimate and interval are the exact ones of a plain share."""
    weights = np.full(hits + rest, weight)
    exact = binomtest(hits, hits + rest).proportion_ci(0.95)
    value, low, high = proportion(*flags(hits, rest), weights, weights)
    assert value == pytest.approx(hits / (hits + rest))
    assert [low, high] == pytest.approx([exact.low, exact.high])


def test_the_interval_mirrors() -> None:
    """The interval of what is not in A is the other one turned round."""
    hits, rest = flags(3, 17)
    weights = np.linspace(1, 60, 20)
    value, low, high = proportion(hits, rest, weights, weights)
    assert proportion(rest, hits, weights, weights) == pytest.approx((1 - value, 1 - high, 1 - low))


def test_nothing_seen_in_a_thin_stratum_is_no_certainty() -> None:
    """Twenty hits of weight 1 and one other row that stands for 500 leave nearly everything open."""
    value, low, high = proportion(*flags(20, 1), np.array([1.0] * 20 + [500.0]), np.array([1.0] * 20 + [500.0]))
    assert value == pytest.approx(20 / 520)
    assert low < 0.01
    assert high > 0.5


def test_a_text_that_came_often() -> None:
    """Of 30 harmless texts one came 1,000 times: the next error is still expected to be of one verdict, not of 1,000."""
    hits, rest = flags(0, 30)
    often = proportion(hits, rest, np.array([1000.0, *np.ones(29)]), np.ones(30))
    heavy = proportion(hits, rest, np.array([1000.0, *np.ones(29)]), np.array([1000.0, *np.ones(29)]))
    assert often[2] < 0.05
    assert heavy[2] > 0.9


def test_measures() -> None:
    """Each measure is the share of weights its definition says, of the category and against the rest."""
    rows = [(SELF_HARM, SELF_HARM, 6, False)] * 5 + [(SELF_HARM, CLEAR, 2, False)] * 5
    rows += [(SELF_HARM, LEGAL, 1, True)] * 10 + [(CLEAR, SELF_HARM, 5, False)] * 6 + [(CLEAR, CLEAR, 30, True)] * 20
    found = rates(sample(*rows))
    value = {measure: found[measure, Category.SELF_HARM].value for measure in Measure}
    assert value == {
        Measure.MISS_RATE: pytest.approx(20 / 50),
        Measure.CLEARED_RATE: pytest.approx(10 / 50),
        Measure.FALSE_ALARM_RATE: pytest.approx(30 / 630),
        Measure.PRECISION: pytest.approx(30 / 60),
    }
    assert found[Measure.MISS_RATE, Category.SELF_HARM].labels == 20
    assert found[Measure.MISS_RATE, Category.SELF_HARM].naive == pytest.approx(15 / 20)
    assert (Measure.CLEARED_RATE, Category.NOT_HARMFUL) not in found
    assert len(found) == 4 * len(CATEGORIES) - 1


def test_too_few_labels() -> None:
    """Below ten labels a figure is absent, and its labels are told all the same."""
    rows = [(CLEAR, CLEAR, 1, True)] * 30
    few = rates(sample(*rows, *[(LEGAL, LEGAL, 1, True)] * (LEAST_LABELS - 1)))
    assert few[Measure.MISS_RATE, Category.LEGAL_ADVICE] == Rate(None, None, None, 0.0, 9)
    assert few[Measure.MISS_RATE, Category.SELF_HARM] == Rate(None, None, None, None, 0)
    enough = rates(sample(*rows, *[(LEGAL, LEGAL, 1, True)] * LEAST_LABELS))
    assert enough[Measure.MISS_RATE, Category.LEGAL_ADVICE].value == 0


def test_a_stream_without_labels_leaves_everything_open() -> None:
    """Where certain verdicts were given and none was audited no figure is told: nothing is known of them."""
    rows = [(LEGAL, LEGAL, 1.0, False)] * 30
    totals = np.ones((2, len(CATEGORIES)))
    assert all(rate.value is None for rate in rates(sample(*rows, totals=totals.tolist())).values())
    totals[1] = 0
    assert rates(sample(*rows, totals=totals.tolist()))[Measure.PRECISION, Category.LEGAL_ADVICE].value == 1


def test_precision_needs_labels_of_both_streams() -> None:
    """With two audited verdicts that name a category, and others of them in the traffic, its precision is absent."""
    rows = [(CLEAR, CLEAR, 1.0, True)] * 30 + [(LEGAL, LEGAL, 1.0, False)] * 20
    few, enough = (rates(sample(*rows, *[(LEGAL, LEGAL, 9.0, True)] * count)) for count in (2, 3))
    assert few[Measure.PRECISION, Category.LEGAL_ADVICE] == Rate(None, None, None, 1.0, 22)
    assert few[Measure.MISS_RATE, Category.LEGAL_ADVICE].value == 0
    assert enough[Measure.PRECISION, Category.LEGAL_ADVICE].value == 1
    assert rates(sample(*rows))[Measure.PRECISION, Category.LEGAL_ADVICE].value == 1


def test_poststratified() -> None:
    """Weights of each stream and category sum to its verdicts; cells of few labels are scaled together."""
    rows = [(CLEAR, CLEAR, 10.0, True)] * 6 + [(CLEAR, LEGAL, 1.0, True)] * 2 + [(CLEAR, SELF_HARM, 1.0, True)] * 2
    totals = np.zeros((2, len(CATEGORIES)))
    totals[1, [CLEAR, LEGAL, SELF_HARM]] = 90, 3, 5
    scaled = poststratified(sample(*rows, totals=totals.tolist()))
    assert scaled.weights[:6].tolist() == [15] * 6
    assert scaled.weights[6:].tolist() == scaled.single[6:].tolist() == [2] * 4


def test_divided_reviewers_share_a_message_out() -> None:
    """A message of two opinions counts half for each, and less than two messages with one opinion each."""
    rows = [(LEGAL, LEGAL, 4.0, False)] * 20 + [(LEGAL, CLEAR, 4.0, False)] * 10
    certain = sample(*rows)
    votes = certain.votes.copy()
    votes[20:, CLEAR] = votes[20:, LEGAL] = 0.5
    rate, whole = (rates(s)[Measure.MISS_RATE, Category.LEGAL_ADVICE] for s in (replace(certain, votes=votes), certain))
    assert rate.labels == 25
    assert rate.value == pytest.approx(5 / 25)
    assert whole.value == pytest.approx(10 / 30)
    assert _width(rate) < _width(whole)


def test_the_scatter_of_votes_is_in_the_interval() -> None:
    """One vote each or all votes shared out: both intervals hold the truth 93 to 99.5 times in a hundred, 600 samples."""
    generator = np.random.default_rng(4)
    opinion = np.where(np.arange(4000) % 5 == 0, 0.6, 1.0)  # how many reviewers call the message legal advice
    verdicts = np.where(generator.random(4000) < 0.1, CLEAR, LEGAL)
    truth = opinion[verdicts == CLEAR].sum() / opinion.sum()
    held = np.zeros((600, 2))
    for turn in held:
        chances = np.where(verdicts == CLEAR, 0.03, 0.015)
        rows = np.flatnonzero(generator.random(4000) < chances)
        for place, reviewers in enumerate((1, 4)):
            shares = generator.binomial(reviewers, opinion[rows]) / reviewers
            hits = shares * (verdicts[rows] == CLEAR)
            _, low, high = proportion(hits, shares - hits, 1 / chances[rows], 1 / chances[rows])
            turn[place] = low <= truth <= high
    assert (held.mean(axis=0) > 0.93).all()
    assert (held.mean(axis=0) < 0.995).all()


def _width(rate: Rate) -> float:
    assert rate.low is not None
    assert rate.high is not None
    return rate.high - rate.low
