"""Whether a label that was acknowledged is ever lost: a guard killed with SIGKILL while reviewers label at its desk.

python -m benchmarks.crashes
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.databases import DatabaseKind, opened
from benchmarks.peers.machine import machine
from guard.settings import GuardSettings
from tests.e2e.crashes import REVIEWERS, kill_while_labelling, prepare
from tests.served import ServedGuard
from tests.toys import publish_toy

RESULTS: Final = Path(__file__).parent / "results"
WRONG: Final = ("lost", "twice", "changed", "labels_without_one_line", "lines_without_label")


def main(
    kills: Annotated[int, typer.Option(min=1, help="On SQLite.")] = 200,
    postgresql_kills: Annotated[int, typer.Option(min=1, help="On PostgreSQL.")] = 40,
    seed: Annotated[int, typer.Option(help="The same gives the same moments.")] = 1,
) -> None:
    """Kill and start again, some seconds each, and print what was found; the exit status is 1 when anything is wrong."""
    before = machine()
    plan = {DatabaseKind.SQLITE: kills, DatabaseKind.POSTGRESQL: postgresql_kills}
    found = {kind.value: _measure(kind, number, seed) for kind, number in plan.items()}
    content = {"machine": before, "seed": seed, "reviewers": REVIEWERS, "databases": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "crashes.json").write_text(json.dumps(content, indent=2) + "\n")
    table = Table("found", *found)
    for name in next(iter(found.values())):
        table.add_row(name.replace("_", " "), *(str(figures[name]) for figures in found.values()))
    Console().print(table)
    if any(figures[name] for figures in found.values() for name in WRONG):
        raise typer.Exit(1)


def _measure(kind: DatabaseKind, kills: int, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lifeguard-crashes-") as folder, opened(kind) as url:
        guard = ServedGuard(Path(folder), environment={} if url is None else {"GUARD_DATABASE_URL": url})
        publish_toy(guard.exports)
        settings = GuardSettings(data_dir=guard.data_dir, exports_dir=guard.exports.folder, database_url=url)
        asyncio.run(prepare(settings, kills))
        with guard:
            found = asyncio.run(kill_while_labelling(guard, kills=kills, seed=seed))
    return {**found, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    typer.run(main)
