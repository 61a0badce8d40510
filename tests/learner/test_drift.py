"""Drift: nothing where nothing moved, the textbook's figure where something did, absent where nobody can tell."""

import math

import numpy as np
import pytest

from guard.store.entries import Share
from guard.taxonomy import CATEGORIES, Category
from learner.drift import Drift, drift


def traffic(*counts: int, tenth: int = 0, weight: float = 1.0) -> list[Share]:
    """Return so many verdicts of each category, in the order of the taxonomy, each let in with 1 / weight."""
    return [
        Share(category, tenth, count * weight, count * weight**2)
        for category, count in zip(CATEGORIES, counts, strict=False)
    ]


def test_the_index() -> None:
    """Of large samples it is Σ (p - q) ln(p / q); only what moved is told to have moved."""
    found = drift(traffic(500_000, 500_000), traffic(400_000, 600_000))
    assert found[Drift.CLASS_MIX] == pytest.approx(0.1 * math.log(1.2) + 0.1 * math.log(1.25), abs=1e-3)
    assert found[Drift.UNCERTAINTY] == 0


def test_uncertainty() -> None:
    """A model that has become uncertain has drifted, though the categories are the same."""
    found = drift(traffic(500, 500, tenth=1), traffic(500, 500, tenth=7))
    assert found[Drift.CLASS_MIX] == 0
    assert (found[Drift.UNCERTAINTY] or 0) > 1


def test_chance_alone_is_no_drift() -> None:
    """Two samples of one traffic differ; of 300 pairs the mean index is below 0.02 and nine in ten stay below 0.1."""
    generator = np.random.default_rng(0)
    shares = [0.05, 0.1, 0.1, 0.1, 0.05, 0.6]
    found = [
        drift(*(traffic(*generator.multinomial(n, shares).tolist()) for n in (400, 150)))[Drift.CLASS_MIX] or 0.0
        for _ in range(300)
    ]
    assert np.mean(found) < 0.02
    assert np.quantile(found, 0.9) < 0.1


def test_weights_are_not_observations() -> None:
    """Ninety-nine verdicts are too few, even where each stands for a hundred."""
    enough = traffic(100)
    assert drift(enough, traffic(99, weight=100.0)) == {Drift.CLASS_MIX: None, Drift.UNCERTAINTY: None}
    assert drift(traffic(), enough) == {Drift.CLASS_MIX: None, Drift.UNCERTAINTY: None}
    assert drift(traffic(100, weight=100.0), enough) == {Drift.CLASS_MIX: 0, Drift.UNCERTAINTY: 0}


def test_a_category_that_was_not_there() -> None:
    """A category of which there was none before gives a number, not infinity."""
    found = drift(traffic(1000), [*traffic(900), Share(Category.NOT_HARMFUL, 0, 100, 100)])
    assert 0.3 < (found[Drift.CLASS_MIX] or 0) < 1.5
