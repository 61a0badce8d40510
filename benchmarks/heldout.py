"""A model on sets written apart from the seed corpus: how often it is right, raises a false alarm, or clears harm.

    python -m benchmarks.heldout --exports exports

A language model wrote `sets/` from the categories' definitions, without sight of the corpus, which a language model wrote,
too. None of their texts is ever trained on; what they showed of an earlier corpus decided where it grew.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from guard.bundle import Bundle
from guard.decision import decide, softmax
from guard.exports import Exports
from guard.taxonomy import GUIDELINES, Category
from guard.text import normalise
from learner.rates import jeffreys

SETS: Final = Path(__file__).parent / "sets"
RESULTS: Final = Path(__file__).parent / "results"


def main(
    exports: Annotated[Path, typer.Option(help="Folder with the model.")] = Path("exports"),
    version: Annotated[str | None, typer.Option(help="The champion by default.")] = None,
) -> None:
    """Print shares of each set, decided as in service: all windows, the export's thresholds."""
    folder = Exports(exports)
    bundle = Bundle.load(folder, version or folder.champion() or "")
    table = Table("set", "messages", "right", "right action", "flagged", "explicit flagged", "implicit flagged")
    figures = {}
    for file in sorted(SETS.rglob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        decisions = [_decide(bundle, row["text"]) for row in rows]
        figures[file.stem] = _figures(rows, decisions)
        table.add_row(file.stem, str(len(rows)), *(_percent(share) for share in figures[file.stem].values()))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "heldout.json").write_text(json.dumps(figures, indent=2) + "\n")


def _decide(bundle: Bundle, text: str) -> Category:
    windows = bundle.encode([normalise(text)])[0]
    return decide(softmax(bundle.run(windows).logits), bundle.thresholds).category


def _figures(rows: Sequence[dict[str, Any]], decisions: Sequence[Category]) -> dict[str, tuple[float, ...] | None]:
    """Return shares by name, each with the ends of its 95 % interval; None where no row has the tag."""

    def share(holds: Callable[[Category, Category], bool], tag: str | None = None) -> tuple[float, ...] | None:
        chosen = [
            holds(Category(row["category"]), decision)
            for row, decision in zip(rows, decisions, strict=True)
            if tag is None or tag in row["tags"]
        ]
        if not chosen:
            return None
        return tuple(round(f, 4) for f in (sum(chosen) / len(chosen), *jeffreys(sum(chosen), len(chosen))))

    return {
        "right": share(lambda label, decision: label is decision),
        "right_action": share(lambda label, decision: GUIDELINES[label].action is GUIDELINES[decision].action),
        "flagged": share(lambda _, decision: decision is not Category.NOT_HARMFUL),
        "explicit_flagged": share(lambda _, decision: decision is not Category.NOT_HARMFUL, "explicit"),
        "implicit_flagged": share(lambda _, decision: decision is not Category.NOT_HARMFUL, "implicit"),
    }


def _percent(share: tuple[float, ...] | None) -> str:
    if share is None:
        return ""
    value, low, high = (100 * figure for figure in share)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    typer.run(main)
