"""Two times of traffic come in; how far the mix of categories and the uncertainty have moved goes out."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from guard.store.entries import BINS, Share
from guard.taxonomy import CATEGORIES

LEAST_VERDICTS: Final = 100  # on either side, by what they are worth
_HALF: Final = 0.5  # of a verdict, added to every cell: an empty one has no logarithm


class Drift(StrEnum):
    """What may drift, as the model sees it: a new version moves both, though nobody writes otherwise than before."""

    CLASS_MIX = "class_mix"
    UNCERTAINTY = "uncertainty"


def drift(before: Sequence[Share], now: Sequence[Share]) -> dict[Drift, float | None]:
    """Return the population stability index of each; None where there are too few verdicts.

    Σ (p - q) ln(p / q) over the cells, which is the symmetric Kullback-Leibler divergence (Jeffreys 1946); cells are the
    six categories and the ten tenths of uncertainty. By the usage of its trade below 0.1 nothing has happened and above
    0.25 a lot has. Two samples of the same traffic differ, too: by (cells - 1) (1/n + 1/m) on average (Yurdakul 2018),
    which is subtracted; 0 is the least. n and m are Kish's effective sizes, (Σ w)² / Σ w².
    """
    return {
        Drift.CLASS_MIX: _index(before, now, lambda share: CATEGORIES.index(share.category), len(CATEGORIES)),
        Drift.UNCERTAINTY: _index(before, now, lambda share: share.uncertainty_bin, BINS),
    }


def _index(before: Sequence[Share], now: Sequence[Share], cell: Callable[[Share], int], cells: int) -> float | None:
    sizes = [_size(before), _size(now)]
    if min(sizes) < LEAST_VERDICTS:
        return None
    shares = []
    for part, size in zip((before, now), sizes, strict=True):
        total = sum(share.verdicts for share in part)
        counts = [_HALF] * cells
        for share in part:
            counts[cell(share)] += share.verdicts / total * size
        shares.append([count / sum(counts) for count in counts])
    index = math.fsum((p - q) * math.log(p / q) for p, q in zip(*shares, strict=True))
    return max(0.0, index - (cells - 1) * sum(1 / size for size in sizes))


def _size(shares: Sequence[Share]) -> float:
    squares = sum(share.squares for share in shares)
    return sum(share.verdicts for share in shares) ** 2 / squares if squares else 0.0
