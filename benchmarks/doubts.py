"""Are wrong labels suspected? The seed corpus with some labels made wrong, and what confident learning says of them.

    python -m benchmarks.doubts

Two kinds of mistakes: any other category, at random; and the likeliest other one by a head that has not seen the row, as
people mistake what is easily mistaken. Each head of the cross-validation is trained on the wrong labels too. A list drawn
at random is wrong as often as labels are, and finds as large a part of the mistakes as it is long.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import StratifiedGroupKFold

from guard.taxonomy import CATEGORIES
from learner.backbone import load
from learner.dataset import Corpus
from learner.doubts import suspected
from learner.head import Floats, Labels, Recipe, Rows, fit_head, one_blas_thread
from learner.network import Network
from learner.progress import shown
from learner.settings import LearnerSettings

RESULTS: Final = Path(__file__).parent / "results" / "doubts.json"
_SHARES: Final = (0.05, 0.1)
_FOLDS: Final = 3
_TOP: Final = 20  # what a batch of 20 asks about in ten cycles


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    rows: Annotated[int, typer.Option(help="Of the corpus, drawn by scenario.", min=300)] = 1_500,
) -> None:
    """Print precision and recall of the suspicions and write `results/doubts.json`."""
    settings = LearnerSettings()
    examples = Corpus.load(settings.corpus_dir).train
    generator = np.random.default_rng(settings.seed)
    groups = Rows.of(examples).groups
    rank = generator.permutation(groups.max() + 1)[groups]
    examples = tuple(examples[place] for place in np.argsort(rank, kind="stable")[:rows])
    with shown(sys.stderr) as progress:
        network = Network(load(settings.backbone), max_tokens=settings.max_tokens, threads=settings.threads)
        features = network.embed([example.text for example in examples], progress)
    truth = Rows.of(examples)
    likeliest = _others(_unseen(features, truth, 0), truth.labels).argmax(axis=1)
    found: dict[str, Any] = {"rows": len(examples), "seeds": seeds, "kinds": {}}
    table = Table(
        "mistakes",
        "%",
        "suspected",
        "precision",
        "recall",
        f"precision, first {_TOP}",
        "precision, first as many as mistakes",
    )
    for kind in ("at random", "the likeliest"):
        for share in _SHARES:
            trials = [
                _trial(features, truth, likeliest if kind == "the likeliest" else None, share, s) for s in range(seeds)
            ]
            figures = {name: float(np.mean([trial[name] for trial in trials])) for name in trials[0]}
            found["kinds"][f"{kind}, {share:.0%}"] = figures
            table.add_row(
                kind,
                f"{100 * share:.0f}",
                f"{figures['suspected']:.0f}",
                *(f"{100 * figures[n]:.1f}" for n in list(figures)[1:]),
            )
    Console(width=110).print(table)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def _trial(features: Floats, truth: Rows, likeliest: Labels | None, share: float, seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    size = len(truth.labels)
    wrong = np.zeros(size, dtype=np.bool_)
    wrong[generator.choice(size, round(share * size), replace=False)] = True
    other = (truth.labels + generator.integers(1, len(CATEGORIES), size)) % len(CATEGORIES)
    labels = np.where(wrong, other if likeliest is None else likeliest, truth.labels)
    rows, _opinions = suspected(_unseen(features, Rows(labels, truth.weights, truth.groups, truth.human), seed), labels)
    return {
        "suspected": float(len(rows)),
        "precision": float(wrong[rows].mean()),
        "recall": float(wrong[rows].sum() / wrong.sum()),
        "top": float(wrong[rows[:_TOP]].mean()),
        "as_many": float(wrong[rows[: wrong.sum()]].sum() / wrong.sum()),
    }


def _unseen(features: Floats, rows: Rows, seed: int) -> Floats:
    """Return `(n, 6)` probabilities of heads that have not seen the row's scenario, as the tournament's."""
    found = np.empty((len(rows.labels), len(CATEGORIES)), dtype=np.float32)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    with one_blas_thread():
        for inside, outside in folds.split(rows.labels, rows.labels, rows.groups):
            found[outside] = fit_head(features[inside], rows.some(inside), Recipe()).predict_proba(features[outside])
    return found


def _others(probabilities: Floats, labels: Labels) -> npt.NDArray[np.float32]:
    """Return the probabilities without those of the labels."""
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    return others


if __name__ == "__main__":
    typer.run(main)
