"""The laboratory: splits, runs, results that survive an interruption, and the command."""

import json
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES, Category
from learner import cli
from learner.report import confusion
from learner.selection import STRATEGIES
from learner.settings import LearnerSettings
from learner.simulate import RESULTS, Experiment, Laboratory, Run, identity, play, prepare, read, simulate, split
from tests.learner.conftest import easy_rows, write_corpus

SMALL = Experiment(rounds=3, batch=6, start=8)


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    """600 messages of six categories that overlap, three a group; two thirds of them are not-harmful."""
    generator = np.random.default_rng(5)
    labels = np.repeat(generator.choice(6, 200, p=[0.05, 0.07, 0.07, 0.07, 0.07, 0.67]), 3)
    features = np.eye(16, dtype=np.float32)[labels] + generator.normal(0, 0.4, (600, 16)).astype(np.float32)
    return Laboratory(features, 16, labels, np.repeat(np.arange(200), 3), "digest")


class TestSplit:
    """The parts of one seed."""

    def test_no_group_is_in_pool_and_test(self, laboratory: Laboratory) -> None:
        """Pool and test part are disjoint by group and together hold every row, the test part about a third."""
        for seed in range(5):
            parts = split(laboratory, SMALL, seed)
            assert not set(laboratory.groups[parts.pool]) & set(laboratory.groups[parts.test])
            assert sorted((*parts.pool, *parts.test)) == list(range(600))
            assert len(parts.test) == pytest.approx(200, abs=30)

    def test_the_start_has_every_category(self, laboratory: Laboratory) -> None:
        """The labels given at the start are as many as said, of the pool, each once, and of all six categories."""
        for seed in range(5):
            parts = split(laboratory, SMALL, seed)
            assert len(set(parts.start)) == len(parts.start) == 8
            assert set(parts.start) <= set(parts.pool)
            assert set(laboratory.labels[parts.start]) == set(range(6))

    def test_seeds_differ_and_repeat(self, laboratory: Laboratory) -> None:
        """A seed gives the same parts again, and another seed others."""
        one, again, other = (split(laboratory, SMALL, seed) for seed in (1, 1, 2))
        assert one.pool.tolist() == again.pool.tolist()
        assert one.start.tolist() == again.start.tolist()
        assert set(one.test) != set(other.test)

    def test_imbalance_thins_the_pool_alone(self, laboratory: Laboratory) -> None:
        """The pool has the shares asked for, the unnamed ones share the rest, and the test part stays as it was."""
        shares = {Category.NOT_HARMFUL: 0.5, Category.SELF_HARM: 0.06}
        parts = split(laboratory, Experiment(3, 6, 8, shares), 0)
        counts = np.bincount(laboratory.labels[parts.pool], minlength=6)
        assert counts / counts.sum() == pytest.approx([0.06, 0.11, 0.11, 0.11, 0.11, 0.5], abs=0.03)
        assert parts.test.tolist() == split(laboratory, SMALL, 0).test.tolist()

    @pytest.mark.parametrize(
        "shares",
        [
            {Category.NOT_HARMFUL: 1.0},
            {Category.NOT_HARMFUL: 0.8, Category.SELF_HARM: -0.1},
            dict.fromkeys(CATEGORIES, 0.1),
        ],
        ids=["nothing left", "negative", "too little"],
    )
    def test_impossible_shares_are_refused(self, shares: dict[Category, float]) -> None:
        """Shares that leave nothing for a category, or do not add up, are refused."""
        with pytest.raises(BadConfiguration, match="--imbalance"):
            Experiment(imbalance=shares).shares()

    @pytest.mark.parametrize("experiment", [Experiment(start=5), Experiment(rounds=30)], ids=["start", "rounds"])
    def test_a_pool_that_is_too_small_is_refused(self, laboratory: Laboratory, experiment: Experiment) -> None:
        """Labels that the pool has not got are not promised."""
        with pytest.raises(BadConfiguration, match="pool of seed 0"):
            split(laboratory, experiment, 0)


class TestPlay:
    """One run."""

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_labels_a_batch_each_round(self, laboratory: Laboratory, name: str) -> None:
        """Each round adds a batch of labels, never more of a category than the pool holds, and tests on every row."""
        run = play(laboratory, SMALL, name, 0)
        assert [sum(r.labels) for r in run.rounds] == [8, 14, 20, 26]
        assert all(np.array(run.rounds[-1].labels) <= run.pool)
        assert {int(np.sum(r.confusion)) for r in run.rounds} == {len(split(laboratory, SMALL, 0).test)}

    def test_strategies_of_a_seed_start_alike(self, laboratory: Laboratory) -> None:
        """Before the first round all strategies of a seed are one and the same."""
        first = {msgspec.json.encode(play(laboratory, SMALL, name, 4).rounds[0]) for name in STRATEGIES}
        assert len(first) == 1

    def test_is_the_same_again(self, laboratory: Laboratory) -> None:
        """Data, experiment, strategy and seed decide the run."""
        assert play(laboratory, SMALL, "stochastic", 3) == play(laboratory, SMALL, "stochastic", 3)

    def test_learns(self, laboratory: Laboratory) -> None:
        """With many labels the head is right about what can be told apart, and better than at the start."""
        run = play(laboratory, Experiment(rounds=4, batch=60, start=8), "random", 0)
        right = [np.trace(np.array(r.confusion)) / np.sum(r.confusion) for r in run.rounds]
        assert right[-1] > max(0.75, right[0])

    def test_what_is_counted_is_the_test_part(self, laboratory: Laboratory) -> None:
        """The rows of the confusion are the labels of the test part."""
        truth = laboratory.labels[split(laboratory, SMALL, 0).test]
        run = play(laboratory, SMALL, "random", 0)
        assert np.sum(run.rounds[0].confusion, axis=1).tolist() == confusion(truth, truth).diagonal().tolist()


@pytest.mark.slow
class TestSimulate:
    """All runs."""

    def test_plays_all_and_goes_on(self, laboratory: Laboratory, tmp_path: Path) -> None:
        """Runs are those of `play`; after an interruption only the missing ones, or one cut off, are played."""
        told: list[tuple[int, int]] = []

        def again(workers: int) -> list[Run]:
            told.clear()
            return simulate(
                laboratory,
                SMALL,
                strategies=["topn"],
                seeds=2,
                folder=tmp_path,
                workers=workers,
                progress=lambda _stage, done, total: told.append((done, total)),
            )

        runs = again(2)
        assert [(run.strategy, run.seed) for run in runs] == [("random", 0), ("topn", 0), ("random", 1), ("topn", 1)]
        assert runs == [play(laboratory, SMALL, run.strategy, run.seed) for run in runs]
        assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]

        results = tmp_path / RESULTS
        lines = results.read_bytes().splitlines(keepends=True)
        assert len(lines) == 4
        results.write_bytes(b"".join(lines[:2]) + lines[2][:40])
        assert again(1) == runs
        assert told == [(2, 4), (3, 4), (4, 4)]
        assert Counter(results.read_bytes().splitlines()) == Counter(line.strip() for line in lines)

        assert again(1) == runs
        assert told == [(4, 4)]

    def test_keeps_experiments_apart(self, laboratory: Laboratory, tmp_path: Path) -> None:
        """Results of another experiment in the same folder are neither counted nor lost."""
        other = Experiment(rounds=1, batch=6, start=8)
        stranger = play(laboratory, other, "random", 0)
        (tmp_path / RESULTS).write_bytes(msgspec.json.encode(stranger) + b"\n")
        (run,) = simulate(laboratory, SMALL, strategies=[], seeds=1, folder=tmp_path, workers=1)
        assert run.experiment == identity(laboratory, SMALL) != stranger.experiment
        assert len((tmp_path / RESULTS).read_bytes().splitlines()) == 2

    def test_command_writes_the_page(
        self,
        settings: LearnerSettings,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        no_network: None,
    ) -> None:
        """`learner simulate` leaves results, page and plot, none with a text in it, and embeds only once."""
        for name in ("corpus_dir", "backbone", "max_tokens", "threads"):
            monkeypatch.setenv(f"LEARNER_{name.upper()}", str(getattr(settings, name)))
        out = tmp_path / "out"
        command = ["learner", "simulate", "--out", str(out), "--strategies", "cluster,rare", "--seeds", "2"]
        monkeypatch.setattr(
            sys, "argv", [*command, "--rounds", "1", "--batch", "6", "--start", "12", "--imbalance", "not-harmful=0.4"]
        )
        for _ in range(2):
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code
        told = capsys.readouterr()
        assert f"6 runs: {out / 'report.md'}" in told.out
        assert "embed" in told.err
        features, *others = sorted(path.name for path in out.iterdir())
        assert features.startswith("curves")
        assert [name.partition("-")[0] for name in others] == ["features", "report.md", "results.jsonl"]
        written = (out / "report.md").read_text() + (out / RESULTS).read_text()
        assert "| cluster |" in written
        assert not any(str(row["text"]) in written for row in easy_rows()["train"])


class TestRefusals:
    """What is said before anything is computed."""

    def test_an_unknown_strategy(self, laboratory: Laboratory, tmp_path: Path) -> None:
        """The message lists the strategies there are."""
        with pytest.raises(BadConfiguration, match=r"nearest.*cluster-margin"):
            simulate(laboratory, SMALL, strategies=["nearest"], seeds=1, folder=tmp_path, workers=1)

    def test_no_data(self, tmp_path: Path) -> None:
        """A folder without train.jsonl is named with the remedy."""
        with pytest.raises(BadConfiguration, match=r"train\.jsonl does not exist: give --data"):
            read(tmp_path)

    def test_a_category_with_too_few_groups(self, tmp_path: Path) -> None:
        """A category that cannot be in every part is named."""
        rows = [row for row in easy_rows()["train"] if row["category"] != Category.SELF_HARM]
        folder = write_corpus(tmp_path, {"train": rows})
        with pytest.raises(BadConfiguration, match="0 groups of self-harm"):
            read(folder)

    @pytest.mark.parametrize("given", ["self-harm", "self-harm=much", "selfharm=0.1"])
    def test_shares_that_cannot_be_read(
        self, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The message says how shares are written and which categories there are."""
        monkeypatch.setattr(sys, "argv", ["learner", "simulate", "--out", str(tmp_path), "--imbalance", given])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert "category=share" in capsys.readouterr().err


@pytest.mark.slow
def test_features_are_kept_under_their_digest(settings: LearnerSettings, corpus_folder: Path, tmp_path: Path) -> None:
    """The same texts are embedded once; others, or another backbone's window, get a file of their own."""
    examples = read(corpus_folder)
    told: list[str] = []

    def embedded(count: int, tokens: int) -> Laboratory:
        told.clear()
        mine = settings.model_copy(update={"max_tokens": tokens})
        return prepare(examples[:count], mine, tmp_path, lambda stage, _done, _total: told.append(stage))

    first = embedded(60, 48)
    assert set(told) == {"embed"}
    again = embedded(60, 48)
    assert told == []
    assert np.array_equal(first.features, again.features)
    assert first.digest == again.digest
    assert embedded(60, 40).digest != first.digest
    assert len(embedded(50, 48).features) == 50
    assert len(list(tmp_path.glob("features-*.npy"))) == 3
    assert first.features.shape == (60, 3 * first.width)
    assert json.dumps([CATEGORIES[label] for label in first.labels]) == json.dumps([e.category for e in examples[:60]])
