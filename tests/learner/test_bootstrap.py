"""How the first champion comes about, and when it does not."""

from pathlib import Path

import pytest

from guard.bundle import Bundle
from guard.errors import BadConfiguration
from guard.exports import Exports
from guard.taxonomy import Category
from learner.bootstrap import bootstrap, refine
from learner.progress import silent
from learner.settings import LearnerSettings
from tests.learner.conftest import easy_rows, write_corpus
from tests.toys import publish_toy


def test_the_first_model_becomes_champion(settings: LearnerSettings, tmp_path: Path) -> None:
    """From the corpus alone: version 0001, loaded by the guard, promoted with its reason."""
    exports = Exports(tmp_path)
    stages: list[str] = []
    assert bootstrap(settings, exports, lambda stage, _done, _total: stages.append(stage)) == "0001"
    assert exports.champion() == "0001"
    Bundle.load(exports, "0001")
    assert exports.promotions()[0].reason.startswith("it is the first champion")
    assert stages[-1] == "gate"


def test_a_champion_is_left_in_place(settings: LearnerSettings, tmp_path: Path) -> None:
    """Doing it again trains nothing and gives the champion's version."""
    exports = Exports(tmp_path)
    publish_toy(exports)
    assert bootstrap(settings, exports, silent) == "0001"
    assert exports.versions() == ["0001"]


def test_a_model_that_fails_must_pass_is_held(settings: LearnerSettings, tmp_path: Path) -> None:
    """It is published and not promoted; the error counts by category and shows no text."""
    rows = easy_rows()
    for row in rows["must_pass"][:2]:  # what the corpus calls self-harm, people now call harmless
        row["category"] = Category.NOT_HARMFUL
    corpus = write_corpus(tmp_path / "corpus", rows)
    exports = Exports(tmp_path / "exports")
    with pytest.raises(BadConfiguration) as caught:
        bootstrap(settings.model_copy(update={"corpus_dir": corpus}), exports, silent)
    assert "2 must-pass messages fail (not-harmful 2; limit 0)" in caught.value.detail
    assert "goodbye" not in caught.value.detail
    assert exports.champion() is None
    assert exports.versions() == ["0001"]


def test_a_bad_corpus_is_found_before_training(settings: LearnerSettings, tmp_path: Path) -> None:
    """Nothing is trained on a corpus that cannot be used."""
    exports = Exports(tmp_path / "exports")
    with pytest.raises(BadConfiguration, match=r"train\.jsonl has no rows"):
        bootstrap(
            settings.model_copy(update={"corpus_dir": write_corpus(tmp_path / "corpus", {})}),
            exports,
            lambda *_: pytest.fail("it began"),
        )
    assert exports.versions() == []


def test_a_quick_first_model_is_followed_by_a_tuned_one(settings: LearnerSettings, tmp_path: Path) -> None:
    """The quick one is not fine-tuned after a comparison, the one that follows is, once, and takes its place."""
    exports = Exports(tmp_path)
    free = settings.model_copy(update={"fine_tune_epochs": None})
    assert bootstrap(free, exports, silent, quick=True) == "0001"
    assert "tuning_worth" not in exports.manifest("0001").metrics
    promoted = refine(free, exports, silent)
    assert "tuning_worth" in exports.manifest("0002").metrics
    assert exports.manifest("0002").parent == "0001"
    assert exports.champion() == (promoted or "0001")
    assert refine(free, exports, silent) is None
    assert exports.versions() == ["0001", "0002"]


def test_there_is_nothing_to_refine_where_fine_tuning_was_decided(settings: LearnerSettings, tmp_path: Path) -> None:
    """An operator's number of epochs is followed at once, and no second model is trained."""
    exports = Exports(tmp_path)
    bootstrap(settings, exports, silent)
    assert refine(settings, exports, silent) is None
    assert exports.versions() == ["0001"]
