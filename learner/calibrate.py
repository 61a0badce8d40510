"""Logits of held-out human rows into one temperature and a threshold for each category.

`learner.train` gives the logits; `learner.export` divides by the temperature and writes the thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from guard.decision import softmax
from guard.taxonomy import CATEGORIES, HARMFUL, Category

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int_]  # indices into CATEGORIES

_TEMPERATURES: Final = (0.05, 20.0)
_HARMFUL_LIMITS: Final = (0.1, 0.5)
_CLEARANCE_LIMITS: Final = (0.3, 0.5)
_CLEARANCE_COST: Final = 0.01
_DECIMALS: Final = 3
BINS: Final = 15
_NOT_HARMFUL: Final = CATEGORIES.index(Category.NOT_HARMFUL)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into decisions.

    Args:
        temperature: Logits are divided by it.
        thresholds: One for each category, as `guard.decision.decide` takes them.
    """

    temperature: float
    thresholds: Mapping[Category, float]


def calibrate(logits: Floats, labels: Labels, recall_floor: float) -> Calibration:
    """Calibrate on held-out rows that people wrote.

    Args:
        logits: `(n, 6)` as the network gives them.
        labels: `(n,)` indices into `CATEGORIES`.
        recall_floor: Recall that each harmful category's threshold must keep, in [0, 1].
    """
    best = temperature(logits, labels)
    return Calibration(best, thresholds(softmax(logits / np.float32(best)), labels, recall_floor))


def temperature(logits: Floats, labels: Labels) -> float:
    """Return the temperature with the least negative log-likelihood (Guo et al. 2017; for BERT arXiv 2003.07892)."""
    if not len(labels):
        return 1.0
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = wide / np.exp(log_temperature)
        shifted = scaled - scaled.max(axis=1, keepdims=True)
        likelihoods = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(axis=1))
        return -float(likelihoods.mean())

    return float(np.exp(minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded").x))


def thresholds(probabilities: Floats, labels: Labels, recall_floor: float) -> dict[Category, float]:
    """Return the threshold of each category, rounded down to three decimals.

    Harmful: the largest in [0.1, 0.5] that at least `recall_floor` of the category's rows reach. At 0.5 a category that
    wins outright is raised in any case; below 0.1 a threshold would raise alarms at mere noise. 0.5 where there is no
    row to go by.

    Not-harmful: a text that raises nothing is cleared only from this probability on. It is the largest in [0.3, 0.5]
    that refuses clearance to at most 1 % of the not-harmful rows that raise nothing: as careful as is possible for a
    point of false alarms, which is also what the gate lets them rise by.
    """
    found = {
        category: _largest(probabilities[labels == i, i], recall_floor, _HARMFUL_LIMITS)
        for i, category in enumerate(HARMFUL)
    }
    limits = np.array([found[c] for c in HARMFUL], dtype=np.float32)
    quiet = (probabilities[:, :_NOT_HARMFUL] < limits).all(axis=1) & (labels == _NOT_HARMFUL)
    found[Category.NOT_HARMFUL] = _largest(probabilities[quiet, _NOT_HARMFUL], 1 - _CLEARANCE_COST, _CLEARANCE_LIMITS)
    return found


def expected_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """Return the mean gap between confidence and accuracy over 15 bins of confidence, weighted by their rows."""
    rows, confidence, accuracy = bins(probabilities, labels)
    return float((rows * np.abs(accuracy - confidence)).sum() / max(len(labels), 1))


def bins(probabilities: Floats, labels: Labels) -> tuple[npt.NDArray[np.int_], Doubles, Doubles]:
    """Return the rows, mean confidence and accuracy of 15 equal bins of confidence; zeros where a bin is empty."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    places = np.minimum((confidence * BINS).astype(np.int_), BINS - 1)
    rows = np.bincount(places, minlength=BINS)
    sums = (np.bincount(places, weights=values, minlength=BINS) for values in (confidence, right))
    mean_confidence, accuracy = (total / np.maximum(rows, 1) for total in sums)
    return rows, mean_confidence, accuracy


def _largest(reached: Floats, share: float, limits: tuple[float, float]) -> float:
    """Return the largest value within the limits that at least this share of the probabilities reaches."""
    least, most = limits
    if not len(reached):
        return most
    kept = max(1, int(np.ceil(share * len(reached) - 1e-9)))
    value = float(np.sort(reached)[::-1][kept - 1])
    return float(np.clip(np.floor(value * 10**_DECIMALS) / 10**_DECIMALS, least, most))
