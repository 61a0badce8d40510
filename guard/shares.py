"""How many LLM variations hold, by what people said of those they checked, with 95 % intervals."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from guard.interval import Rate, wilson
from guard.store.pairs import Stratum
from guard.taxonomy import CATEGORIES, Category

LEAST: Final = 10  # checks that a share rests on: fewer tell nothing, not even if all of them hold (from 0.57 for 5)


class Holding(msgspec.Struct, frozen=True):
    """How many of a category's LLM variations people found to hold, and what that says of all of them.

    Args:
        unchecked: Those that nobody has decided about.
        of: How many variations `rate` speaks of: those of every cycle in which one was checked.
        rate: The share that holds; its `messages` are the checks it is worth. None with fewer than `LEAST`.
    """

    category: Category
    holds: int
    flips: int
    unclear: int
    unchecked: int
    of: int
    rate: Rate | None


def holding(strata: Iterable[Stratum]) -> list[Holding]:
    """Return how many variations hold, for each category that has any.

    `Pairs.next` offers variations in an order that is uniformly random and knows nothing of their texts, so those checked
    are a simple random sample of each cycle's; later cycles have been checked less, so a cycle counts by its size, not by
    its checks: p = sum W_h p_h with W_h = N_h / N (Cochran 1977, section 5.3). The interval is Wilson's at the number of
    checks n that gives the same variance, 1 / n = sum W_h^2 / n_h (Kish 1965, section 11.7), without a correction for a
    finite population, so it is a little wide. Variations of one seed are alike, which an even draw of variations allows
    for. It speaks of the variations that are here, not of those to come. Who can't tell has not said that it holds.
    """
    by_category: defaultdict[Category, list[Stratum]] = defaultdict(list)
    for stratum in strata:
        by_category[stratum.category].append(stratum)
    return [_holding(category, by_category[category]) for category in CATEGORIES if category in by_category]


def _holding(category: Category, strata: list[Stratum]) -> Holding:
    checked = [stratum for stratum in strata if stratum.checked]
    of = sum(stratum.size for stratum in checked)
    worth = 1 / sum((s.size / of) ** 2 / s.checked for s in checked) if checked else 0.0
    share = sum(s.size / of * s.holds / s.checked for s in checked)
    return Holding(
        category=category,
        holds=sum(s.holds for s in strata),
        flips=sum(s.flips for s in strata),
        unclear=sum(s.unclear for s in strata),
        unchecked=sum(s.size - s.checked for s in strata),
        of=of,
        rate=wilson(share * worth, worth) if worth > LEAST - 1e-9 else None,
    )
