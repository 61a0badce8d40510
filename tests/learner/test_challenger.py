"""From corpus and snapshot to an export that the guard loads, for every kind of backbone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from guard.bundle import Bundle
from guard.exports import Exports
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES, Category
from learner.challenger import build
from learner.dataset import Corpus, assemble
from learner.head import Floats
from learner.progress import silent
from learner.report import RUN_MS, macro_f1, score
from learner.settings import LearnerSettings


def snapshot() -> list[LabelledText]:
    """Return a message that people labelled, a variation of it, and one that stands in the gate set."""
    return [
        LabelledText(1, "my pillow speaks spanish", Category.NOT_HARMFUL, variation=False),
        LabelledText(1, "the pillow talks in spanish", Category.NOT_HARMFUL, variation=True),
        LabelledText(2, "now fire and trapped", Category.NOT_HARMFUL, variation=False),
    ]


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_it_goes_end_to_end(
    request: pytest.FixtureRequest,
    kind: str,
    epochs: int,
    settings: LearnerSettings,
    corpus: Corpus,
    tmp_path: Path,
) -> None:
    """Both architectures, with and without fine-tuning, end in an export that serves what was learnt."""
    folder: Path = request.getfixturevalue(kind)
    chosen = settings.model_copy(update={"backbone": str(folder), "fine_tune_epochs": epochs})
    exports = Exports(tmp_path)
    version = build(chosen, exports, corpus, snapshot(), parent="0004", cycle_id=9, progress=silent).version
    bundle = Bundle.load(exports, version)
    results = score(bundle, corpus.gate)
    assert macro_f1(results.labels, results.decisions) > 0.9
    assert bundle.manifest.metrics["macro_f1"] == pytest.approx(macro_f1(results.labels, results.decisions))
    assert (bundle.manifest.parent, bundle.manifest.cycle_id) == ("0004", 9)
    assert {"report.md", "confusion.png", "tokenizer.json", "model.onnx"} <= set(bundle.manifest.files)


def test_the_export_names_the_data_it_was_made_of(settings: LearnerSettings, corpus: Corpus, tmp_path: Path) -> None:
    """The manifest's digest is that of corpus and snapshot put together, without what resembles the gate set."""
    exports = Exports(tmp_path)
    version = build(settings, exports, corpus, snapshot(), parent=None, cycle_id=None, progress=silent).version
    dataset = assemble(corpus, snapshot(), variation_weight=1.0)
    assert dataset.held_out == 1
    assert exports.manifest(version).snapshot == dataset.digest
    card = (exports.path(version) / "report.md").read_text(encoding="utf-8")
    assert "Left out: 1 that resemble a held-out text" in card
    assert "| not-harmful | 20 | 1 | 1 | 8 |" in card
    assert "pillow" not in card


def _untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: figure for name, figure in metrics.items() if not name.startswith(RUN_MS)}


@pytest.mark.slow
def test_one_seed_gives_one_model(settings: LearnerSettings, corpus: Corpus, tmp_path: Path) -> None:
    """Two builds of the same data serve the same logits, thresholds and temperature."""
    bundles = []
    for name in ("a", "b"):
        exports = Exports(tmp_path / name)
        version = build(settings, exports, corpus, snapshot(), parent=None, cycle_id=None, progress=silent).version
        bundles.append(Bundle.load(exports, version))
    first, second = (bundle.manifest for bundle in bundles)
    assert first.files["model.onnx"] == second.files["model.onnx"]
    assert (first.thresholds, first.temperature) == (second.thresholds, second.temperature)
    assert _untimed(first.metrics) == _untimed(second.metrics)


@pytest.mark.slow
def test_what_people_label_is_learnt(settings: LearnerSettings, corpus: Corpus, tmp_path: Path) -> None:
    """Words that the corpus never saw are recognised after people have labelled a few messages with them."""

    def probabilities(name: str, labelled: list[LabelledText]) -> Floats:
        exports = Exports(tmp_path / name)
        version = build(settings, exports, corpus, labelled, parent=None, cycle_id=None, progress=silent).version
        scores, _ = Bundle.load(exports, version).score(["the subpoena and the notary"])
        return np.asarray(scores[0])

    unlikeliest = int(probabilities("without", []).argmin())
    rows = [
        LabelledText(i, f"the {word} in the {place}", CATEGORIES[unlikeliest], variation=False)
        for i, (word, place) in enumerate((w, p) for w in ("subpoena", "notary", "bailiff") for p in "abcd")
    ]
    assert probabilities("with", rows)[unlikeliest] > 0.5


def test_every_stage_reports(settings: LearnerSettings, corpus: Corpus, tmp_path: Path) -> None:
    """Each stage says when it begins or moves, and when it is done."""
    seen: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        seen[stage] = (done, total)

    build(settings, Exports(tmp_path), corpus, [], parent=None, cycle_id=None, progress=note)
    assert list(seen) == ["embed", "choose", "calibrate", "export"]
    assert all(done == total for done, total in seen.values())


@pytest.mark.slow
def test_minilm_goes_end_to_end_without_a_network(
    corpus: Corpus, settings: LearnerSettings, tmp_path: Path, no_network: None
) -> None:
    """The default backbone, a BERT, is trained and exported with every connection refused."""
    chosen = settings.model_copy(update={"backbone": "minilm", "fine_tune_epochs": None})
    exports = Exports(tmp_path)
    bundle = Bundle.load(
        exports, build(chosen, exports, corpus, [], parent=None, cycle_id=None, progress=silent).version
    )
    scores, embeddings = bundle.score(["there is a fire and i am trapped", "tell me a joke"])
    assert [CATEGORIES[i] for i in scores.argmax(axis=1)] == [Category.EMERGENCY_SITUATION, Category.NOT_HARMFUL]
    assert embeddings.shape == (2, 384)
    assert np.isfinite(embeddings).all()
