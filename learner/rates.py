"""How often what an LLM writes stands, by category, and how much more of it is wanted: counts in, rates and quotas out.

`variations` counts the first as it goes and asks for the second; `contrast` measures confusions with the same interval.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from scipy.stats import beta

from guard.taxonomy import CATEGORIES, Category

_LEVEL: Final = 0.95
_LEAST_SHARE: Final = 0.5  # of one variation: a category whose share is smaller is full


@dataclass(frozen=True, slots=True)
class Offer:
    """What the LLM offered for one seed, and how much of it stood."""

    category: Category
    accepted: int
    offered: int

    @property
    def name(self) -> str:
        """How it is counted in a cycle's figures: `medical-advice 4/5`."""
        return f"{self.category} {self.accepted}/{self.offered}"

    @classmethod
    def parse(cls, name: str) -> "Offer":
        """Return the offer of a name."""
        category, _, share = name.rpartition(" ")
        accepted, _, offered = share.partition("/")
        return cls(Category(category), int(accepted), int(offered))


def jeffreys(successes: float, trials: float) -> tuple[float, float]:
    """Return the equal-tailed 95 % Jeffreys interval of a share.

    Brown, Cai and DasGupta (2001), section 3.1.3: quantiles of Beta(x + 1/2, n - x + 1/2), with 0 as the lower end at
    x = 0 and 1 as the upper one at x = n. Counts may be fractions, as effective sample sizes are.
    """
    if trials <= 0:
        return 0.0, 1.0
    tail = (1 - _LEVEL) / 2
    a, b = successes + 0.5, trials - successes + 0.5
    low = float(beta.ppf(tail, a, b)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, a, b)) if successes < trials else 1.0
    return low, high


def accept_rates(offers: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the share of offered variations that stood, by category, with its 95 % interval.

    Variations of one seed stand or fall together, so the interval is Jeffreys' at the effective sample size n / deff
    (Dean and Pagano 2015; Franco et al. 2019). deff is the variance of the ratio estimator with the seed as the cluster
    over that of n independent variations, held between 1 and the mean number offered a seed. Where it cannot be
    estimated, with one seed or all variations alike, a seed counts as one observation.

    Args:
        offers: Number of seeds by the name of their `Offer`.

    Returns:
        For each category with a seed: `seeds`, `offered`, `accepted`, and where any was offered `rate`, `low`, `high`.
    """
    by_category: defaultdict[Category, list[tuple[Offer, int]]] = defaultdict(list)
    for name, seeds in offers.items():
        offer = Offer.parse(name)
        by_category[offer.category].append((offer, seeds))
    return {category.value: _rate(by_category[category]) for category in CATEGORIES if category in by_category}


def _rate(offers: list[tuple[Offer, int]]) -> dict[str, Any]:
    offered = sum(offer.offered * seeds for offer, seeds in offers)
    accepted = sum(offer.accepted * seeds for offer, seeds in offers)
    counts = {"seeds": sum(seeds for _, seeds in offers), "offered": offered, "accepted": accepted}
    if offered == 0:
        return counts
    rate = accepted / offered
    effect = _design_effect(offers, rate, offered)
    low, high = jeffreys(accepted / effect, offered / effect)
    return {**counts, "rate": round(rate, 4), "low": round(low, 4), "high": round(high, 4)}


def _design_effect(offers: list[tuple[Offer, int]], rate: float, offered: int) -> float:
    """Return deff: linearised variance of a ratio over clusters (Cochran 1977, section 9A) over rate (1 - rate) / n."""
    clusters = sum(seeds for offer, seeds in offers if offer.offered)
    mean_size = offered / clusters
    if clusters == 1 or rate in {0.0, 1.0}:
        return mean_size
    squares = sum(seeds * (offer.accepted - rate * offer.offered) ** 2 for offer, seeds in offers)
    effect = clusters / (clusters - 1) * squares / (offered * rate * (1 - rate))
    return min(max(effect, 1.0), mean_size)


def quotas(k: int, counts: Mapping[Category, int]) -> dict[Category, int]:
    """Return how many variations to ask for of a seed of each category, fewer the fuller the category.

    k_c = ceil(k · min(1, median / n_c)), where n_c counts the category's rows that people labelled and the median is
    over all six; 0 where k · median / n_c is below one half. A category at or below the median gets all k, one with
    twice the median half of them, one with more than 2 k times the median none.

    Args:
        k: What a category with few rows gets.
        counts: n_c; a category that is not there has 0.
    """
    rows = {category: counts.get(category, 0) for category in CATEGORIES}
    middle = max(median(rows.values()), 1)
    shares = {category: k * min(1.0, middle / max(number, 1)) for category, number in rows.items()}
    return {category: math.ceil(share) if share >= _LEAST_SHARE else 0 for category, share in shares.items()}
