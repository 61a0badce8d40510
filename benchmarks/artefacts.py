"""The artefacts of an export against each other: decisions, macro-F1, CPU time, and whether batch mates matter.

    python -m benchmarks.artefacts --exports exports --data DATA

Decisions are compared on the seed corpus's gate set and, with `--data`, on the paper's test set (see
`learner.paper`). Times are CPU milliseconds a message on one thread, the artefacts taking turns.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from guard.bundle import Bundle, Window
from guard.exports import Exports
from guard.settings import Precision
from learner.dataset import Corpus, Example
from learner.paper import read_labelled
from learner.report import macro_f1, score

RESULTS: Final = Path(__file__).parent / "results"
SEED_CORPUS: Final = Path(__file__).parents[1] / "learner" / "seed"
TOKENS: Final = 32
ROUNDS: Final = 7
MIXES: Final = 200  # batches of 2 to 12 random messages, padded by up to 40 tokens more
SEED: Final = 20261121


def main(
    exports: Annotated[Path, typer.Option(help="Folder with the model.")] = Path("exports"),
    version: Annotated[str | None, typer.Option(help="The champion by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the paper's data.")] = None,
) -> None:
    """Print a row for each artefact a CPU can serve, and write `results/artefacts.json`."""
    folder = Exports(exports)
    chosen = version or folder.champion() or ""
    served = [Precision(a.precision) for a in folder.manifest(chosen).artefacts if a.precision != Precision.FP16]
    bundles = {precision: Bundle.load(folder, chosen, precision=precision) for precision in served}
    sets = {"gate": list(Corpus.load(SEED_CORPUS).gate)}
    if data is not None:
        rows = read_labelled(data, "test_half")
        sets["test_half"] = [Example(row.text, row.category, f"paper-{i}") for i, row in enumerate(rows)]
    windows = _windows(bundles[Precision.FP32], sets["gate"])
    figures: dict[str, dict[str, Any]] = {precision: {} for precision in bundles}
    for name, examples in sets.items():
        whole = score(bundles[Precision.FP32], examples)
        for precision, bundle in bundles.items():
            scored = score(bundle, examples)
            figures[precision][f"changed.{name}"] = round(float((scored.decisions != whole.decisions).mean()), 4)
            figures[precision][f"macro_f1.{name}"] = round(macro_f1(scored.labels, scored.decisions), 4)
    for precision, bundle in bundles.items():
        figures[precision]["moved_by_batch_mates_logits"] = _moved(bundle, windows)
    for precision, times in _times(bundles, windows).items():
        figures[precision] |= times
    table = Table("", *bundles)
    for name in figures[Precision.FP32]:
        table.add_row(name, *(f"{figures[precision][name]:.4g}" for precision in bundles))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "artefacts.json").write_text(json.dumps({"cpu": _cpu(), **figures}, indent=2) + "\n")


def _windows(bundle: Bundle, examples: Sequence[Example]) -> list[Window]:
    return [windows[0] for windows in bundle.encode([example.text for example in examples])]


def _window(ids: tuple[int, ...]) -> Window:
    return Window(ids, 0, len(ids))  # of no text: nobody asks where its tokens stand


def _moved(bundle: Bundle, windows: Sequence[Window]) -> float:
    """Return by how many logits random batch mates and paddings move a message at most."""
    random, most = np.random.default_rng(SEED), 0.0
    for _ in range(MIXES):
        batch = [windows[i] for i in random.integers(0, len(windows), random.integers(2, 13))]
        longest = max(batch, key=lambda window: len(window.ids)).ids
        width = min(len(longest) + int(random.integers(0, 41)), bundle.manifest.max_tokens)
        batch.append(_window((longest * 3)[:width]))
        together = bundle.run(batch).logits
        alone = np.concatenate([bundle.run([window]).logits for window in batch])
        most = max(most, float(np.abs(together - alone).max()))
    return most


def _times(bundles: Mapping[Precision, Bundle], windows: Sequence[Window]) -> dict[Precision, dict[str, float]]:
    """Return median CPU milliseconds a message: alone, in batches of 8 and 32, and a stream of mixed lengths, one a run."""
    random = np.random.default_rng(SEED)
    exact = [_window((windows[i].ids * TOKENS)[:TOKENS]) for i in random.integers(0, len(windows), 32)]
    mixed = [windows[i] for i in random.integers(0, len(windows), 64)]
    loads = {
        "cpu_ms.alone": [[window] for window in exact],
        "cpu_ms.batch_8": [exact[i : i + 8] for i in range(0, 32, 8)],
        "cpu_ms.batch_32": [exact],
        "cpu_ms.mixed": [[window] for window in mixed],
    }
    taken: dict[tuple[Precision, str], list[float]] = {(p, load): [] for p in bundles for load in loads}
    for _ in range(ROUNDS):
        for load, batches in loads.items():
            for precision, bundle in bundles.items():
                began = time.thread_time()
                for batch in batches:
                    bundle.run(batch)
                taken[precision, load].append(1000 * (time.thread_time() - began) / sum(map(len, batches)))
    return {p: {load: round(float(np.median(taken[p, load])), 3) for load in loads} for p in bundles}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return " ".join(
        [name, *(flag for flag in flags if flag.startswith(("avx512_vnni", "avx512_bf16", "amx", "avx_vnni")))]
    )


if __name__ == "__main__":
    typer.run(main)
