"""The page of a simulation, its statistics on curves whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from guard.taxonomy import CATEGORIES
from learner.curves import gather, interval, saved, saved_interval, write
from learner.report import macro_f1
from learner.simulate import Experiment, Round, Run

LABELS = np.array([10, 20, 30])


def run(strategy: str, seed: int, right: tuple[int, int, int]) -> Run:
    """Return a run in which so many of ten test messages of each category are right, the others called not-harmful."""
    rounds = []
    for number, hits in enumerate(right):
        table = np.zeros((6, 6), dtype=int)
        np.fill_diagonal(table, hits)
        table[:, 5] += 10 - hits
        rounds.append(Round(labels=[1 + number, 1, 1, 1, 1, 5 + 9 * number], confusion=table.tolist()))
    return Run("e", strategy, seed, [4, 20, 20, 20, 20, 16], rounds)


RUNS = [
    *(run("random", seed, (2, 3 + seed, 5 + seed)) for seed in range(3)),
    *(run("topn", seed, (2, 6 + seed, 7 + seed)) for seed in range(3)),
]


def test_curves_are_the_runs_by_seed() -> None:
    """Runs in any order give macro-F1, rare F1, errors and counts by seed and round."""
    curves = gather(RUNS[::-1])["topn"]
    assert curves.labels.tolist() == [10, 20, 30]
    truth = np.repeat(np.arange(6), 10)
    decisions = np.where(np.tile(np.arange(10), 6) < 7, truth, 5)
    assert curves.macro_f1[0, 2] == pytest.approx(100 * macro_f1(truth, decisions))
    assert curves.rare == (0,)
    assert curves.rare_f1[0, 2] == pytest.approx(100 * 2 * 7 / 17)
    assert curves.errors[1].tolist() == pytest.approx([20, 20, 20, 20, 20, 0])
    assert curves.found[0].tolist() == [2, 0, 0, 0, 0, 18]


def test_the_interval_is_students() -> None:
    """Mean and half width are those of a t-test; one value has no width."""
    values = np.array([1.0, 2.0, 4.0, 7.0])
    mean, half = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high))
    assert np.isnan(interval(values[:1])[1])


@pytest.mark.parametrize(
    ("own", "other", "labels"),
    [
        ([0, 8, 9], [0, 2, 4], 15),  # reaches 4 half way to 20
        ([0, 2, 6], [0, 2, 4], 5),
        ([0, 2, 4], [0, 2, 4], 0),
        ([0, 2, 4], [0, 8, 9], -15),
        ([3, 5, 5], [3, 3, 3], 20),  # the other one never left the start
    ],
)
def test_labels_saved(own: list[float], other: list[float], labels: float) -> None:
    """What is saved is how much earlier the higher curve is where the lower one ends; a minus where that is the other."""
    assert saved(np.array(own, dtype=float), np.array(other, dtype=float), LABELS) == pytest.approx(labels)


def test_labels_saved_have_an_interval() -> None:
    """The interval holds the estimate, is the same again, and has no width where all seeds agree."""
    curves = gather(RUNS)
    own, other = curves["topn"].macro_f1, curves["random"].macro_f1
    mean, low, high = saved_interval(own, other, LABELS)
    assert low <= mean <= high
    assert low < high
    assert saved_interval(own, other, LABELS) == (mean, low, high)
    same = saved_interval(own[[0, 0]], other[[0, 0]], LABELS)
    assert same[0] == same[1] == same[2]


def test_the_page(tmp_path: Path) -> None:
    """The page has every table, the paired difference with its interval, and a plot."""
    write(RUNS, Experiment(rounds=2, batch=10, start=10), tmp_path)
    page = (tmp_path / "report.md").read_text()
    for heading in ("After 30 labels", "by labels given", "difference to", "Labels that the rounds", "Per-class error"):
        assert f"{heading}" in page
    curves = gather(RUNS)
    mean, half = interval(curves["topn"].macro_f1[:, 2] - curves["random"].macro_f1[:, 2])
    assert f"{mean:+.1f} ± {half:.1f}" in page
    assert f"below 5 % of the pool: {CATEGORIES[0]}." in page
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def test_the_page_of_one_seed_without_rare_categories(tmp_path: Path) -> None:
    """One seed has no intervals but a page; where nothing is rare, nothing is said of rare ones."""
    runs = [Run(r.experiment, r.strategy, r.seed, [10] * 6, r.rounds) for r in RUNS if r.seed == 0]
    write(runs, Experiment(rounds=2, batch=10, start=10), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "rare" not in page.lower()
    assert "±" not in page
    assert "nan " not in page
