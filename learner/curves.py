"""The runs of a simulation into one page: `report.md` with its tables, and `curves.png`; no text goes into either.

`learner.simulate` makes the runs. Every interval is of 95 %, over seeds; every difference is to random on the same seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from guard.taxonomy import CATEGORIES
from learner.report import REPORT, mean_f1
from learner.simulate import BASELINE, Experiment, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

PLOT: Final = "curves.png"
_RARE: Final = 0.05  # share of the pool below which a category is rare
_CONFIDENCE: Final = 0.95
_RESAMPLES: Final = 2_000
_DOTS_PER_INCH: Final = 110


@dataclass(frozen=True)
class Curves:
    """What one strategy did, a row a seed.

    Args:
        labels: `(rounds + 1,)` labels given, the start first.
        counts: `(seeds, rounds + 1, 6)` labels of each category.
        confusions: `(seeds, rounds + 1, 6, 6)` on the test part.
        rare: Indices of the rare categories.
    """

    labels: npt.NDArray[np.int_]
    counts: npt.NDArray[np.int_]
    confusions: npt.NDArray[np.int_]
    rare: tuple[int, ...]

    @property
    def macro_f1(self) -> Floats:
        """`(seeds, rounds + 1)` in percent."""
        return 100 * mean_f1(self.confusions)

    @property
    def rare_f1(self) -> Floats:
        """`(seeds, rounds + 1)` mean F1 of the rare categories, in percent."""
        return 100 * mean_f1(self.confusions, categories=self.rare)

    @property
    def errors(self) -> Floats:
        """`(seeds, 6)` share of each category that is answered wrongly after the last round, in percent."""
        last = self.confusions[:, -1]
        return np.asarray(100 * (1 - np.diagonal(last, axis1=1, axis2=2) / last.sum(axis=2)), dtype=np.float64)

    @property
    def found(self) -> npt.NDArray[np.int_]:
        """`(seeds, 6)` labels of each category that the rounds brought."""
        return np.asarray(self.counts[:, -1] - self.counts[:, 0], dtype=np.int_)


def gather(runs: Sequence[Run]) -> dict[str, Curves]:
    """Return the curves of every strategy, their rows by seed."""
    pool = np.sum([run.pool for run in runs], axis=0)
    rare = tuple(int(c) for c in np.flatnonzero(pool < _RARE * pool.sum()))
    curves = {}
    for name in dict.fromkeys(run.strategy for run in runs):
        mine = sorted((run for run in runs if run.strategy == name), key=lambda run: run.seed)
        counts = np.array([[r.labels for r in run.rounds] for run in mine])
        confusions = np.array([[r.confusion for r in run.rounds] for run in mine])
        curves[name] = Curves(counts[0].sum(axis=1), counts, confusions, rare)
    return curves


def interval(values: Floats) -> tuple[float, float]:
    """Return mean and half width of its 95 % interval (Student's t); the width of a single value is nan."""
    if len(values) < 2:  # noqa: PLR2004 - no spread to be seen
        return float(values.mean()), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * error)


def saved(own: Floats, other: Floats, labels: npt.NDArray[np.int_]) -> float:
    """Return how many labels fewer one mean curve needs than another to come as far as the lower of both ends.

    Negative where the other one ends higher. Between rounds a curve is a straight line; both start at the same point.
    """
    if own[-1] < other[-1]:
        return -saved(other, own, labels)
    target = other[-1]
    place = int((own >= target).argmax())
    if place == 0:
        return float(labels[-1] - labels[0])
    step = (target - own[place - 1]) / (own[place] - own[place - 1])
    return float(labels[-1] - labels[place - 1] - step * (labels[place] - labels[place - 1]))


def saved_interval(own: Floats, other: Floats, labels: npt.NDArray[np.int_]) -> tuple[float, float, float]:
    """Return labels saved and the ends of its interval, by resampling seeds in pairs (the percentile bootstrap).

    Args:
        own: `(seeds, rounds + 1)` macro-F1.
        other: Likewise, of the strategy it is compared with.
        labels: `(rounds + 1,)` labels given.
    """
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(own), (_RESAMPLES, len(own)))
    values = [saved(own[draw].mean(axis=0), other[draw].mean(axis=0), labels) for draw in draws]
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return saved(own.mean(axis=0), other.mean(axis=0), labels), float(low), float(high)


def write(runs: Sequence[Run], experiment: Experiment, folder: Path) -> None:
    """Write the page and its plot."""
    curves = gather(runs)
    rare = [CATEGORIES[c].value for c in curves[BASELINE].rare]
    sections = [_heading(runs, experiment), _last(curves), _rounds(curves), _differences(curves)]
    sections.append(f"![Macro-F1 by labels given]({PLOT})")
    sections.append(_found(curves))
    sections.append(_errors(curves))
    _plot(curves).savefig(folder / PLOT, dpi=_DOTS_PER_INCH)
    if rare:
        sections.insert(1, f"Rare, that is below {100 * _RARE:.0f} % of the pool: {', '.join(rare)}.")
    (folder / REPORT).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _heading(runs: Sequence[Run], experiment: Experiment) -> str:
    seeds = len({run.seed for run in runs})
    pool = np.mean([run.pool for run in runs], axis=0)
    test = np.mean([np.sum(run.rounds[0].confusion, axis=1) for run in runs], axis=0)
    columns = ("messages", *CATEGORIES)
    table = _table(
        columns, [(name, *(f"{n:.0f}" for n in counts)) for name, counts in (("pool", pool), ("test", test))]
    )
    return (
        f"# Simulation\n\n{seeds} seeds; {experiment.start} labels at the start, then {experiment.rounds} rounds of "
        f"{experiment.batch}. Means over seeds with 95 % intervals (Student's t). Differences are to `{BASELINE}` on the "
        "same seed, that is, the same split and the same start. All figures are of the test part, in percent.\n\n"
        f"{table}"
    )


def _last(curves: dict[str, Curves]) -> str:
    rows, base = [], curves[BASELINE]
    for name, own in curves.items():
        row = [name, _plus_minus(own.macro_f1[:, -1])]
        if base.rare:
            row.append(_plus_minus(own.rare_f1[:, -1]))
        if name == BASELINE:
            rows.append((*row, *[""] * (3 if base.rare else 2)))
            continue
        row.append(_plus_minus(own.macro_f1[:, -1] - base.macro_f1[:, -1], signed=True))
        if base.rare:
            row.append(_plus_minus(own.rare_f1[:, -1] - base.rare_f1[:, -1], signed=True))
        mean, low, high = saved_interval(own.macro_f1, base.macro_f1, own.labels)
        rows.append((*row, f"{mean:.0f} [{low:.0f}, {high:.0f}]"))
    columns = ["strategy", "macro-F1", "rare F1", "Δ macro-F1", "Δ rare F1", "labels saved"]
    shown = [column for column in columns if base.rare or "rare" not in column]
    return (
        f"## After {base.labels[-1]} labels\n\n{_table(shown, rows)}\n\n"
        f"Labels saved: how many fewer bring the mean curve where `{BASELINE}` ends; where a strategy ends lower, how "
        f"many fewer `{BASELINE}` needs to come as far, with a minus. Interval by the bootstrap over seeds."
    )


def _rounds(curves: dict[str, Curves]) -> str:
    columns = ("labels", *map(str, curves[BASELINE].labels))
    rows = [(name, *(_plus_minus(values) for values in own.macro_f1.T)) for name, own in curves.items()]
    return f"## Macro-F1 by labels given\n\n{_table(columns, rows)}"


def _differences(curves: dict[str, Curves]) -> str:
    base = curves[BASELINE]
    columns = ("labels", *map(str, base.labels[1:]))
    rows = [
        (name, *(_plus_minus(values, signed=True) for values in (own.macro_f1 - base.macro_f1).T[1:]))
        for name, own in curves.items()
        if name != BASELINE
    ]
    return f"## Macro-F1, difference to `{BASELINE}`\n\n{_table(columns, rows)}"


def _found(curves: dict[str, Curves]) -> str:
    rows = [
        (name, *(f"{n:.1f}" for n in own.found.mean(axis=0)), _plus_minus(own.counts[:, -1].std(axis=1)))
        for name, own in curves.items()
    ]
    columns = ("strategy", *CATEGORIES, "std of class counts")
    return (
        f"## Labels that the rounds brought\n\n{_table(columns, rows)}\n\n"
        "The standard deviation is of the counts of all labels, the start among them (the paper's Table 3)."
    )


def _errors(curves: dict[str, Curves]) -> str:
    rows = [
        (name, *(f"{e:.1f}" for e in own.errors.mean(axis=0)), _plus_minus(own.errors.std(axis=1)))
        for name, own in curves.items()
    ]
    columns = ("strategy", *CATEGORIES, "std over classes")
    return f"## Per-class error after the last round\n\n{_table(columns, rows)}"


def _plus_minus(values: Floats, *, signed: bool = False) -> str:
    mean, half = interval(values)
    number = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return number if np.isnan(half) else f"{number} ± {half:.1f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plot(curves: dict[str, Curves]) -> "Figure":
    from matplotlib.figure import Figure  # without pyplot: no global state and no display

    panels = {"macro-F1": [own.macro_f1 for own in curves.values()]}
    if curves[BASELINE].rare:
        panels["F1 of rare categories"] = [own.rare_f1 for own in curves.values()]
    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained")
    for place, (title, values) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        for (name, own), scores in zip(curves.items(), values, strict=True):
            means, halves = np.array([interval(column) for column in scores.T]).T
            plain = name == BASELINE  # the one to compare with stands out, and alone shows its interval
            (line,) = axes.plot(own.labels, means, label=name, linewidth=3 if plain else 1.5)
            if plain:
                axes.fill_between(own.labels, means - halves, means + halves, color=line.get_color(), alpha=0.15)
        axes.set_title(title)
        axes.set_xlabel("labels")
        axes.set_ylabel("%")
        axes.legend()
    return figure
