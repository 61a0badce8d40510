"""Every query strategy against random on three pools: the seed corpus made imbalanced, and the paper's two halves.

    python -m benchmarks.simulation --data ../shared/data/active-learning-safety --work simulations

The first is `learner simulate` with all strategies; then the default one, the paper's and random play more seeds on all
three. The paper's rows that people labelled for training chose the default; `test_half` has chosen nothing. A run that
was interrupted goes on.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.paper_data import write_labelled, write_test_half
from guard.taxonomy import CATEGORIES, Category
from learner import curves
from learner.progress import shown
from learner.report import REPORT
from learner.selection import STRATEGIES
from learner.settings import LearnerSettings
from learner.simulate import BASELINE, Experiment, Laboratory, Run, prepare, read, simulate

RESULTS: Final = Path(__file__).parent / "results"
PICTURE: Final = Path(__file__).parent.parent / "docs" / "simulation.png"
IMBALANCE: Final = {Category.SELF_HARM: 0.03, Category.EMERGENCY_SITUATION: 0.03, Category.NOT_HARMFUL: 0.7}


@dataclass(frozen=True)
class _Pool:
    """Labelled texts and how they are thinned."""

    name: str
    laboratory: Laboratory
    experiment: Experiment
    folder: Path


def main(
    data: Annotated[Path, typer.Option(help="The paper's published data.")],
    work: Annotated[Path, typer.Option(help="Folder of the runs; the same one again goes on.")],
    seeds: Annotated[int, typer.Option(help="Runs of every strategy on the seed corpus.")] = 20,
    paired: Annotated[
        int, typer.Option(help="Runs of the default strategy, the paper's and random on each pool.")
    ] = 80,
) -> None:
    """Play, print, and write `results/simulation.md`, `results/simulation.json` and `docs/simulation.png`."""
    settings = LearnerSettings()
    corpus = Experiment(imbalance=IMBALANCE)
    pools = []
    for name, experiment in (("seed corpus", corpus), ("paper, labelled", Experiment()), ("paper, test", Experiment())):
        folder = work / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        source = settings.corpus_dir if experiment is corpus else folder / "rows.jsonl"
        if name == "paper, labelled":
            write_labelled(source, data)
        elif name == "paper, test":
            write_test_half(source, data)
        with shown(sys.stderr) as progress:
            laboratory = prepare(read(source), settings, folder, progress)
        pools.append(_Pool(name, laboratory, experiment, folder))
    every = _play(pools[0], list(STRATEGIES), seeds, settings)
    curves.write(every, corpus, pools[0].folder)
    shutil.copy(pools[0].folder / REPORT, RESULTS / "simulation.md")
    shutil.copy(pools[0].folder / curves.PLOT, PICTURE)
    names = list(dict.fromkeys([settings.strategy, "cluster"]))
    found = {pool.name: _figures(_play(pool, names, paired, settings)) for pool in pools}
    (RESULTS / "simulation.json").write_text(json.dumps(found, indent=2) + "\n")
    _print(found)


def _play(pool: _Pool, names: Sequence[str], seeds: int, settings: LearnerSettings) -> list[Run]:
    with shown(sys.stderr) as progress:
        return simulate(
            pool.laboratory,
            pool.experiment,
            strategies=names,
            seeds=seeds,
            folder=pool.folder,
            workers=settings.threads,
            progress=progress,
        )


def _figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the differences to random after the last round, mean and half width, in points."""
    found = curves.gather(runs)
    base = found[BASELINE]
    figures: dict[str, Any] = {
        "seeds": len(base.counts),
        "rare": [CATEGORIES[c] for c in base.rare],
        BASELINE: {"macro_f1": curves.interval(base.macro_f1[:, -1])},
    }
    for name, own in found.items():
        if name == BASELINE:
            continue
        figures[name] = {
            "macro_f1": curves.interval(own.macro_f1[:, -1] - base.macro_f1[:, -1]),
            "labels_saved": curves.saved_interval(own.macro_f1, base.macro_f1, own.labels),
        }
        if base.rare:
            figures[name]["rare_f1"] = curves.interval(own.rare_f1[:, -1] - base.rare_f1[:, -1])
    return figures


def _print(found: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("pool", "seeds", "strategy", "Δ macro-F1", "Δ F1 of rare categories", "labels saved")
    for pool, figures in found.items():
        for name, own in figures.items():
            if isinstance(own, dict) and "labels_saved" in own:
                rare = own.get("rare_f1", (np.nan, np.nan))
                saved, low, high = own["labels_saved"]
                table.add_row(
                    pool,
                    str(figures["seeds"]),
                    name,
                    _plus_minus(own["macro_f1"]),
                    _plus_minus(rare) if "rare_f1" in own else "",
                    f"{saved:.0f} [{low:.0f}, {high:.0f}]",
                )
    Console().print(table)


def _plus_minus(figure: Sequence[float]) -> str:
    return f"{figure[0]:+.1f} ± {figure[1]:.1f}"


if __name__ == "__main__":
    typer.run(main)
