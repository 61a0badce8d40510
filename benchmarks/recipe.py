"""The training recipe on the paper's data: people's labels alone, and with the variations that pass verification.

    python -m benchmarks.recipe --data ../shared/data/active-learning-safety

Trains on the 150 bootstrap rows and the 100 messages of each split, labels repaired, as a cycle would: the tournament
chooses the recipe by cross-validation, the published dev rows give the temperature. `test_half` is only reported on.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from guard.decision import softmax
from guard.taxonomy import CATEGORIES, Category
from guard.text import normalise
from learner.backbone import load
from learner.calibrate import expected_calibration_error, temperature
from learner.compare import by_group, resampled_deltas
from learner.dataset import Dataset, Example
from learner.paper import LabelledSeed, PaperRow, read_labelled, read_split
from learner.progress import Progress, shown
from learner.report import confusion, mean_f1
from learner.settings import LearnerSettings
from learner.train import train
from learner.verify import Novelty, objection

RESULTS: Final = Path(__file__).parent / "results"
_SPLITS: Final = ("cluster", "random")
_FIVE: Final = [i for i, category in enumerate(CATEGORIES) if category is not Category.EMERGENCY_SITUATION]
_RESAMPLES: Final = 2_000


@dataclass(frozen=True)
class Trial:
    """One model on `test_half`: `(n, 6)` probabilities, the contest's figures and the seconds it took."""

    probabilities: npt.NDArray[np.float32]
    figures: dict[str, float]
    seconds: float


def main(
    data: Annotated[Path, typer.Option(help="Folder of the paper's TSV files.")],
    seeds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print macro-F1, the spread of errors, calibration, and what variations and fine-tuning were worth."""
    test = [row for row in read_labelled(data, "test_half") if row.text]
    labels = _labels(test)
    results: dict[str, Any] = {"rows": len(test), "seeds": seeds}
    table = Table("split", "trained on", "rows", "macro-F1", "five classes", "error std", "ECE", "seconds")
    with shown(sys.stderr) as progress:
        for split in _SPLITS:
            trials = {
                varied: [
                    _trial(data, split, varied=varied, seed=seed, test=test, progress=progress) for seed in range(seeds)
                ]
                for varied in (False, True)
            }
            for varied, found in trials.items():
                name = "people and variations" if varied else "people"
                results[f"{split}, {name}"] = figures = _figures(found, labels)
                table.add_row(split, name, str(int(found[0].figures["rows"])), *(figures["shown"]))
            results[f"{split}, variations' worth"] = worth = _worth(trials, labels)
            table.add_row(split, "difference, paired", "", worth["shown"], "", "", "", "")
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "recipe.json").write_text(json.dumps(results, indent=2) + "\n")


def _trial(data: Path, split: str, *, varied: bool, seed: int, test: Sequence[PaperRow], progress: Progress) -> Trial:
    settings = LearnerSettings(seed=seed)
    examples = [*_people(data, split), *(_variations(data, split) if varied else [])]
    dev = [row for row in read_labelled(data, "dev_labeled") if row.text]
    dataset = Dataset(train=tuple(examples), dev=(), held_out=0, duplicates=0, digest="")
    began_s = time.monotonic()
    network, contest = train(dataset, load(settings.backbone), settings, progress)
    seconds = time.monotonic() - began_s
    heat = temperature(network.score([row.text for row in dev]), _labels(dev))
    logits = network.score([row.text for row in test])
    return Trial(
        softmax(logits / np.float32(heat)), {"rows": float(len(examples)), **contest.metrics()}, round(seconds, 1)
    )


def _people(data: Path, split: str) -> list[Example]:
    bootstrap = [
        Example(row.text, row.category, f"b{i}") for i, row in enumerate(read_labelled(data, "bootstrap_labeled"))
    ]
    labelled = [Example(seed.row.text, seed.row.category, f"s{i}") for i, seed in _seeds(data, split)]
    return [example for example in (*bootstrap, *labelled) if example.text]


def _variations(data: Path, split: str) -> list[Example]:
    """Return the variations that `learner.verify` accepts by form and novelty; no judge stands at hand here."""
    novelty = Novelty([example.text for example in _people(data, split)])
    examples = []
    for i, seed in _seeds(data, split):
        for raw in seed.variations:
            text = normalise(raw)
            if objection(raw, text, seed=seed.row.text, nonce="-" * 16) is None and not novelty.knows(text):
                novelty.add(text)
                examples.append(Example(text, seed.row.category, f"s{i}", variation=True))
    return examples


def _seeds(data: Path, split: str) -> list[tuple[int, LabelledSeed]]:
    return [(i, seed) for i, seed in enumerate(read_split(data, split)) if seed.row.text]


def _labels(rows: Sequence[PaperRow]) -> npt.NDArray[np.int_]:
    return np.array([CATEGORIES.index(row.category) for row in rows])


def _figures(trials: Sequence[Trial], labels: npt.NDArray[np.int_]) -> dict[str, Any]:
    """Return means over seeds; the interval of macro-F1 is over test rows, all seeds together."""
    tables = np.array([confusion(labels, trial.probabilities.argmax(axis=1)) for trial in trials])
    six, five = (100 * mean_f1(tables, categories=c) for c in (None, _FIVE))
    errors = 100 * (1 - np.diagonal(tables, axis1=1, axis2=2) / tables.sum(axis=2))
    calibration = float(np.mean([expected_calibration_error(t.probabilities, labels) for t in trials]))
    low, high = _interval(trials, labels)
    return {
        "macro_f1": round(float(six.mean()), 2),
        "macro_f1_low": round(low, 2),
        "macro_f1_high": round(high, 2),
        "macro_f1_seeds": [round(float(value), 2) for value in six],
        "macro_f1_five": round(float(five.mean()), 2),
        "error_std": round(float(errors.std(axis=1).mean()), 2),
        "errors": [round(float(value), 1) for value in errors.mean(axis=0)],
        "calibration_error": round(calibration, 4),
        "seconds": [trial.seconds for trial in trials],
        "contests": [{name: round(value, 4) for name, value in trial.figures.items()} for trial in trials],
        "shown": (
            f"{six.mean():.1f} [{low:.1f}, {high:.1f}]",
            f"{five.mean():.1f}",
            f"{errors.std(axis=1).mean():.1f}",
            f"{100 * calibration:.1f}",
            f"{np.mean([trial.seconds for trial in trials]):.0f}",
        ),
    }


def _interval(trials: Sequence[Trial], labels: npt.NDArray[np.int_]) -> tuple[float, float]:
    rows = np.arange(len(labels))
    tables = [by_group(labels, trial.probabilities.argmax(axis=1), rows) for trial in trials]
    nothing = [np.zeros_like(table) for table in tables]
    draws = np.mean([resampled_deltas(a, b, 0) for a, b in zip(nothing, tables, strict=True)], axis=0)
    low, high = 100 * np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def _worth(trials: dict[bool, list[Trial]], labels: npt.NDArray[np.int_]) -> dict[str, Any]:
    """Return what the variations changed, with its interval over test rows, the same draws for every seed."""
    rows = np.arange(len(labels))
    deltas = []
    for without, varied in zip(trials[False], trials[True], strict=True):
        before, after = (by_group(labels, t.probabilities.argmax(axis=1), rows) for t in (without, varied))
        deltas.append(resampled_deltas(before, after, 0))
    low, high = 100 * np.percentile(np.mean(deltas, axis=0), (2.5, 97.5))
    exact = float(np.mean([_f1(b, labels) - _f1(a, labels) for a, b in zip(trials[False], trials[True], strict=True)]))
    return {
        "delta": round(100 * exact, 2),
        "low": round(float(low), 2),
        "high": round(float(high), 2),
        "shown": f"{100 * exact:+.1f} [{low:+.1f}, {high:+.1f}]",
    }


def _f1(trial: Trial, labels: npt.NDArray[np.int_]) -> float:
    return float(mean_f1(confusion(labels, trial.probabilities.argmax(axis=1))))


if __name__ == "__main__":
    typer.run(main)
