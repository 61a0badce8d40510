"""How many variations hold: a share by cycle's size, an interval that covers, and none where too few were checked."""

import random

import pytest

from guard.interval import wilson
from guard.shares import LEAST, holding
from guard.store.pairs import Stratum
from guard.taxonomy import Category

MEDICAL, LEGAL = Category.MEDICAL_ADVICE, Category.LEGAL_ADVICE


def test_one_cycle() -> None:
    """In one cycle it is the plain share with Wilson's interval; who can't tell has not said that it holds."""
    (found,) = holding([Stratum(LEGAL, size=100, holds=16, flips=2, unclear=2)])
    assert (found.holds, found.flips, found.unclear, found.unchecked, found.of) == (16, 2, 2, 80, 100)
    assert found.rate is not None
    expected = wilson(16, 20)
    assert (found.rate.share, found.rate.low, found.rate.high) == pytest.approx(
        (expected.share, expected.low, expected.high)
    )
    assert found.rate.messages == 20


def test_categories() -> None:
    """Each category has its own figures, in the taxonomy's order; one without variations has none."""
    found = holding([Stratum(LEGAL, size=5), Stratum(MEDICAL, size=7)])
    assert [(one.category, one.unchecked, one.of, one.rate) for one in found] == [
        (MEDICAL, 7, 0, None),
        (LEGAL, 5, 0, None),
    ]
    assert holding([]) == []


@pytest.mark.parametrize(("checked", "share"), [(LEAST - 1, None), (LEAST, 1.0)])
def test_too_few(checked: int, share: float | None) -> None:
    """With fewer than ten checks there is no share, not even if all of them hold."""
    (found,) = holding([Stratum(LEGAL, size=50, holds=checked)])
    assert (found.rate and found.rate.share) == share


def test_cycles_count_by_their_size() -> None:
    """A cycle of which less was checked counts no less for it; one of which nothing was checked is not spoken of."""
    strata = [Stratum(LEGAL, size=100, holds=40), Stratum(LEGAL, size=100, holds=5, flips=5), Stratum(LEGAL, size=90)]
    (found,) = holding(strata)
    assert found.rate is not None
    assert found.rate.share == pytest.approx(0.75)
    assert found.of == 200
    assert found.unchecked == 240
    assert found.rate.messages == 32  # 1 / (0.5² / 40 + 0.5² / 10)


def test_coverage() -> None:
    """Over 2,000 draws from cycles of unlike quality the share has no bias and its interval covers in 93 to 99 %."""
    draw = random.Random(11)
    cycles = [[True] * 190 + [False] * 10, [True] * 60 + [False] * 40, [True] * 36 + [False] * 4]
    truth = sum(map(sum, cycles)) / sum(map(len, cycles))
    shares, covered, naive = [], 0, []
    for _ in range(2_000):
        samples = [draw.sample(cycle, k=checks) for cycle, checks in zip(cycles, (60, 12, 5), strict=True)]
        strata = [
            Stratum(LEGAL, size=len(cycle), holds=sum(sample), flips=len(sample) - sum(sample))
            for cycle, sample in zip(cycles, samples, strict=True)
        ]
        (found,) = holding(strata)
        assert found.rate is not None
        shares.append(found.rate.share)
        covered += found.rate.low <= truth <= found.rate.high
        naive.append(sum(map(sum, samples)) / 77)
    assert sum(shares) / 2_000 == pytest.approx(truth, abs=0.005)
    assert 0.93 <= covered / 2_000 <= 0.99
    assert sum(naive) / 2_000 > truth + 0.03  # what all checks taken as one sample would say
