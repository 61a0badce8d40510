"""Draws whose probabilities are known."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.draws import inclusion, systematic, thin


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=30), st.integers(0, 35), st.integers(0, 99))
def test_probabilities_add_up_to_the_draws(weights: list[float], count: int, seed: int) -> None:
    """They lie in [0, 1], add up to the count, rise with the weight, and as many different rows are drawn."""
    given_weights = np.array(weights)
    probabilities = inclusion(given_weights, count)
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    assert probabilities.sum() == pytest.approx(min(count, len(weights)))
    assert (np.diff(probabilities[np.argsort(given_weights)]) >= 0).all()
    assert len(set(systematic(probabilities, np.random.default_rng(seed)).tolist())) == min(count, len(weights))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=50), st.integers(1, 50))
def test_nothing_is_all_but_excluded(weights: list[float], count: int) -> None:
    """However small its weight a row has a twentieth of an even chance: in an estimate it stands for 20 n / N at most."""
    assert inclusion(np.array(weights), count).min() >= 0.0499 * min(1.0, count / len(weights))


USERS: list[tuple[str, ...]] = [("ann",)] * 6 + [("ann", "bob")] * 2 + [("bob",)] * 3 + [("eve",)] + [()] * 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcde"), unique=True, max_size=3), max_size=40), st.integers(0, 4))
def test_thinning_leaves_nobody_above_their_room(several: list[list[str]], cap: int) -> None:
    """Whoever sent what with whom, of each user at most the cap is left, and of nobody known everything."""
    users = [tuple(names) for names in several]
    left = thin(users, np.ones(len(users)), lambda _: cap, np.random.default_rng(0)) > 0
    assert max(Counter(user for row in np.flatnonzero(left) for user in users[row]).values(), default=0) <= cap
    assert all(left[row] for row, names in enumerate(users) if not names)


def test_thinning_leaves_all_where_there_is_room() -> None:
    """A user below the cap loses nothing, and the probability is 1."""
    assert (thin(USERS, np.ones(15), lambda _: 8, np.random.default_rng(0)) == 1).all()


def test_thinning_draws_among_what_is_left() -> None:
    """Of messages that two users sent together as many are left as the cap allows, not fewer for the second's turn."""
    for seed in range(20):
        left = thin([("ann", "bob")] * 9, np.ones(9), lambda _: 2, np.random.default_rng(seed)) > 0
        assert left.sum() == 2


def test_thinning_weighs_back() -> None:
    """Weighed by what is stated each message counts once on average, those of two crowded users among them."""
    weights, counts = np.linspace(0.1, 1, 15), np.zeros((4000, 15))
    for seed in range(4000):
        stated = thin(USERS, weights, lambda _: 2, np.random.default_rng(seed))
        counts[seed, stated > 0] = 1 / stated[stated > 0]
    errors = counts.std(axis=0) / np.sqrt(4000)
    assert (np.abs(counts.mean(axis=0) - 1) <= 4 * errors).all()
    assert counts[:, 11:].std() == 0  # eve and the unknown are not thinned


def test_thinning_keeps_the_heavier() -> None:
    """Of a user's messages those of more weight stay more often."""
    left = np.zeros(6)
    for seed in range(300):
        left += (
            thin([("ann",)] * 6, np.array([1, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9]), lambda _: 1, np.random.default_rng(seed))
            > 0
        )
    assert left[0] > 0.9 * 300
