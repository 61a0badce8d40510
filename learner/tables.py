"""A reproduction into its tables, the paper's figures beside ours: on a terminal, and `report.md` with its plot.

`learner.reproduce` measures. No text of the data goes into any of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from guard.taxonomy import CATEGORIES
from learner.paper import (
    BEST,
    BOOTSTRAP_F1,
    CLASS_COUNT_STD,
    CLASS_COUNTS,
    ERROR_STD,
    LABELS_F1,
    MODELS,
    SPLITS,
    VARIATIONS_F1,
)
from learner.report import REPORT
from learner.reproduce import WEIGHTS, Change, Labelling, Reproduction, Stage
from learner.tournament import STRENGTHS
from learner.trial import FOLDS, REPEATS, RESAMPLES, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS: Final = "results.json"
PLOT: Final = "reproduction.png"
_DOTS_PER_INCH: Final = 110
_OURS: Final = ("ours, as published", "ours, repaired", "five classes, as published", "five classes, repaired")


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its title, its columns, its rows and what must be known to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def tables(found: Reproduction) -> list[Table]:
    """Return all tables."""
    return [_counts(found), _bootstrap(found), _labels(found), _variations(found), _error_std(found), _changes(found)]


def heading(found: Reproduction) -> str:
    """Return what the figures are and how they came about."""
    shared = ", ".join(f"{count} of {name}" for name, count in found.shared_texts.items())
    relabelled = ", ".join(f"{count} of {name}" for name, count in found.relabelled.items())
    return (
        "The paper is Hassan, Sicilia and Alikhani, Active Learning for Robust and Representative LLM Generation in "
        "Safety-Critical Scenarios (CustomNLP4U 2024); its figures are those of its Tables 3, 4, 5, 6 and 8, one run each "
        f"on 2,700 test rows, without intervals. **Ours are on {found.test_rows:,} test rows, "
        f"half of the paper's test**, from its published data, with the backbone `{found.backbone}` left as it is and a "
        "class-balanced logistic regression on its pooled layers.\n\n"
        f"C is chosen of {', '.join(map(str, STRENGTHS))} by {FOLDS}-fold cross-validation, repeated {REPEATS} times, on the "
        "training rows alone: stratified, a message and its variations in one fold, judged on people's rows by log-loss "
        f"after the best temperature. Its folds are all that is random: figures are means over {found.seeds} seeds of "
        "them. The test chooses nothing.\n\n"
        f"Brackets are 95 % intervals over test rows ({RESAMPLES:,} bootstrap resamples, the same for every model, so "
        "that differences are paired). They say what another such test would give, not another draw of training rows.\n\n"
        "As published, some messages carry their subreddit's class in place of the person's label; repaired, they have "
        f"the label of their own variations. That changes {relabelled}. Texts that stand in the test half too: {shared}; "
        "they are left in, as in the paper."
    )


def show(found: Reproduction, console: Console) -> None:
    """Print the tables."""
    console.print(heading(found).replace("**", "").replace("`", ""), "")
    for table in tables(found):
        rich = RichTable(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
        for column in table.columns:
            rich.add_column(column, overflow="fold")  # two models differ in their last letters
        for row in table.rows:
            rich.add_row(*row)
        console.print(rich, "")


def write(found: Reproduction, folder: Path) -> None:
    """Write `report.md`, its plot and `results.json` into a folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = ["# The paper's tables beside ours", heading(found)]
    for table in tables(found):
        lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)], *table.rows]
        written = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        sections.append(f"## {table.title}\n\n{written}\n\n{table.note}")
    sections.insert(2, f"![Macro-F1 and the spread of errors, the paper's and ours]({PLOT})")
    _plot(found).savefig(folder / PLOT, dpi=_DOTS_PER_INCH)
    (folder / REPORT).write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    (folder / RESULTS).write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


def _counts(found: Reproduction) -> Table:
    rows = []
    for name, counts in CLASS_COUNTS.items():
        rows.append((f"{name}, paper", *map(str, counts), f"{CLASS_COUNT_STD[name]}" if name in SPLITS else ""))
        rows.extend(
            (f"{name}, {ours.labels}", *map(str, ours.counts), _cell(ours.std) if ours.std else "")
            for ours in found.counts
            if ours.name == name
        )
    changes = ", ".join(f"{_cell(change, signed=True)} {labels}" for labels, change in found.count_std_changes.items())
    return Table(
        "Table 3: rows of each class",
        ("file", *CATEGORIES, "standard deviation"),
        rows,
        "Rows without a text are left out: coreset's file has one, and one variation more than the paper counts. "
        "Intervals over the 100 messages of a split, each with its variations (basic bootstrap). Cluster's standard "
        f"deviation less random's: {changes}; the paper's {CLASS_COUNT_STD['cluster'] - CLASS_COUNT_STD['random']:+.1f}.",
    )


def _bootstrap(found: Reproduction) -> Table:
    ours = found.score(Stage.BOOTSTRAP, SPLITS[0], Labelling.PUBLISHED)
    row = ("bootstrap", *map(str, BOOTSTRAP_F1), _cell(ours.macro_f1), _cell(ours.macro_f1_five))
    return Table(
        "Table 4: macro-F1 after the bootstrap",
        ("trained on", *MODELS, "ours", "five classes"),
        [row],
        f"{ours.rows} rows. Five classes: those other than emergency, whose labels are mostly noise.",
    )


def _labels(found: Reproduction) -> Table:
    return Table(
        "Table 5: macro-F1 with 100 labels more",
        ("split", *MODELS, *_OURS),
        [(split, *map(str, LABELS_F1[split]), *_f1(found, Stage.LABELS, split)) for split in SPLITS],
        f"People's labels alone. The paper picked its messages with {MODELS[0]}.",
    )


def _variations(found: Reproduction) -> Table:
    return Table(
        "Table 6: macro-F1 with 500 variations more",
        ("split, weight", *MODELS, *_OURS),
        [
            (f"{split}, {weight:g}", *map(str, VARIATIONS_F1[split]), *_f1(found, stage, split))
            for split in SPLITS
            for stage, weight in WEIGHTS.items()
        ],
        "Weight: of a variation, where a person's label has 1; at 0 they are Table 5. The paper has no weights.",
    )


def _f1(found: Reproduction, stage: Stage, split: str) -> Iterator[str]:
    scores = [found.score(stage, split, labels) for labels in Labelling]
    yield from (_cell(score.macro_f1) for score in scores)
    yield from (_cell(score.macro_f1_five) for score in scores)


def _error_std(found: Reproduction) -> Table:
    rows = []
    for split in SPLITS:
        for stage in (Stage.LABELS, *WEIGHTS):
            published, repaired = (found.score(stage, split, labels) for labels in Labelling)
            paper = f"{ERROR_STD[split]}" if stage in WEIGHTS else ""
            errors = (f"{error:.1f}" for error in repaired.errors)
            rows.append((f"{split}, {stage}", paper, _cell(published.error_std), _cell(repaired.error_std), *errors))
    return Table(
        "Table 8: standard deviation of per-class error",
        ("trained on", MODELS[BEST], "ours, as published", "ours, repaired", *CATEGORIES),
        rows,
        "Per class: the share of its rows that is answered wrongly, ours with the labels repaired. Sample standard "
        "deviation, which is what matches the paper's Table 3; the population's, which the other reports have, is 0.913 "
        "of it.",
    )


def _changes(found: Reproduction) -> Table:
    by_name: dict[str, dict[Labelling, Change]] = {}
    for change in found.changes:
        by_name.setdefault(change.what, {})[change.labels] = change
    rows = []
    for what, changes in by_name.items():
        repaired = changes[Labelling.REPAIRED]
        published = changes.get(Labelling.PUBLISHED)
        rows.append(
            (
                what,
                "" if repaired.paper is None else f"{repaired.paper:+.1f}",
                _marked(published.macro_f1) if published else "",
                *(_marked(e) for e in (repaired.macro_f1, repaired.macro_f1_five, repaired.error_std)),
            )
        )
    return Table(
        "Differences, paired",
        ("what over what", MODELS[BEST], *_OURS[:2], "five classes, repaired", "error std, repaired"),
        rows,
        "Points of macro-F1, and of the errors' standard deviation, where less is better. An asterisk: the interval does "
        "not hold 0. Of so many differences that are none, one in twenty would have it by chance.",
    )


def _cell(estimate: Estimate, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.1f} [{estimate.low:{sign}.1f}, {estimate.high:{sign}.1f}]"


def _marked(estimate: Estimate) -> str:
    away = estimate.low > 0 or estimate.high < 0
    return _cell(estimate, signed=True) + (" *" if away else "")


def _plot(found: Reproduction) -> "Figure":
    from matplotlib.figure import Figure  # without pyplot: no global state and no display

    figure = Figure(figsize=(12.8, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot_f1(found, left)
    _plot_errors(found, right)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=len(SPLITS), fontsize="small")
    return figure


def _plot_f1(found: Reproduction, axes: "Axes") -> None:
    """Draw macro-F1 by stage, each split moved a little aside so that intervals can be told apart."""
    stages = (Stage.BOOTSTRAP, Stage.LABELS, Stage.DOWN_WEIGHTED)
    for number, split in enumerate(SPLITS):
        places = [place + 0.06 * (number - 1.5) for place in range(len(stages))]
        ours = [found.score(stage, split, Labelling.REPAIRED).macro_f1 for stage in stages]
        paper = [BOOTSTRAP_F1[BEST], LABELS_F1[split][BEST], VARIATIONS_F1[split][BEST]]
        values, ends = _bars(ours)
        drawn = axes.errorbar(places, values, ends, marker="o", capsize=2, label=f"{split}, ours")
        axes.plot(places, paper, color=drawn[0].get_color(), marker="s", linestyle=":", label=f"{split}, paper")
    axes.set_xticks(range(len(stages)), ["bootstrap", "+ 100 labels", "+ 500 variations"])
    axes.set_ylabel("%")
    axes.set_title(f"macro-F1: ours, labels repaired, weight {WEIGHTS[Stage.DOWN_WEIGHTED]}; paper, {MODELS[BEST]}")


def _plot_errors(found: Reproduction, axes: "Axes") -> None:
    places = range(len(SPLITS))
    ours = [found.score(Stage.DOWN_WEIGHTED, split, Labelling.REPAIRED).error_std for split in SPLITS]
    values, ends = _bars(ours)
    axes.bar(
        [p - 0.2 for p in places], [ERROR_STD[split] for split in SPLITS], width=0.4, label=f"paper, {MODELS[BEST]}"
    )
    axes.bar([p + 0.2 for p in places], values, width=0.4, yerr=ends, capsize=2, label="ours")
    axes.set_xticks(places, SPLITS)
    axes.set_title("standard deviation of per-class error, with variations")
    axes.margins(y=0.2)
    axes.legend(fontsize="small", loc="upper right")


def _bars(estimates: Sequence[Estimate]) -> tuple[list[float], list[list[float]]]:
    """Return values, and how far their intervals reach below and above."""
    values = [e.value for e in estimates]
    return values, [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
