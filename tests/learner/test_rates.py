"""Accept rates with their intervals, and how many variations a category still wants."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.taxonomy import CATEGORIES, Category
from learner.rates import Offer, accept_rates, jeffreys, quotas

MEDICAL, LEGAL = Category.MEDICAL_ADVICE, Category.LEGAL_ADVICE


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2172), (10, 10, 0.7828, 1.0), (3, 10, 0.0927, 0.6058), (5, 10, 0.2235, 0.7765), (0, 0, 0.0, 1.0)],
)
def test_jeffreys(successes: int, trials: int, low: float, high: float) -> None:
    """The interval has the values of the published tables, and is closed at the ends of the scale."""
    assert jeffreys(successes, trials) == pytest.approx((low, high), abs=1e-4)


def _offers(category: Category, *shares: tuple[int, int]) -> Counter[str]:
    return Counter(Offer(category, accepted, offered).name for accepted, offered in shares)


@pytest.mark.parametrize("category", CATEGORIES)
def test_offer_is_its_name(category: Category) -> None:
    """What is counted under a name is read back from it."""
    offer = Offer(category, 4, 5)
    assert offer.name == f"{category} 4/5"
    assert Offer.parse(offer.name) == offer


def test_rates_are_by_category() -> None:
    """Each category has its seeds, what was offered and what stood; one that was offered nothing has no rate."""
    rates = accept_rates(_offers(MEDICAL, (4, 5), (2, 5), (5, 5)) + _offers(LEGAL, (0, 0)))
    assert list(rates) == [MEDICAL, LEGAL]
    medical = rates[MEDICAL]
    assert (medical["seeds"], medical["offered"], medical["accepted"], medical["rate"]) == (3, 15, 11, 0.7333)
    assert 0 < medical["low"] < medical["rate"] < medical["high"] < 1
    assert rates[LEGAL] == {"seeds": 1, "offered": 0, "accepted": 0}
    assert accept_rates({}) == {}


def test_seed_that_stands_or_falls_counts_once() -> None:
    """Where the five of a seed share one fate the interval is that of the seeds; where they do not, of the variations."""
    alike = accept_rates(_offers(MEDICAL, *[(5, 5)] * 10, *[(0, 5)] * 10))[MEDICAL]
    assert (alike["low"], alike["high"]) == pytest.approx(jeffreys(10, 20), abs=1e-4)
    mixed = accept_rates(_offers(MEDICAL, *[(3, 5)] * 10, *[(2, 5)] * 10))[MEDICAL]
    assert (mixed["low"], mixed["high"]) == pytest.approx(jeffreys(50, 100), abs=1e-4)
    assert alike["rate"] == mixed["rate"] == 0.5


@pytest.mark.parametrize("shares", [[(5, 5)], [(0, 5)] * 8, [(5, 5)] * 8])
def test_without_variance_a_seed_counts_once(shares: list[tuple[int, int]]) -> None:
    """One seed, or seeds whose variations all fared alike, say no more than so many observations."""
    rate = accept_rates(_offers(MEDICAL, *shares))[MEDICAL]
    accepted = sum(share[0] for share in shares) / 5
    assert (rate["low"], rate["high"]) == pytest.approx(jeffreys(accepted, len(shares)), abs=1e-4)


def test_intervals_cover() -> None:
    """Of 400 cycles with 20 seeds whose chances differ, at least 92 % have the true rate in their interval."""
    rng = random.Random(1)
    covered = 0
    for _ in range(400):
        shares = []
        for _seed in range(20):
            chance = rng.betavariate(2.8, 1.2)  # intraclass correlation .2 around .7
            shares.append((sum(rng.random() < chance for _ in range(5)), 5))
        rate = accept_rates(_offers(MEDICAL, *shares))[MEDICAL]
        covered += rate["low"] <= 0.7 <= rate["high"]
    assert covered >= 0.92 * 400


def _counts(*numbers: int) -> dict[Category, int]:
    return dict(zip(CATEGORIES, numbers, strict=True))


@pytest.mark.parametrize(
    ("counts", "k"),
    [
        ({}, [5, 5, 5, 5, 5, 5]),
        (_counts(300, 300, 300, 300, 300, 300), [5, 5, 5, 5, 5, 5]),
        (_counts(10, 100, 100, 100, 100, 200), [5, 5, 5, 5, 5, 3]),
        (_counts(10, 100, 100, 100, 101, 1_000), [5, 5, 5, 5, 5, 1]),
        (_counts(10, 100, 100, 100, 100, 1_001), [5, 5, 5, 5, 5, 0]),
        (_counts(0, 0, 0, 0, 0, 10), [5, 5, 5, 5, 5, 1]),
    ],
)
def test_quotas(counts: dict[Category, int], k: list[int]) -> None:
    """Up to the median all of k is asked for, at twice the median half, above 2 k times the median nothing."""
    assert list(quotas(5, counts).values()) == k


@settings(derandomize=True, database=None)
@given(st.integers(0, 20), st.lists(st.integers(0, 10_000), min_size=6, max_size=6))
def test_fuller_categories_never_get_more(k: int, numbers: list[int]) -> None:
    """Of two categories the fuller one gets no more, none gets more than k, and the emptiest half all of it."""
    counts = _counts(*numbers)
    quota = quotas(k, counts)
    ordered = [quota[category] for category in sorted(CATEGORIES, key=lambda category: counts[category])]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[:3] == [k] * 3
    assert all(0 <= number <= k for number in ordered)
