"""Lifeguard beside its peers: same weights, same texts, same machine, one run.

    python -m benchmarks.peers --exports exports

Makes each peer's environment (from PyPI, once), saves the champion in the form that peers read, starts every server,
checks that all judge alike, and measures them by turns. Writes `results/peers.json`, `results/peers.md` and
`docs/peers.png`.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks.peers.environments import Environments
from benchmarks.peers.plot import plot
from benchmarks.peers.roster import Peer, roster
from benchmarks.peers.run import Run
from benchmarks.peers.table import Results, markdown, ratios, terminal_table
from guard.exports import Exports

RESULTS: Final = Path(__file__).parents[1] / "results"
PLOT: Final = Path(__file__).parents[2] / "docs" / "peers.png"
CACHE: Final = Path.home() / ".cache" / "lifeguard-bench"
_NAMES: Final = ", ".join(peer.name for peer in roster())
_WIDTH: Final = 180
_QUICK: Final = ("guard-fp32", "transformers")


def main(
    exports: Annotated[Path, typer.Option(help="Folder with a champion.")] = Path("exports"),
    cache: Annotated[Path, typer.Option(help="Folder of the peers' environments; kept.")] = CACHE,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians and spread are of these.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of one closed loop; an open one takes twice that.")] = 5.0,
    only: Annotated[
        list[str] | None, typer.Option(help=f"One of {_NAMES}; may be repeated. Nothing is written.")
    ] = None,
    quick: Annotated[  # noqa: FBT002 - typer makes a flag of it
        bool, typer.Option(help="A smoke run of a minute: one round of a second. Nothing is written.")
    ] = False,
) -> None:
    """Measure all and print one table."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    chosen = _chosen(only or (_QUICK if quick else ()))
    if quick:
        repeats, seconds = 1, 1.0
    with tempfile.TemporaryDirectory(prefix="lifeguard-bench-") as folder, ExitStack() as stack:
        environments = Environments(cache.expanduser().absolute())
        run = Run(Exports(exports.absolute()), environments, Path(folder), stack, quick=quick)
        content = run.measure(chosen, repeats=repeats, seconds=seconds)
    results = Results(content)
    if only or quick:
        console.print(markdown(results), markup=False, soft_wrap=True)
    else:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "peers.json").write_text(json.dumps(content, indent=2) + "\n")
        (RESULTS / "peers.md").write_text(markdown(results), encoding="utf-8")
        plot(results, PLOT)
    console.print(terminal_table(results))
    for found in ratios(results):
        console.print(f"{found['guard']} ({found['artefact']}): {found['ratio']:.2f} times {found['rival']}")


def _chosen(names: Sequence[str]) -> list[Peer]:
    peers = roster()
    unknown = set(names) - {peer.name for peer in peers}
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: no such peer; there are {_NAMES}.")
    return [peer for peer in peers if not names or peer.name in names]


if __name__ == "__main__":
    typer.run(main)
