"""Probabilities into a verdict."""

import math
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from guard.decision import decide, softmax, uncertainty
from guard.errors import BrokenExport
from guard.taxonomy import CATEGORIES, HARMFUL, Category

Windows = npt.NDArray[np.float32]
Limits = dict[Category, float]

LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=6, max_size=6)
WINDOWS = st.lists(LOGITS, min_size=1, max_size=5).map(lambda rows: softmax(np.array(rows, dtype=np.float32)))
LIMITS = st.lists(st.floats(0.01, 1), min_size=6, max_size=6).map(
    lambda values: dict(zip(CATEGORIES, values, strict=True))
)
EVEN: Limits = dict.fromkeys(CATEGORIES, 0.4)


def _windows(*rows: tuple[float, ...]) -> Windows:
    return np.array(rows, dtype=np.float32)


@given(WINDOWS, LIMITS)
def test_flagged_means_harmful(windows: Windows, limits: Limits) -> None:
    """A verdict is flagged exactly when its category is a harmful one, and it quotes the window that decided."""
    verdict = decide(windows, limits)
    assert verdict.flagged == (verdict.category in HARMFUL)
    assert verdict.scores == tuple(float(p) for p in windows[verdict.window])
    assert verdict.uncertainty == pytest.approx(float(uncertainty(windows[verdict.window])))


@given(WINDOWS, LIMITS, st.sampled_from(HARMFUL), st.floats(0.01, 1))
def test_lower_harmful_threshold(windows: Windows, limits: Limits, category: Category, factor: float) -> None:
    """Lowering the threshold of a harmful category never clears a text that was flagged."""
    lowered = {**limits, category: limits[category] * factor}
    assert decide(windows, lowered).flagged >= decide(windows, limits).flagged


@given(WINDOWS, LIMITS, st.floats(0, 1))
def test_higher_clearing_threshold(windows: Windows, limits: Limits, share: float) -> None:
    """Asking for more certainty of not-harmful never clears a text that was flagged."""
    before = limits[Category.NOT_HARMFUL]
    raised = {**limits, Category.NOT_HARMFUL: before + (1 - before) * share}
    assert decide(windows, raised).flagged >= decide(windows, limits).flagged


@given(WINDOWS, WINDOWS, LIMITS)
def test_more_text(windows: Windows, more: Windows, limits: Limits) -> None:
    """Harmless text around a harmful part never clears it: the worst window speaks."""
    assert decide(np.concatenate([windows, more]), limits).flagged >= decide(windows, limits).flagged


@given(WINDOWS, LIMITS, st.randoms(use_true_random=False))
def test_order_of_windows(windows: Windows, limits: Limits, random: Random) -> None:
    """Where in the text a window stands has no part in the verdict."""
    order = list(range(len(windows)))
    random.shuffle(order)
    before, after = decide(windows, limits), decide(windows[order], limits)
    assert before.flagged == after.flagged
    ratios = windows / np.array([limits[c] for c in CATEGORIES], dtype=np.float32)
    assume(len(set(ratios[:, :-1].max(axis=1))) == len(set(ratios[:, -1])) == len(windows))  # no two that tie
    assert (before.category, before.scores) == (after.category, after.scores)


@given(WINDOWS, LIMITS)
def test_clearance(windows: Windows, limits: Limits) -> None:
    """A text is cleared only when not-harmful reaches its threshold in every window and no harmful category does."""
    verdict = decide(windows, limits)
    ratios = windows / np.array([limits[c] for c in CATEGORIES], dtype=np.float32)
    assert verdict.flagged == bool((ratios[:, :-1] >= 1).any() or (ratios[:, -1] < 1).any())


@given(WINDOWS, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_not_finite(windows: Windows, value: float, data: st.DataObject) -> None:
    """Probabilities that are no numbers give no verdict, least of all not-harmful."""
    spoilt = windows.copy()
    spoilt[data.draw(st.integers(0, len(windows) - 1)), data.draw(st.integers(0, 5))] = value
    with pytest.raises(BrokenExport, match="not finite"):
        decide(spoilt, EVEN)


def test_no_window() -> None:
    """Without any window there is no verdict."""
    with pytest.raises(ValueError, match="empty"):
        decide(np.empty((0, 6), dtype=np.float32), EVEN)


@pytest.mark.parametrize(
    ("row", "category"),
    [
        ((0.4, 0.1, 0.1, 0.1, 0.1, 0.2), Category.SELF_HARM),  # exactly at its threshold
        ((0.05, 0.05, 0.05, 0.05, 0.05, 0.75), Category.NOT_HARMFUL),
        ((0.35, 0.34, 0.01, 0.0, 0.0, 0.3), Category.SELF_HARM),  # doubt between two harmful ones is no clearance
        ((0.1, 0.39, 0.02, 0.0, 0.1, 0.39), Category.MEDICAL_ADVICE),  # nor is a tie below the thresholds
        ((0.45, 0.05, 0.0, 0.0, 0.05, 0.45), Category.SELF_HARM),  # both at theirs: the harmful one stands
    ],
)
def test_one_window(row: tuple[float, ...], category: Category) -> None:
    """A harmful category needs its threshold; not-harmful needs its own, and that no other is raised."""
    verdict = decide(_windows(row), EVEN)
    assert (verdict.category, verdict.flagged) == (category, category is not Category.NOT_HARMFUL)


def test_furthest_above() -> None:
    """Of several categories raised, the one furthest above its own threshold wins, not the likeliest."""
    limits = {**EVEN, Category.SELF_HARM: 0.1}
    assert decide(_windows((0.3, 0.5, 0.0, 0.0, 0.0, 0.2)), limits).category is Category.SELF_HARM


def test_worst_window() -> None:
    """One alarming window among many harmless ones decides, and is named."""
    calm, alarm = (0.02, 0.02, 0.02, 0.02, 0.02, 0.9), (0.01, 0.01, 0.01, 0.01, 0.95, 0.01)
    verdict = decide(_windows(calm, calm, alarm, calm), EVEN)
    assert (verdict.category, verdict.window) == (Category.EMERGENCY_SITUATION, 2)


@given(st.lists(LOGITS, min_size=1, max_size=5), st.floats(-50, 50, width=32))
def test_softmax(rows: list[list[float]], shift: float) -> None:
    """Rows sum to one, and a constant added to all logits changes nothing."""
    logits = np.array(rows, dtype=np.float32)
    assert softmax(logits).sum(axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    assert softmax(logits + np.float32(shift)) == pytest.approx(softmax(logits), abs=1e-4)


def test_large_logits() -> None:
    """Large logits neither overflow nor warn."""
    assert softmax(_windows((1000.0, 0, 0, 0, 0, -1000.0)))[0].tolist() == [1, 0, 0, 0, 0, 0]


@given(WINDOWS)
def test_uncertainty_bounds(windows: Windows) -> None:
    """Uncertainty is in [0, 1]."""
    values = uncertainty(windows)
    assert ((values >= 0) & (values <= 1)).all()


def test_uncertainty_ends() -> None:
    """Certainty is 0, six equal chances are 1, two are ln 2 / ln 6."""
    values = uncertainty(_windows((1, 0, 0, 0, 0, 0), (1 / 6,) * 6, (0.5, 0.5, 0, 0, 0, 0)))
    assert values.tolist() == pytest.approx([0, 1, math.log(2) / math.log(6)], abs=1e-6)
