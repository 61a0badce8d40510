"""What `learner.calibrate` makes of held-out logits."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.decision import decide, softmax
from guard.taxonomy import CATEGORIES, HARMFUL, Category
from learner.calibrate import calibrate, expected_calibration_error, temperature, thresholds

NOT_HARMFUL = CATEGORIES.index(Category.NOT_HARMFUL)


def drawn(rows: int, *, sharpness: float, seed: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int_]]:
    """Return logits that are `sharpness` times those the labels were drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(rows, len(CATEGORIES))).astype(np.float32)
    labels = np.array([generator.choice(len(CATEGORIES), p=p / p.sum()) for p in softmax(logits).astype(float)])
    return logits * np.float32(sharpness), labels


def one_sided(category: Category, values: list[float]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int_]]:
    """Return rows of one category, with these probabilities of it; the rest goes to not-harmful."""
    column = CATEGORIES.index(category)
    other = NOT_HARMFUL if column != NOT_HARMFUL else 0
    probabilities = np.zeros((len(values), len(CATEGORIES)), dtype=np.float32)
    probabilities[:, column] = values
    probabilities[:, other] = 1 - probabilities[:, column]
    return probabilities, np.full(len(values), column)


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_overconfidence(sharpness: float) -> None:
    """Logits that are too sharp by a factor get that factor as their temperature."""
    logits, labels = drawn(4000, sharpness=sharpness)
    assert temperature(logits, labels) == pytest.approx(sharpness, rel=0.06)


def test_calibration_lowers_the_calibration_error() -> None:
    """Divided by the temperature, confidence is close to accuracy."""
    logits, labels = drawn(4000, sharpness=3.0)
    found = calibrate(logits, labels, 0.9)
    before = expected_calibration_error(softmax(logits), labels)
    after = expected_calibration_error(softmax(logits / np.float32(found.temperature)), labels)
    assert before > 0.1
    assert after < 0.03


def test_without_rows_nothing_is_changed() -> None:
    """Nothing to go by means temperature 1 and the highest thresholds."""
    empty = np.zeros((0, 6), dtype=np.float32), np.zeros(0, dtype=np.int_)
    found = calibrate(*empty, 0.9)
    assert found.temperature == 1.0
    assert set(found.thresholds.values()) == {0.5}
    assert expected_calibration_error(*empty) == 0.0


def test_all_right_and_all_sure_stays_finite() -> None:
    """A dev set without a mistake gives a usable temperature."""
    labels = np.arange(6).repeat(5)
    found = temperature((np.eye(6, dtype=np.float32) * 30)[labels], labels)
    assert 0.04 < found < 20.1


def test_a_threshold_is_the_largest_that_keeps_the_floor() -> None:
    """Nine of ten reach 0.30; 0.31 would lose two of them."""
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.05]
    found = thresholds(*one_sided(Category.SELF_HARM, values), 0.9)
    assert found[Category.SELF_HARM] == pytest.approx(0.3, abs=0.0011)
    assert found[Category.SELF_HARM] <= 0.3


@pytest.mark.parametrize(("values", "expected"), [([0.9] * 10, 0.5), ([0.02] * 10, 0.1), ([], 0.5)])
def test_harmful_thresholds_stay_between_a_tenth_and_a_half(values: list[float], expected: float) -> None:
    """A sure category needs no more than a half, a hopeless one is not raised at noise, an unseen one stays at a half."""
    assert thresholds(*one_sided(Category.LEGAL_ADVICE, values), 0.9)[Category.LEGAL_ADVICE] == expected


def test_confusion_among_harmful_categories_lowers_no_threshold() -> None:
    """A category whose messages are all taken for another harmful one is met with care: its threshold stays."""
    probabilities = np.tile(np.array([0.2, 0.8, 0, 0, 0, 0], dtype=np.float32), (10, 1))
    assert thresholds(probabilities, np.zeros(10, dtype=np.int_), 0.95)[Category.SELF_HARM] == 0.5


def test_clearance_costs_at_most_a_hundredth() -> None:
    """Of 200 harmless rows that raise nothing, at most two are refused; rows that raise something do not count."""
    values = list(np.linspace(0.36, 0.9, 200))
    probabilities, labels = one_sided(Category.NOT_HARMFUL, values)
    probabilities[:, 0] = 0
    probabilities[:, :NOT_HARMFUL] += ((1 - probabilities[:, NOT_HARMFUL]) / 5)[:, None]
    alarming = one_sided(Category.NOT_HARMFUL, [0.01] * 50)
    found = thresholds(np.concatenate([probabilities, alarming[0]]), np.concatenate([labels, alarming[1]]), 0.9)
    refused = sum(decide(row[None], found).flagged for row in probabilities)
    assert 0 < refused <= 2
    assert 0.36 <= found[Category.NOT_HARMFUL] < 0.37


@given(seed=st.integers(0, 10_000), floor=st.floats(0.5, 1.0), rows=st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_every_category_gets_a_usable_threshold(seed: int, floor: float, rows: int) -> None:
    """Thresholds lie within their limits, and the floor is kept wherever the limits allow."""
    logits, labels = drawn(rows, sharpness=1.0, seed=seed)
    probabilities = softmax(logits)
    found = thresholds(probabilities, labels, floor)
    assert set(found) == set(CATEGORIES)
    assert 0.3 <= found[Category.NOT_HARMFUL] <= 0.5
    for i, category in enumerate(HARMFUL):
        assert 0.1 <= found[category] <= 0.5
        own = probabilities[labels == i]
        if len(own) and found[category] > 0.1:
            flagged = [decide(row[None], found).flagged for row in own]
            assert np.mean(flagged) >= floor - 1e-9


def test_the_calibration_error_is_the_gap() -> None:
    """Ten rows at 0.8, of which five are right, are 0.3 off."""
    probabilities = np.full((10, 6), 0.04, dtype=np.float32)
    probabilities[:, 2] = 0.8
    labels = np.array([2] * 5 + [0] * 5)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.3, abs=1e-6)
