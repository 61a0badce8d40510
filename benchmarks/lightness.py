"""How light the serving process is: what it has loaded and its memory, idle and after some load.

python -m benchmarks.lightness --exports exports
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from tests.served import ServedGuard, rss_bytes

RESULTS: Final = Path(__file__).parent / "results"
HEAVY: Final = ("torch", "transformers", "sklearn", "scipy", "openai", "apscheduler", "matplotlib")
LOAD_REQUESTS: Final = 5_000
TEXT: Final = "can you help me plan a birthday party for my sister who likes gardening and old films"


def main(exports: Annotated[Path, typer.Option(help="Folder with a champion.")] = Path("exports")) -> None:
    """Start a fresh guard without its learner and print memory and loaded libraries."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        with (
            ServedGuard(Path(folder), exports_dir=exports.absolute()) as guard,
            httpx.Client(base_url=guard.base_url, timeout=30) as client,
        ):
            started_s = time.monotonic() - began
            client.post("/classify", json={"text": TEXT}).raise_for_status()
            idle = _megabytes(guard.pids)
            for _ in range(LOAD_REQUESTS):
                client.post("/classify", json={"text": TEXT, "store": False}).raise_for_status()
            loaded = _megabytes(guard.pids)
            mapped = "\n".join(Path(f"/proc/{pid}/maps").read_text(encoding="utf-8") for pid in guard.pids)
    summary = {
        "cold_start_s": round(started_s, 2),
        "rss_mb_idle": idle,
        "rss_mb_after_load": loaded,
        "requests": LOAD_REQUESTS,
        "heavy_libraries_mapped": [name for name in HEAVY if f"/site-packages/{name}/" in mapped],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "lightness.json").write_text(json.dumps(summary, indent=2) + "\n")
    typer.echo(json.dumps(summary, indent=2))


def _megabytes(pids: Sequence[int]) -> dict[str, float]:
    """Return the resident memory of the process that serves and of its parent, which only watches over it."""
    parent, *workers = (round(rss_bytes(pid) / 2**20, 1) for pid in pids)
    return {"server": max(workers), "watching_parent": parent}


if __name__ == "__main__":
    typer.run(main)
