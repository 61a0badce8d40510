"""An export and labelled texts into figures and into `report.md`, the model's card; no text goes into either.

Texts are judged as serving judges them: all windows, the bundle's thresholds. `learner.gate` compares two such results.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from guard.bundle import Bundle
from guard.decision import decide, softmax
from guard.taxonomy import CATEGORIES, Category
from learner.calibrate import BINS, bins, expected_calibration_error
from learner.dataset import Dataset, Example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from learner.tournament import Contest

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int_]  # into CATEGORIES

REPORT: Final = "report.md"
ONNX_DIFFERENCE: Final = "onnx_max_difference"  # the metric: the largest difference to the network found, in logits
ONNX_TOLERANCE: Final = 1e-3
AGREEMENT: Final = "agreement"  # `agreement.int8`: share of decisions that are those of fp32
RUN_MS: Final = "run_ms"  # `run_ms.int8`: CPU time of one message alone
_DOTS_PER_INCH: Final = 110
_NOT_HARMFUL: Final = CATEGORIES.index(Category.NOT_HARMFUL)
_EMERGENCY: Final = CATEGORIES.index(Category.EMERGENCY_SITUATION)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a bundle made of some examples.

    Args:
        labels: `(n,)` what people say.
        decisions: `(n,)` what the guard would answer.
        probabilities: `(n, 6)` of the window that decided.
    """

    labels: Indices
    decisions: Indices
    probabilities: Floats


def score(bundle: Bundle, examples: Sequence[Example]) -> Scored:
    """Judge examples as serving does: every window of every text, then `guard.decision.decide`."""
    encoded = bundle.encode([example.text for example in examples])
    windows = [window for windows in encoded for window in windows]
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].ids))
    logits = np.empty((len(windows), len(CATEGORIES)), dtype=np.float32)
    size = bundle.artefact.batch.max_batch_size
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        logits[rows] = bundle.run([windows[i] for i in rows]).logits
    ends = np.cumsum([len(windows) for windows in encoded])[:-1]
    verdicts = [decide(part, bundle.thresholds) for part in np.split(softmax(logits), ends) if len(part)]
    return Scored(
        labels=_indices([example.category for example in examples]),
        decisions=_indices([verdict.category for verdict in verdicts]),
        probabilities=np.array([verdict.scores for verdict in verdicts], dtype=np.float32).reshape(-1, len(CATEGORIES)),
    )


def confusion(labels: Indices, decisions: Indices) -> npt.NDArray[np.int_]:
    """Return `(6, 6)` counts, a row for each label and a column for each decision."""
    size = len(CATEGORIES)
    return np.bincount(labels * size + decisions, minlength=size * size).reshape(size, size)


def macro_f1(labels: Indices, decisions: Indices, *, categories: Sequence[int] | None = None) -> float:
    """Return the mean F1 over all categories, or over those with the given indices."""
    return float(mean_f1(confusion(labels, decisions), categories=categories))


def mean_f1(confusions: npt.NDArray[np.int_], *, categories: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
    """Return `(...)` macro-F1 of `(..., 6, 6)` confusions; a category that neither occurs nor is decided is left out."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    seen = confusions.sum(axis=-1) + confusions.sum(axis=-2)
    kept = seen > 0
    if categories is not None:
        kept = kept & np.isin(np.arange(len(CATEGORIES)), categories)
    f1 = np.divide(2 * right, seen, out=np.zeros(seen.shape), where=kept)
    return np.asarray(f1.sum(axis=-1) / np.maximum(kept.sum(axis=-1), 1), dtype=np.float64)


def metrics(scored: Scored) -> dict[str, float]:
    """Return all figures by name, in shares of 1; what cannot be told for want of rows is left out.

    `error_std` is the standard deviation of the categories' error rates (the paper's Table 8, there in percent).
    """
    table = confusion(scored.labels, scored.decisions)
    rows, columns, right = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    calm = [i for i in range(len(CATEGORIES)) if i != _EMERGENCY]
    figures = {
        "rows": float(rows.sum()),
        "macro_f1": float(mean_f1(table)),
        "macro_f1_without_emergency": float(mean_f1(table, categories=calm)),
        "calibration_error": expected_calibration_error(scored.probabilities, scored.labels),
        "error_std": float(np.std(1 - right[rows > 0] / rows[rows > 0])),
    }
    for i, category in enumerate(CATEGORIES):
        figures[f"rows.{category}"] = float(rows[i])
        if rows[i]:
            figures[f"recall.{category}"] = float(right[i] / rows[i])
        if columns[i]:
            figures[f"precision.{category}"] = float(right[i] / columns[i])
    if rows[_NOT_HARMFUL]:
        figures["false_alarm_rate"] = float(1 - right[_NOT_HARMFUL] / rows[_NOT_HARMFUL])
    return figures


def write(
    bundle: Bundle, folder: Path, *, gate: Sequence[Example], dataset: Dataset, contest: "Contest"
) -> dict[str, float]:
    """Write `report.md` and its plots for a fresh export, and return its metrics on the gate set."""
    scored = score(bundle, gate)
    figures = metrics(scored)
    table = confusion(scored.labels, scored.decisions)
    plots = {
        "confusion.png": ("What people say, and what the guard answers", _confusion_plot(table)),
        "reliability.png": ("How often it is right when it is this sure", _reliability_plot(scored)),
        "categories.png": ("Precision and recall", _category_plot(figures)),
    }
    for name, (_caption, figure) in plots.items():
        figure.savefig(folder / name, dpi=_DOTS_PER_INCH)
    images = [f"![{caption}]({name})" for name, (caption, _figure) in plots.items()]
    sections = (
        _heading(bundle),
        _results(bundle, figures),
        _confusion_table(table),
        "\n\n".join(images),
        _data(dataset),
        _recipe(bundle, contest),
        _artefacts(bundle),
        _limits(bundle),
    )
    (folder / REPORT).write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return figures


def _indices(categories: Sequence[Category]) -> Indices:
    return np.array([CATEGORIES.index(category) for category in categories], dtype=np.int_)


def _heading(bundle: Bundle) -> str:
    manifest = bundle.manifest
    parent = f", challenger of {manifest.parent}" if manifest.parent else ", without a parent"
    cycle = f", made by cycle {manifest.cycle_id}" if manifest.cycle_id is not None else ""
    return (
        f"# Export {manifest.version}\n\n"
        f"A Lifeguard classifier on the backbone `{manifest.backbone}`, made on {manifest.created_at:%Y-%m-%d %H:%M} "
        f"UTC{parent}{cycle}. It sorts a message to a chatbot into one of six categories. All figures are of "
        "decisions, that is, with the thresholds below, on the gate set, which it was neither trained nor tuned on."
    )


def _results(bundle: Bundle, figures: Mapping[str, float]) -> str:
    rows = (
        (
            category,
            int(figures[f"rows.{category}"]),
            _percent(figures.get(f"precision.{category}")),
            _percent(figures.get(f"recall.{category}")),
            f"{bundle.thresholds[category]:.3f}",
        )
        for category in CATEGORIES
    )
    return "\n".join(
        (
            "## Results",
            "",
            f"* macro-F1: **{_percent(figures['macro_f1'])}**",
            f"* macro-F1 without emergency-situation: {_percent(figures['macro_f1_without_emergency'])}",
            f"* false alarms: {_percent(figures.get('false_alarm_rate'))} of the not-harmful messages",
            f"* standard deviation of the categories' error rates: {_percent(figures['error_std'])}",
            f"* expected calibration error: {_percent(figures['calibration_error'])}",
            "",
            *_markdown(("category", "messages", "precision %", "recall %", "threshold"), rows),
        )
    )


def _confusion_table(table: npt.NDArray[np.int_]) -> str:
    rows = ((category, *map(int, table[i])) for i, category in enumerate(CATEGORIES))
    return "\n".join(("## Confusion", "", *_markdown(("label, then decision ▶", *CATEGORIES), rows)))


def _data(dataset: Dataset) -> str:
    def count(category: Category, *, message: bool, variation: bool) -> int:
        return sum(
            e.category is category and e.group.startswith("message-") is message and e.variation is variation
            for e in dataset.train
        )

    rows = (
        (
            category,
            count(category, message=False, variation=False),
            count(category, message=True, variation=False),
            count(category, message=True, variation=True),
            sum(e.category is category for e in dataset.dev),
        )
        for category in CATEGORIES
    )
    columns = ("category", "corpus", "people's labels", "variations", "dev")
    return "\n".join(
        (
            "## Data",
            "",
            *_markdown(columns, rows),
            "",
            f"Left out: {dataset.held_out} that resemble a held-out text, {dataset.duplicates} duplicates.",
            f"Digest: `{dataset.digest}`.",
        )
    )


def _recipe(bundle: Bundle, contest: "Contest") -> str:
    recipe, worth = contest.recipe, contest.figures
    validated = "" if contest.cv_macro_f1 is None else f" (grouped cross-validation: {_percent(contest.cv_macro_f1)})"
    tuned = f", then {recipe.epochs} epochs of fine-tuning" if recipe.epochs else ", without fine-tuning"
    lines = [
        (
            f"Token means of three layers; logistic regression with C = {recipe.strength:g}, categories balanced to the power "
            f"of {recipe.balance:g}, variations weighing {recipe.variation_weight:g}{validated}{tuned}. Windows of "
            f"{bundle.manifest.max_tokens} tokens. Temperature {bundle.manifest.temperature:.3f}."
        )
    ]
    for name, what in (("variations_worth", "Variations"), ("tuning_worth", "Fine-tuning")):
        if name in worth:
            low, high = (f"{100 * worth[name + end]:+.1f}" for end in ("_low", "_high"))
            lines.append(
                f"{what} changed cross-validated macro-F1 by {100 * worth[name]:+.1f} points (95 % between {low} and {high})."
            )
    return "## Recipe\n\n" + " ".join(lines)


def _artefacts(bundle: Bundle) -> str:
    measured = bundle.manifest.metrics
    published = {artefact.precision for artefact in bundle.manifest.artefacts}
    rows = (
        (
            precision,
            _percent(measured.get(f"{AGREEMENT}.{precision}")),
            f"{measured[f'{RUN_MS}.{precision}']:.2f}",
            "figures above" if precision == bundle.artefact.precision else "" if precision in published else "refused",
        )
        for precision in ("fp32", "int8", "fp16")
        if f"{RUN_MS}.{precision}" in measured
    )
    columns = ("artefact", "decisions as fp32 %", "CPU ms a message", "")
    return "\n".join(("## Artefacts", "", *_markdown(columns, rows)))


def _limits(bundle: Bundle) -> str:
    languages = "English" if bundle.manifest.backbone == "minilm" else "the languages of its backbone and its corpus"
    return (
        "## Limits\n\n"
        f"It reads {languages}. It judges a message by itself, not the conversation around it, and gives no advice. It "
        "misses messages and raises false alarms at the rates above at best: traffic that differs from the gate set "
        "may do worse. It is no substitute for a person where a life is at stake."
    )


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.1f}"


def _markdown(columns: Sequence[str], rows: Iterator[tuple[object, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" + " ---: |" * (len(columns) - 1)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _axes() -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # without pyplot: no global state and no display

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    return figure, figure.subplots()


def _confusion_plot(table: npt.NDArray[np.int_]) -> "Figure":
    figure, axes = _axes()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*table.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"  # noqa: PLR2004 - the middle of the colour map
        axes.text(column, row, str(table[row, column]), ha="center", va="center", color=colour)
    ticks = range(len(CATEGORIES))
    axes.set_xticks(ticks, CATEGORIES, rotation=30, ha="right")
    axes.set_yticks(ticks, CATEGORIES)
    axes.set_xlabel("decision")
    axes.set_ylabel("label")
    return figure


def _reliability_plot(scored: Scored) -> "Figure":
    figure, axes = _axes()
    rows, confidence, accuracy = bins(scored.probabilities, scored.labels)
    used = rows > 0
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.bar(confidence[used], accuracy[used], width=0.8 / BINS, alpha=0.7, label="share that was right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the likeliest category")
    axes.legend()
    return figure


def _category_plot(figures: Mapping[str, float]) -> "Figure":
    figure, axes = _axes()
    places = np.arange(len(CATEGORIES))
    for offset, name in ((-0.2, "precision"), (0.2, "recall")):
        heights = [figures.get(f"{name}.{category}", 0.0) for category in CATEGORIES]
        axes.bar(places + offset, heights, width=0.4, label=name)
    axes.set_xticks(places, CATEGORIES, rotation=30, ha="right")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")
    return figure
