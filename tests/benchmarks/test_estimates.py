"""The simulated months: truth by hand, votes as expected, and intervals that hold, in a few months of the thousand."""

import numpy as np
import pytest

from benchmarks.estimates import SCENARIOS, Scenario, _truth, _voted_twice, _votes, month, summary
from guard.taxonomy import CATEGORIES, Category
from learner.estimate import Measure

SCENARIO = next(iter(SCENARIOS.values()))


def test_truth() -> None:
    """The measures of eight verdicts, two of them on texts about which opinions are divided, are the definitions'."""
    verdicts = np.array([0, 1, 2, 3, 4, 5, 0, 5])
    opinions = np.vstack([np.eye(6), np.zeros((2, 6))])
    opinions[6:, [0, 5]] = 0.75, 0.25
    truth = _truth(verdicts, opinions)
    assert truth[Measure.MISS_RATE, Category.SELF_HARM] == pytest.approx(0.75 / 2.5)
    assert truth[Measure.CLEARED_RATE, Category.SELF_HARM] == pytest.approx(0.75 / 2.5)
    assert truth[Measure.PRECISION, Category.SELF_HARM] == pytest.approx(1.75 / 2)
    assert truth[Measure.FALSE_ALARM_RATE, Category.SELF_HARM] == pytest.approx(0.25 / 5.5)


def test_votes_are_as_expected() -> None:
    """Asked twice, and thrice where two disagree, reviewers' shares are on average what the truth is reckoned with."""
    opinions, generator = np.array([0.6, 0.3, 0.1, 0, 0, 0]), np.random.default_rng(3)
    votes = np.array([_votes(opinions, generator, twice=True) for _ in range(20_000)])
    assert votes.mean(axis=0) == pytest.approx(_voted_twice(opinions[None])[0], abs=0.01)
    assert _voted_twice(opinions[None]).sum() == pytest.approx(1)


@pytest.mark.slow
def test_intervals_hold_the_truth() -> None:
    """Of 60 months the intervals of all figures together hold 93 to 99.5 %, where those of the naive rate hold few."""
    figures = summary([month(seed, SCENARIO) for seed in range(60)])
    each = [one for by_category in figures.values() for one in by_category.values()]
    assert len(each) == 4 * len(CATEGORIES) - 1
    assert all(one["given"] > 0.9 for one in each)
    assert 0.93 < np.mean([one["coverage"] for one in each]) < 0.995
    assert all(abs(one["bias"]) < 0.5 + 3.5 * one["bias_error"] for one in each)
    assert np.mean([one["naive_coverage"] for one in each]) < 0.5
    assert figures["miss_rate"]["emergency-situation"]["positives"] < 30


@pytest.mark.slow
def test_little_is_said_of_little() -> None:
    """With five labels a week no rate of a rare category is told."""
    figures = summary([month(seed, Scenario(audit_share=0.2, batch=5, cycles=4)) for seed in range(5)])
    assert figures["miss_rate"]["self-harm"]["given"] == 0
    assert figures["miss_rate"]["emergency-situation"]["given"] == 0
