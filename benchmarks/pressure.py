"""The guard under pressure: latency near saturation, three times more than it can do, the model swapped under load.

    python -m benchmarks.pressure --exports exports

A guard of its own, its store and versions in a folder that is gone afterwards; the load generator shares its cores.
"""

import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.peers.corpus import MIXED, SHORT, corpora, project_texts
from benchmarks.peers.figures import Spread
from benchmarks.peers.load import LOST, OK, Load, arrivals, closed_loop, open_loop, post
from benchmarks.peers.machine import machine
from benchmarks.peers.roster import CORES
from guard.bundle import Bundle
from guard.exports import MANIFEST, Exports, Manifest
from guard.taxonomy import Category
from guard.text import normalise
from tests.served import ServedGuard, rss_bytes, wait_for

RESULTS: Final = Path(__file__).parent / "results"
OVERLOAD: Final = 3.0
VERSIONS: Final = 6  # as many as there are ways to turn the labels round
SWAP_SHARE: Final = 0.55  # of saturation; the aim speaks of half
RECOVERY_S: Final = 10.0
_CONNECTIONS: Final = 8_000  # so many that the guard refuses, rather than the generator waiting for a free one
_WINDOW_S: Final = 0.5
_SUSTAINED_S: Final = 2.0
_REFUSED: Final = 503
_SCORES_APART: Final = 1e-3
_PEAK_AT_ONCE: Final = (8, 32)
_WARM_S: Final = 2.0
_SETTLE_S: Final = 30.0


class _Result(msgspec.Struct):
    scores: dict[Category, float]


class _Response(msgspec.Struct):
    model_version: str
    results: list[_Result]


@dataclass
class Swaps:
    """What the answers under swaps say."""

    expected: Mapping[str, Sequence[Mapping[Category, float]]]
    failed: int = 0
    mixed: int = 0
    versions: set[str] = field(default_factory=set)

    def check(self, number: int, status: int, body: bytes) -> None:
        """Count an answer that is no 200, or whose scores are not those of the version that it names."""
        if status != OK:
            self.failed += 1
            return
        answer = msgspec.json.decode(body, type=_Response)
        expected = self.expected[answer.model_version]
        scores = expected[number % len(expected)]
        self.versions.add(answer.model_version)
        self.mixed += any(abs(answer.results[0].scores[c] - p) > _SCORES_APART for c, p in scores.items())


def main(
    exports: Annotated[Path, typer.Option(help="Folder with a champion.")] = Path("exports"),
    artefact: Annotated[str, typer.Option(help="GUARD_ARTEFACT of the guard.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Of the load at 80 % of saturation.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=1, help="Of each load but the swaps'; three times is overloaded as long.")
    ] = 60,
    swaps: Annotated[int, typer.Option(min=1, help="Swaps under load.")] = 200,
    requests: Annotated[int, typer.Option(min=100, help="Requests during the swaps, at least.")] = 60_000,
    quick: Annotated[bool, typer.Option(help="A smoke run of a minute; nothing is written.")] = False,  # noqa: FBT002 - typer makes a flag of it
) -> None:
    """Measure a guard of its own and print each figure beside its aim."""
    if quick:
        repeats, seconds, swaps, requests = 1, 4.0, 4, 200
    before = machine()
    with tempfile.TemporaryDirectory(prefix="lifeguard-pressure-") as folder:
        guard = ServedGuard(Path(folder), threads=CORES, artefact=artefact)
        manifest = publish_turned(Exports(exports.absolute()), guard.exports)
        bundle = Bundle.load(guard.exports, guard.exports.champion() or "")
        texts = corpora([normalise(text) for text in project_texts()], lambda t: len(bundle.encode([t])[0][0].ids))
        with guard:
            # for the load generator alone: the guard runs with the limit of whoever started this
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            pressure = Pressure(guard, manifest, texts)
            content = {
                "machine": before,
                "artefact": artefact,
                "near_saturation": pressure.near_saturation(repeats, seconds / 3),
                "overload": pressure.overload(seconds),
                "swaps": pressure.swaps(swaps, requests, quiet_s=seconds / 3),
            }
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "pressure.json").write_text(json.dumps(content, indent=2) + "\n")
    table = Table("measure", "found", "aim")
    for row in aims(content):
        table.add_row(*row)
    Console().print(table)


class Pressure:
    """A running guard and what is asked of it.

    Args:
        guard: It runs.
        manifest: Of the version that serves first.
        texts: By corpus.
    """

    def __init__(self, guard: ServedGuard, manifest: Manifest, texts: Mapping[str, Sequence[str]]) -> None:
        self._guard, self._manifest, self._texts = guard, manifest, texts
        self._requests = {
            name: [post("/classify", {"text": text, "store": False}) for text in corpus]
            for name, corpus in texts.items()
        }

    def near_saturation(self, repeats: int, seconds: float) -> dict[str, Any]:
        """Return p50, p99 and their ratio at 80 % of saturation, open loop, by corpus.

        Here and below saturation is measured right before a load: on a shared machine it is not the same minutes later.
        """
        found = {}
        for name in self._texts:
            peaks, loads = [], []
            for seed in range(repeats):
                peaks.append(self._peak(name))
                loads.append(self._open(name, 0.8 * peaks[-1], seconds, seed))
            found[name] = {
                "saturation_per_s": _rounded(peaks),
                "p50_ms": _rounded(load.latency_ms(0.5) for load in loads),
                "p99_ms": _rounded(load.latency_ms(0.99) for load in loads),
                "p99_over_p50": _rounded(load.latency_ms(0.99) / load.latency_ms(0.5) for load in loads),
                "failed": sum(load.failed for load in loads),
            }
        return found

    def overload(self, seconds: float) -> dict[str, Any]:
        """Return goodput and how refusals come when three times as much is asked as can be answered, then recovery."""
        peak = self._peak(SHORT)
        quiet = self._open(SHORT, 0.5 * peak, seconds / 6, seed=0)
        load = self._open(SHORT, OVERLOAD * peak, seconds, seed=1, limit=_CONNECTIONS)
        after = self._open(SHORT, 0.5 * peak, RECOVERY_S, seed=2)
        later = self._peak(SHORT)
        refused = load.latency_s[(load.status != OK) & (load.status != LOST)] * 1000
        in_time = (load.status == OK) & (load.due_s + load.latency_s <= load.seconds)
        return {
            "seconds": seconds,
            "saturation_per_s": {"before": round(peak, 1), "after": round(later, 1)},
            "offered_per_s": round(len(load.status) / seconds, 1),
            "goodput_per_s": round(float(in_time.sum()) / seconds, 1),
            "goodput_of_peak": round(float(in_time.sum()) / seconds / ((peak + later) / 2), 3),
            "answered_p50_ms": round(load.latency_ms(0.5), 1),
            "refused": len(refused),
            "lost": int((load.status == LOST).sum()),
            "statuses": {str(s): int((load.status == s).sum()) for s in np.unique(load.status)},
            "refused_p50_ms": round(float(np.quantile(refused, 0.5)), 1) if len(refused) else None,
            "refused_p99_ms": round(float(np.quantile(refused, 0.99)), 1) if len(refused) else None,
            "generator_cores": round(load.cpu_s / seconds, 2),
            "recovered_s": recovered_s(after, 2 * quiet.latency_ms(0.5) / 1000),
        }

    def swaps(self, count: int, requests: int, *, quiet_s: float) -> dict[str, Any]:
        """Return what swaps cost and spoil at over half of saturation."""
        peak = self._peak(SHORT)
        rate = SWAP_SHARE * peak
        quiet = self._open(SHORT, rate, quiet_s, seed=3)
        told = Swaps(self._expected())
        seconds = max(requests / rate, float(count))
        worker = self._guard.pids[-1]
        before, first = rss_bytes(worker), self._swapped()
        with _swapping(self._guard.exports, count, seconds) as done:
            due = arrivals(rate, seconds, seed=4)
            load = open_loop(self._guard.port, self._requests[SHORT], due=due, limit=_CONNECTIONS, seen=told.check)
        with suppress(TimeoutError):  # whatever it has not done by then is seen in the figures
            wait_for(lambda: self._swapped() - first >= len(done), timeout_s=_SETTLE_S)
        time.sleep(_WARM_S)  # the last bundle is dropped
        after = rss_bytes(worker)
        return {
            "swaps": len(done),
            "swaps_counted_by_the_guard": self._swapped() - first,
            "versions_seen": len(told.versions),
            "requests": len(load.status),
            "of_saturation": round(len(load.status) / seconds / peak, 3),
            "refused": int((load.status == _REFUSED).sum()),
            "failed": told.failed,
            "mixed": told.mixed,
            "resent": load.resent,
            "p50_ms": round(load.latency_ms(0.5), 2),
            "p99_ms": round(load.latency_ms(0.99), 2),
            "quiet_p99_ms": round(quiet.latency_ms(0.99), 2),
            "p99_over_quiet": round(load.latency_ms(0.99) / quiet.latency_ms(0.99), 2),
            "rss_mb_before": round(before / 2**20, 1),
            "rss_mb_after": round(after / 2**20, 1),
            "rss_growth": round(after / before - 1, 4),
        }

    def _peak(self, corpus: str) -> float:
        found = []
        for at_once in _PEAK_AT_ONCE:
            closed_loop(self._guard.port, self._requests[corpus], at_once=at_once, seconds=_WARM_S)
            loads = [
                closed_loop(self._guard.port, self._requests[corpus], at_once=at_once, seconds=2 * _WARM_S)
                for _ in range(3)
            ]
            found.append(Spread.of(load.per_s for load in loads).median)
        return max(found)

    def _open(self, corpus: str, rate: float, seconds: float, seed: int, limit: int = 512) -> Load:
        due = arrivals(rate, seconds, seed)
        return open_loop(self._guard.port, self._requests[corpus], due=due, limit=limit)

    def _expected(self) -> dict[str, list[dict[Category, float]]]:
        """Return the scores of each text by version: those of the first, under the other versions' labels."""
        found: dict[str, list[dict[Category, float]]] = {version: [] for version in self._guard.exports.versions()}
        first = self._manifest.labels
        with httpx.Client(base_url=self._guard.base_url, timeout=60, trust_env=False) as client:
            for text in self._texts[SHORT]:
                response = client.post("/classify", json={"text": text, "store": False}).raise_for_status()
                scores = msgspec.json.decode(response.content, type=_Response).results[0].scores
                for version, rows in found.items():
                    labels = self._guard.exports.manifest(version).labels
                    rows.append({new: scores[old] for new, old in zip(labels, first, strict=True)})
        return found

    def _swapped(self) -> int:
        metrics = httpx.get(f"{self._guard.base_url}/metrics", timeout=60, trust_env=False).text
        line = next(each for each in metrics.splitlines() if each.startswith('guard_swaps_total{result="swapped"}'))
        return int(float(line.rpartition(" ")[2]))


def publish_turned(source: Exports, target: Exports) -> Manifest:
    """Publish the champion several times over, each with its labels turned round by one; return the first's manifest.

    The same files under other labels: the versions cost what the champion costs and disagree on every text.
    """
    champion = source.champion() or ""
    original, folder = source.manifest(champion), source.path(champion)
    made = []
    for turn in range(VERSIONS):
        with target.publish() as (version, partial):
            for name in original.files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name, partial / name)
            labels = original.labels[turn:] + original.labels[:turn]
            made.append(msgspec.structs.replace(original, version=version, labels=labels, parent=None))
            (partial / MANIFEST).write_bytes(msgspec.json.encode(made[-1]))
    target.promote(made[0].version, by="benchmark", reason="first")
    return made[0]


def recovered_s(load: Load, limit_s: float) -> float | None:
    """Return the seconds until, for two seconds, half of each half second's requests come within the limit and none is refused.

    None when that was not so before the load ended.
    """
    windows = (load.due_s // _WINDOW_S).astype(int)
    good = 0
    for window in range(windows.max() + 1):
        rows = windows == window
        good = good + 1 if (load.status[rows] == OK).all() and np.median(load.latency_s[rows]) <= limit_s else 0
        if good * _WINDOW_S == _SUSTAINED_S:
            return (window + 1) * _WINDOW_S - _SUSTAINED_S
    return None


def aims(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each measure with what was found and what was aimed at."""
    for name, found in content["near_saturation"].items():
        ratio = found["p99_over_p50"]
        told = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        yield f"p99 / p50 at 80 % of saturation, {name}", told, "at most 2.5" if name != MIXED else ""
    over, swaps = content["overload"], content["swaps"]
    yield f"goodput at {OVERLOAD:g} times saturation", f"{100 * over['goodput_of_peak']:.0f} %", "at least 80 %"
    yield "refusals, p50 / p99", f"{over['refused_p50_ms']} / {over['refused_p99_ms']} ms", "below 50 ms"
    yield "recovered after", f"{over['recovered_s']} s", "at most 5 s"
    yield (
        f"failed or mixed over {swaps['swaps']} swaps",
        f"{swaps['failed'] + swaps['mixed']} of {swaps['requests']} ({swaps['refused']} refused)",
        "0",
    )
    yield "load meanwhile", f"{100 * swaps['of_saturation']:.0f} % of saturation", "at least 50 %"
    yield "p99 under swaps over quiet", f"{swaps['p99_over_quiet']:.2f}", "at most 2"
    yield "memory", f"{100 * swaps['rss_growth']:+.1f} %", "at most +10 %"


@contextmanager
def _swapping(exports: Exports, count: int, seconds: float) -> Iterator[list[str]]:
    """Promote version after version from a thread, evenly over a time; yield those promoted so far."""
    versions, done, ended = exports.versions(), [], threading.Event()

    def promote() -> None:
        began = time.monotonic()
        for number in range(1, count + 1):
            if ended.wait(max(0.0, began + number * seconds / (count + 1) - time.monotonic())):
                return
            done.append(versions[number % len(versions)])
            exports.promote(done[-1], by="benchmark", reason="swap")

    thread = threading.Thread(target=promote, name="swaps")
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.join()


def _rounded(values: Iterable[float]) -> dict[str, float]:
    found = Spread.of(values)
    return {"median": round(found.median, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


if __name__ == "__main__":
    typer.run(main)
