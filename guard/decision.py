"""Probabilities into a verdict: the worst window of each harmful category, its threshold, its action."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from guard.errors import BrokenExport
from guard.taxonomy import CATEGORIES, HARMFUL, Category

MAX_ENTROPY: Final = math.log(len(CATEGORIES))
_NOT_HARMFUL: Final = CATEGORIES.index(Category.NOT_HARMFUL)

Thresholds = Mapping[Category, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard thinks of one text.

    Args:
        scores: Six probabilities in the order of `CATEGORIES`, summing to 1.
        uncertainty: Entropy / ln 6 of the most uncertain window that carries the verdict, in [0, 1].
        window: Index of the window that decided.
    """

    category: Category
    flagged: bool
    scores: tuple[float, ...]
    uncertainty: float
    window: int


def decide(probabilities: npt.NDArray[np.float32], thresholds: Thresholds) -> Verdict:
    """Judge one text from its windows.

    A window raises a harmful category when its probability reaches the category's threshold; among those raised the
    one furthest above its threshold wins. A window that raises nothing is cleared only when not-harmful reaches its own
    threshold; otherwise its likeliest harmful category stands, since doubt between two harmful categories is no
    clearance. The worst window speaks for the text.

    Args:
        probabilities: `(windows, 6)` probabilities, at least one window.
        thresholds: One for each category, in (0, 1].

    Raises:
        BrokenExport: A probability is not a finite number: no verdict may rest on it.
    """
    rows = probabilities.tolist()  # numbers of Python's own: for one window, numpy's calls take ten times as long
    limits = np.array([thresholds[c] for c in CATEGORIES], dtype=np.float32).tolist()
    highest, alarming, loudest = 0.0, 0, 0
    for window, row in enumerate(rows):
        if not math.isfinite(sum(row)):
            raise BrokenExport(
                "The model gave probabilities that are not finite numbers: roll back to the export before it."
            )
        for index in range(_NOT_HARMFUL):
            if row[index] / limits[index] > highest:
                highest, alarming, loudest = row[index] / limits[index], window, index
    if highest >= 1:
        window, category = alarming, HARMFUL[loudest]
    else:
        window = min(range(len(rows)), key=lambda w: rows[w][_NOT_HARMFUL])
        harmful = rows[window][:_NOT_HARMFUL]
        cleared = rows[window][_NOT_HARMFUL] >= limits[_NOT_HARMFUL]
        category = Category.NOT_HARMFUL if cleared else HARMFUL[harmful.index(max(harmful))]
    entropy = -sum(p * math.log(p) for p in rows[window] if p > 0)
    return Verdict(
        category=category,
        flagged=category is not Category.NOT_HARMFUL,
        scores=tuple(rows[window]),
        uncertainty=min(1.0, entropy / MAX_ENTROPY),
        window=window,
    )


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return `(n, 6)` probabilities from `(n, 6)` logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def uncertainty(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return entropy / ln 6 over the last axis, in [0, 1] (the paper's equation 1, normalised)."""
    safe = np.clip(probabilities, 1e-12, 1.0)
    return np.asarray(np.clip(-(safe * np.log(safe)).sum(axis=-1) / MAX_ENTROPY, 0.0, 1.0), dtype=np.float32)
