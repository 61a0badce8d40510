"""The reproduction on made-up data: counts, heads, intervals, differences, the page and the command."""

import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES
from learner import cli, reproduce, trial
from learner.dataset import Example
from learner.head import Floats, Recipe, Rows, fit_head
from learner.paper import SPLITS, read_labelled
from learner.progress import silent
from learner.reproduce import Labelling, Reproduction, Stage
from learner.settings import LearnerSettings
from learner.tables import PLOT, RESULTS
from learner.tournament import STRENGTHS
from learner.trial import RESAMPLES, Spread, outcomes, resamples
from tests.learner.conftest import WORDS
from tests.learner.published import BOOTSTRAP_EACH, RELABELLED, TEST_EACH, raw, texts, write_lines, write_published

BOOTSTRAP = BOOTSTRAP_EACH * len(CATEGORIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up data."""
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def found(folder: Path, settings: LearnerSettings) -> Reproduction:
    """What one seed makes of them, with a random encoder."""
    return reproduce.reproduce(folder, settings, seeds=1)


def training_set(seed: int = 0) -> tuple[Example, ...]:
    """Return 60 messages whose words tell the label, each with a variation."""
    rows = [(text, c) for c in CATEGORIES for text in texts(f"set {seed} {{}} row {{}}", c, 10)]
    people = [Example(text, c, text) for text, c in rows]
    varied = [Example(f"well {text}", c, text, 0.3, variation=True) for text, c in rows]
    return (*people, *varied)


@pytest.mark.slow
class TestReproduction:
    """All figures of one run."""

    def test_counts(self, found: Reproduction) -> None:
        """Class counts are those of messages and variations; the repair moves messages, never their number."""
        by_name = {(c.name, c.labels): c for c in found.counts}
        assert by_name["test", Labelling.PUBLISHED].counts == [TEST_EACH] * 6
        assert by_name["random", Labelling.REPAIRED].counts == [34, 34, 34, 34, 32, 32]
        assert by_name["topn", Labelling.REPAIRED].counts == by_name["random", Labelling.REPAIRED].counts
        # messages 0 to 7 moved one category on: two leave each of the first two, and the sixth hands one to the first
        assert by_name["cluster", Labelling.PUBLISHED].counts == [33, 34, 35, 34, 32, 32]
        std = by_name["random", Labelling.REPAIRED].std
        assert std is not None
        assert std.value == pytest.approx(np.std([34, 34, 34, 34, 32, 32], ddof=1))
        assert found.relabelled == RELABELLED

    def test_every_training_set_has_its_score(self, found: Reproduction) -> None:
        """Four splits, two labellings and four stages, each with the rows it was trained on."""
        rows = {Stage.BOOTSTRAP: 0, Stage.LABELS: 100, Stage.DOWN_WEIGHTED: 200, Stage.EQUAL: 200}
        assert len(found.scores) == len(SPLITS) * len(Labelling) * len(Stage)
        for split in SPLITS:
            for labels in Labelling:
                assert {s: found.score(s, split, labels).rows - BOOTSTRAP for s in Stage} == rows

    def test_figures_lie_in_their_intervals(self, found: Reproduction) -> None:
        """Ends are in order, the value lies between them, and no macro-F1 is outside 0 to 100."""
        for score in found.scores:
            for estimate in (score.macro_f1, score.macro_f1_five):
                assert 0 <= estimate.low <= estimate.value <= estimate.high <= 100
            assert score.error_std.low <= score.error_std.high
            assert score.macro_f1.value == pytest.approx(np.mean(score.macro_f1_seeds))
            assert score.error_std.value == pytest.approx(np.std(score.errors, ddof=1))

    def test_what_is_the_same_is_measured_the_same(self, found: Reproduction) -> None:
        """The bootstrap is one for all; where the repair changes nothing the figures do not change."""
        first = found.score(Stage.BOOTSTRAP, "random", Labelling.PUBLISHED).macro_f1
        assert all(s.macro_f1 == first for s in found.scores if s.stage is Stage.BOOTSTRAP)
        for stage in Stage:
            published, repaired = (found.score(stage, "coreset", labels) for labels in Labelling)
            assert msgspec.structs.replace(published, labels=Labelling.REPAIRED) == repaired

    def test_words_that_tell_the_label_are_learnt(self, found: Reproduction) -> None:
        """Even a random encoder lets a head do far better than the sixth that guessing brings."""
        assert all(s.macro_f1.value > 40 for s in found.scores if s.labels is Labelling.REPAIRED)

    def test_differences_are_those_of_the_scores(self, found: Reproduction) -> None:
        """A difference is that of its two scores, and the repair is measured only where it changes labels."""
        by_name = {(c.what, c.labels): c for c in found.changes}
        for labels in Labelling:
            change = by_name["cluster: variations at 0.3 over labels alone", labels]
            after, before = (found.score(s, "cluster", labels) for s in (Stage.DOWN_WEIGHTED, Stage.LABELS))
            assert change.macro_f1.value == pytest.approx(after.macro_f1.value - before.macro_f1.value)
            assert change.error_std.value == pytest.approx(after.error_std.value - before.error_std.value)
            assert change.paper == 7.3
        assert by_name["cluster over random: variations at 1", Labelling.PUBLISHED].paper == 4.4
        assert by_name["cluster: labels alone over bootstrap", Labelling.REPAIRED].paper == 2.7
        repaired = {what.split(":")[0] for what, _ in by_name if "published" in what}
        assert repaired == {"topn", "cluster"}

    def test_no_text_is_in_what_is_written(
        self, found: Reproduction, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The command prints the five tables and writes page, plot and results, all without a text of the data."""
        monkeypatch.setattr(reproduce, "reproduce", lambda *_: found)
        monkeypatch.setattr(
            sys, "argv", ["learner", "reproduce", "--data", str(folder), "--out", str(tmp_path / "out")]
        )
        printed = StringIO()
        monkeypatch.setattr(cli, "Console", lambda **options: Console(file=printed, width=300, **options))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        assert (tmp_path / "out" / PLOT).read_bytes().startswith(b"\x89PNG")
        page, results = ((tmp_path / "out" / name).read_text() for name in ("report.md", RESULTS))
        assert msgspec.json.decode(results, type=Reproduction) == found
        for written in (page, printed.getvalue()):
            for number in (3, 4, 5, 6, 8):
                assert f"Table {number}: " in written
            assert "half of the paper's test" in " ".join(written.split())
            assert "71.6" in written
        words = {word for words in WORDS.values() for word in words}
        assert not [word for word in words if word in page + results + printed.getvalue()]


@pytest.mark.slow
class TestTrial:
    """Heads on training sets."""

    def test_the_test_chooses_nothing(self, folder: Path, settings: LearnerSettings) -> None:
        """Other labels on the test rows change the score, never the C that was chosen."""
        test, examples = read_labelled(folder, "test_half"), training_set()
        wrong = [replace(row, category=CATEGORIES[CATEGORIES.index(row.category) - 1]) for row in test]
        before, after = (outcomes([examples], rows, settings, silent, seeds=2)[examples] for rows in (test, wrong))
        assert before.strengths == after.strengths
        assert len(before.strengths) == 2
        assert before.six.values[0] > after.six.values[0]

    def test_equal_sets_are_one(self, folder: Path, settings: LearnerSettings) -> None:
        """A set that is asked for twice is trained once, and what is done is told."""
        told: list[tuple[str, int, int]] = []
        sets = [training_set(), training_set(), training_set(1)]
        test = read_labelled(folder, "test_half")
        found = outcomes(sets, test, settings, lambda *step: told.append(step), seeds=1)
        assert len(found) == 2
        assert [step for step in told if step[0] == "choose"] == [("choose", 1, 2), ("choose", 2, 2)]


def test_variations_are_held_out_with_their_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no fit of the cross-validation is a variation whose message is held out, and none is without held-out rows."""
    rows, seen = Rows.of(training_set()), list[int]()

    def watched(features: Floats, inside: Rows, recipe: Recipe) -> LogisticRegression:
        assert set(inside.groups[~inside.human]) == set(inside.groups[inside.human])
        seen.append(int(inside.human.sum()))
        return fit_head(features, inside, recipe)

    monkeypatch.setattr(trial, "fit_head", watched)
    generator = np.random.default_rng(3)
    features = np.eye(6, dtype=np.float32)[rows.labels] + generator.normal(0, 0.3, (120, 6)).astype(np.float32)
    assert trial._strength(features, rows, 0) in STRENGTHS
    assert seen == [48] * trial.FOLDS * trial.REPEATS * len(STRENGTHS)


def test_turning_features_changes_no_logit() -> None:
    """A head fitted to the turned features gives its rows the same logits."""
    generator = np.random.default_rng(4)
    rows = Rows.of(training_set())
    features = generator.normal(size=(120, 300)).astype(np.float32)
    turned = trial._turned(features)
    assert turned.shape == (120, 120)
    plain, other = (fit_head(x, rows, Recipe()).decision_function(x) for x in (features, turned))
    assert other == pytest.approx(plain, abs=0.05)


class TestSpread:
    """Intervals."""

    def test_resamples(self) -> None:
        """The first is the data as they are; each of the others has as many rows, and a seed gives its own."""
        draws = resamples(40, 1)
        assert draws.shape == (RESAMPLES + 1, 40)
        assert draws[0].tolist() == [1] * 40
        assert set(draws.sum(axis=1)) == {40}
        assert np.array_equal(draws, resamples(40, 1))
        assert not np.array_equal(draws, resamples(40, 2))

    def test_interval_of_a_mean(self) -> None:
        """The percentile interval of a mean is about that of its standard error."""
        values = np.random.default_rng(0).normal(10, 2, 400)
        estimate = Spread(resamples(400, 0) @ values / 400).percentile()
        half = 1.96 * values.std() / 20
        assert (estimate.low, estimate.value, estimate.high) == pytest.approx(
            (values.mean() - half, values.mean(), values.mean() + half), abs=0.05
        )

    def test_basic_interval_takes_back_what_resampling_adds(self) -> None:
        """A figure that every resample makes larger has its interval below."""
        values = np.concatenate([[10.0], np.linspace(11, 13, RESAMPLES)])
        estimate = Spread(values).basic()
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((10, 7.05, 8.95), abs=0.01)

    def test_a_category_without_rows_has_no_error(self) -> None:
        """Where a resample draws no row of a category, its error is unknown, not 0."""
        table = np.diag([4, 4, 4, 4, 0, 4])
        table[0, 1] = 4
        assert trial._errors(table)[:4] == pytest.approx([50, 0, 0, 0])
        assert np.isnan(trial._errors(table)[4])


class TestRefusals:
    """What is said before anything is computed."""

    def test_too_few_texts_of_a_category(self, tmp_path: Path, settings: LearnerSettings) -> None:
        """A category that cannot be in every fold is named."""
        data = write_published(tmp_path / "data")
        rows = read_labelled(data, "bootstrap_labeled")[2:]
        lines = [("id", "subreddit", "title", "category"), *(("x", "r", row.text, raw(row.category)) for row in rows)]
        write_lines(data / "bootstrap_labeled.tsv", lines)
        with pytest.raises(BadConfiguration, match=r"bootstrap_labeled\.tsv has 4 texts of self-harm"):
            reproduce.reproduce(data, settings)

    def test_no_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """The command ends with the file that is missing and what to give instead."""
        monkeypatch.setattr(sys, "argv", ["learner", "reproduce", "--data", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "bootstrap_labeled.tsv cannot be read" in said
        assert "--data takes a folder with" in said
