"""The figures of an export, and the card that shows them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from guard.bundle import Bundle
from guard.exports import Exports
from guard.taxonomy import CATEGORIES, Category
from learner.dataset import Corpus, Example, assemble
from learner.head import Recipe
from learner.report import Scored, confusion, macro_f1, metrics, score, write
from learner.tournament import Contest
from tests.toys import publish_toy, rewrite_manifest

EMERGENCY = CATEGORIES.index(Category.EMERGENCY_SITUATION)
CONTEST = Contest(
    Recipe(strength=0.3, balance=0.5, variation_weight=0.1, epochs=0),
    cv_macro_f1=0.5,
    figures={"variations_worth": 0.012, "variations_worth_low": -0.004, "variations_worth_high": 0.03},
)


def scored(labels: npt.NDArray[np.int_], decisions: npt.NDArray[np.int_]) -> Scored:
    """Return results with the decision's probability at 0.75."""
    probabilities = np.full((len(labels), 6), 0.05, dtype=np.float32)
    probabilities[np.arange(len(labels)), decisions] = 0.75
    return Scored(labels, decisions, probabilities)


@pytest.fixture
def random_results() -> Scored:
    """500 results of which most are right."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 6, 500)
    return scored(labels, np.where(generator.random(500) < 0.7, labels, generator.integers(0, 6, 500)))


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    """A bundle in which words vote."""
    exports = Exports(tmp_path / "exports")
    return Bundle.load(exports, publish_toy(exports))


def test_the_figures_are_those_of_sklearn(random_results: Scored) -> None:
    """Macro-F1, precision and recall agree with a second opinion."""
    labels, decisions = random_results.labels, random_results.decisions
    figures = metrics(random_results)
    calm = [i for i in range(6) if i != EMERGENCY]
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, decisions, average="macro"))
    assert macro_f1(labels, decisions, categories=calm) == pytest.approx(
        f1_score(labels, decisions, average="macro", labels=calm)
    )
    assert figures["macro_f1_without_emergency"] == macro_f1(labels, decisions, categories=calm)
    for name, second_opinion in (("precision", precision_score), ("recall", recall_score)):
        expected = second_opinion(labels, decisions, average=None)
        assert [figures[f"{name}.{c}"] for c in CATEGORIES] == pytest.approx(list(expected))
    errors = 1 - recall_score(labels, decisions, average=None)
    assert figures["error_std"] == pytest.approx(errors.std())
    assert figures["false_alarm_rate"] == pytest.approx(errors[-1])
    assert sum(figures[f"rows.{c}"] for c in CATEGORIES) == figures["rows"] == 500
    assert figures["calibration_error"] == pytest.approx(abs((labels == decisions).mean() - 0.75), abs=1e-6)


def test_what_has_no_rows_has_no_figure() -> None:
    """A category that does not occur is left out instead of counting as all wrong or all right."""
    figures = metrics(scored(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])))
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert "recall.emergency-situation" not in figures
    assert "precision.emergency-situation" not in figures
    assert "false_alarm_rate" not in figures
    assert all(np.isfinite(value) for value in figures.values())


def test_confusion_counts_labels_in_rows() -> None:
    """A label 1 that is answered as 4 stands in row 1, column 4."""
    table = confusion(np.array([1, 1, 5]), np.array([4, 4, 5]))
    assert table[1, 4] == 2
    assert table[5, 5] == 1
    assert table.sum() == 3


def test_texts_are_judged_as_serving_judges_them(toy: Bundle) -> None:
    """Every window counts: a telling word far beyond the first window decides, and the order is kept."""
    late = "hello " * 200 + "fire " * 30
    texts = ["sue", late, "joke", "hello " * 100, "die"]
    results = score(toy, [Example(text, Category.NOT_HARMFUL, "g") for text in texts])
    assert len(toy.encode([late])[0]) > 3
    assert [CATEGORIES[i] for i in results.decisions] == [
        Category.LEGAL_ADVICE,
        Category.EMERGENCY_SITUATION,
        Category.NOT_HARMFUL,
        Category.NOT_HARMFUL,
        Category.SELF_HARM,
    ]
    assert results.probabilities.shape == (5, 6)
    assert np.allclose(results.probabilities.sum(axis=1), 1, atol=1e-5)
    assert set(results.labels) == {5}


def test_thresholds_take_part(tmp_path: Path) -> None:
    """Doubt between two categories is decided by their thresholds, not by the likeliest."""
    exports = Exports(tmp_path)
    version = publish_toy(exports)
    examples = [Example("sue sue joke joke joke", Category.NOT_HARMFUL, "g")]
    assert score(Bundle.load(exports, version), examples).decisions[0] == 5
    rewrite_manifest(exports.path(version), thresholds=dict.fromkeys(CATEGORIES, 0.2))
    results = score(Bundle.load(exports, version), examples)
    assert results.decisions[0] == CATEGORIES.index(Category.LEGAL_ADVICE)
    assert results.probabilities[0].argmax() == 5


def test_nothing_is_scored_as_nothing(toy: Bundle) -> None:
    """An empty list gives empty results."""
    results = score(toy, [])
    assert results.probabilities.shape == (0, 6)
    assert len(results.labels) == len(results.decisions) == 0


def test_the_card_has_every_part_and_no_text(toy: Bundle, corpus: Corpus, tmp_path: Path) -> None:
    """Tables, plots, data, recipe and limits are in the folder; what people wrote is not."""
    dataset = assemble(corpus, [], variation_weight=0.3)
    figures = write(toy, tmp_path, gate=corpus.gate, dataset=dataset, contest=CONTEST)
    card = (tmp_path / "report.md").read_text(encoding="utf-8")
    for part in ("# Export 0001", "## Results", "## Confusion", "## Data", "## Recipe", "## Limits", dataset.digest):
        assert part in card
    for name in ("confusion.png", "reliability.png", "categories.png"):
        assert f"({name})" in card
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert f"{100 * figures['macro_f1']:.1f}" in card
    assert figures == metrics(score(toy, corpus.gate))
    assert not any(e.text in card for e in (*corpus.gate, *corpus.train))
