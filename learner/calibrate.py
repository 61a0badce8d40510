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
_ROUNDING: Final = 1e-9  # a tenth of thirty is three
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
    """Calibrate on held-out rows, no variation among them.

    Args:
        logits: `(n, 6)` as the network gives them.
        labels: `(n,)` indices into `CATEGORIES`.
        recall_floor: Share of each harmful category's rows that must not be cleared, in [0, 1].
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

    Not-harmful: a text that raises nothing is cleared only from this probability on. It is the largest in [0.3, 0.5]
    that refuses clearance to at most 1 % of the not-harmful rows that raise nothing: as careful as is possible for a
    point of false alarms, which is also what the gate lets them rise by.

    Harmful: what must not happen to a message of the category is that it is cleared; taken for another harmful one it
    is still met with care, and a low threshold would buy little but false alarms. So 0.5, where a category that wins
    outright is raised in any case, as long as at most 1 - `recall_floor` of the category's rows are cleared; else the
    largest in [0.1, 0.5] that raises enough of these. Below 0.1 alarms would be raised at mere noise.
    """
    highest = _HARMFUL_LIMITS[1]
    silent = (probabilities[:, :_NOT_HARMFUL] < highest).all(axis=1)
    quiet = silent & (labels == _NOT_HARMFUL)
    clearance = _largest(probabilities[quiet, _NOT_HARMFUL], 1 - _CLEARANCE_COST, _CLEARANCE_LIMITS)
    cleared = silent & (probabilities[:, _NOT_HARMFUL] >= clearance)
    found = {}
    for i, category in enumerate(HARMFUL):
        own = labels == i
        missed = probabilities[own & cleared, i]
        tolerated = int((1 - recall_floor) * own.sum() + _ROUNDING)
        share = 1 - min(1.0, tolerated / len(missed)) if len(missed) else 0.0
        found[category] = _largest(missed, share, _HARMFUL_LIMITS)
    return found | {Category.NOT_HARMFUL: clearance}


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
    kept = int(np.ceil(share * len(reached) - _ROUNDING))
    if kept == 0:
        return most
    value = float(np.sort(reached)[::-1][kept - 1])
    return float(np.clip(np.floor(value * 10**_DECIMALS) / 10**_DECIMALS, least, most))
