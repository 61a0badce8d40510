"""Whether anything that can be sent makes the guard fail: fuzzed requests in process, bent bytes to a real server.

python -m benchmarks.fuzz
"""

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import track

from guard import logs
from guard.app import Recorder, create_app
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.keyring import Keyring
from tests.fuzzing import Fuzzer, ask, throw
from tests.served import ServedGuard
from tests.toys import publish_toy

RESULTS: Final = Path(__file__).parent / "results"
AT_ONCE: Final = 64
LIMITS: Final[dict[str, Any]] = {
    "max_body_bytes": 65_536,
    "max_text_chars": 4_000,
    "max_texts": 8,
}  # so that many requests meet them

Figures = dict[str, Any]


def main(
    requests: Annotated[int, typer.Option(help="Fuzzed requests.")] = 100_000,
    mutations: Annotated[int, typer.Option(help="Bent byte strings.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same gives the same requests.")] = 1,
) -> None:
    """Run both and print what was answered; the exit status is 1 when anything failed."""
    logs.configure("error")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        in_process = asyncio.run(_fuzz(path / "process", requests, seed))
        over_sockets = _bend(path / "served", mutations, seed)
    summary = {"seed": seed, "in_process": in_process, "over_sockets": over_sockets}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fuzz.json").write_text(json.dumps(summary, indent=2) + "\n")
    typer.echo(json.dumps(summary, indent=2))
    if in_process["failures"] or over_sockets["failures"]:
        raise typer.Exit(1)


async def _fuzz(folder: Path, requests: int, seed: int) -> Figures:
    """Put requests to an application of this process."""
    settings = GuardSettings(data_dir=folder / "var", exports_dir=folder / "exports", learner=False, **LIMITS)
    Keyring.load(settings, create=True)
    publish_toy(Exports(settings.exports_dir))
    app = create_app(settings)
    fuzzer, statuses, failures = Fuzzer(app.openapi_schema.to_schema(), seed), Counter[int](), 0
    recorder, began = Recorder(app), time.monotonic()
    async with app.lifespan():
        for _ in track(range(requests), "Requests"):
            request = fuzzer.request()
            try:
                status = await ask(recorder, request)
            except Exception as error:  # noqa: BLE001 - whatever comes out of the application is a finding
                typer.echo(f"{type(error).__name__}: {request}"[:500], err=True)
                failures += 1
                continue
            statuses[status] += 1
            if _wrong(status):
                typer.echo(f"{status}: {request}"[:500], err=True)
    return _figures(requests, statuses, failures, began)


def _bend(folder: Path, mutations: int, seed: int) -> Figures:
    """Send bent bytes to a server."""
    folder.mkdir()
    fuzzer = Fuzzer(create_app(GuardSettings()).openapi_schema.to_schema(), seed)
    began = time.monotonic()
    with _served(folder) as guard:
        pids = guard.pids
        statuses = asyncio.run(_throw(guard.port, fuzzer, mutations))
        events = Counter(event["event"] for event in guard.events)
        failures = (guard.pids != pids) + events["unexpected"] + events["run_failed"] + events["library_warned"]
    return _figures(mutations, statuses, failures, began)


@contextmanager
def _served(folder: Path) -> Iterator[ServedGuard]:
    guard = ServedGuard(folder, **LIMITS)
    publish_toy(guard.exports)
    with guard:
        yield guard


async def _throw(port: int, fuzzer: Fuzzer, mutations: int) -> Counter[int]:
    statuses = Counter[int]()
    for first in track(range(0, mutations, AT_ONCE), "Mutations"):
        size = min(AT_ONCE, mutations - first)
        thrown = (throw(port, fuzzer.bent(fuzzer.request().raw())) for _ in range(size))
        for answered in await asyncio.gather(*thrown):
            statuses.update(answered or [0])
    return statuses


def _figures(sent: int, statuses: Counter[int], failures: int, began: float) -> Figures:
    return {
        "sent": sent,
        "statuses": {str(status or "none"): number for status, number in sorted(statuses.items())},
        "failures": failures + sum(number for status, number in statuses.items() if _wrong(status)),
        "seconds": round(time.monotonic() - began, 1),
    }


def _wrong(status: int) -> bool:
    return status >= 500 and status != 503  # noqa: PLR2004 - the statuses of HTTP


if __name__ == "__main__":
    typer.run(main)
