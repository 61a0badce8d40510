"""One run from beginning to end: environments ▶ weights ▶ servers ▶ verdicts ▶ measuring ▶ what the results hold."""

import json
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.peers import quality
from benchmarks.peers.corpus import MIXED, SHORT, corpora, project_texts
from benchmarks.peers.environments import Environments, Unavailable, clean_environment, versions
from benchmarks.peers.figures import Key, Spread
from benchmarks.peers.machine import machine
from benchmarks.peers.measure import LIST, SCREEN, Bench, Candidate, Engine, Tick, disagreement, runs
from benchmarks.peers.processes import Server, memory_mb, send
from benchmarks.peers.roster import CORES, FP32, Answer, Peer, Place, Setting, own_python, scored
from benchmarks.peers.weights import run_alone, save_as_hugging_face
from guard.bundle import Bundle
from guard.decision import softmax
from guard.exports import Artefact, Exports
from guard.text import normalise
from tests.served import free_port

OPENVINO: Final = ("openvino==2026.4.1", "numpy")
_CHECKED: Final = 64  # texts of each corpus on which all servers must judge alike
_ON_CPU: Final = (FP32, "int8")


class Run:
    """One run.

    Args:
        exports: Whose champion is measured.
        environments: Of the peers.
        folder: For weights, servers and their data; gone after the run.
        stack: Ends the servers.
        quick: Whether each peer is run in its first setting alone.
    """

    def __init__(
        self, exports: Exports, environments: Environments, folder: Path, stack: ExitStack, *, quick: bool
    ) -> None:
        self._exports, self._environments, self._folder, self._stack = exports, environments, folder, stack
        self._quick = quick
        self._console = Console(stderr=True)
        self._version = exports.champion() or ""
        self._bundle = Bundle.load(exports, self._version)
        self._manifest = self._bundle.manifest
        texts = [normalise(text) for text in project_texts()]
        self._corpora = corpora(texts, lambda text: len(self._bundle.encode([text])[0][0].ids))
        self._checked = [text for corpus in (SHORT, MIXED) for text in self._corpora[corpus][:_CHECKED]]
        self._rows: list[dict[str, Any]] = []

    def measure(self, peers: Sequence[Peer], *, repeats: int, seconds: float) -> dict[str, Any]:
        """Return all that is found, ready for JSON."""
        before = machine()
        model = self._folder / "model"
        difference = save_as_hugging_face(self._exports, self._version, model, self._checked_ids())
        self._say(f"champion {self._version} saved for the peers; logits differ by {difference:.1g} at most")
        engines = self._engines()
        ids, batches = self._ids(), self._batches()
        total = runs(peers, len(engines) * len(ids) * len(batches), repeats, screening=not self._quick)
        with self._progress(total) as tick:
            bench = Bench(self._corpora, seconds=seconds, repeats=repeats, tick=tick)
            best = [candidate for peer in peers if (candidate := self._fastest(bench, peer, model)) is not None]
            bench.closed(best)
            bench.open(best)
            bench.limits(engines, ids, batches)
        return {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": before,
            "model": {
                "version": self._version,
                "backbone": self._manifest.backbone,
                "artefacts": [artefact.precision for artefact in self._manifest.artefacts],
                "difference": difference,
            },
            "threads": CORES,
            "repeats": repeats,
            "seconds": seconds,
            "corpora": {name: self._described(texts) for name, texts in self._corpora.items()},
            "peers": self._rows,
            "samples": bench.ledger.rows(),
            "engines": _engine_rows(bench),
            "efficiency": self._efficiency(bench, best),
            "quality": self._quality(),
        }

    def _fastest(self, bench: Bench, peer: Peer, model: Path) -> Candidate | None:
        """Return a peer in its fastest setting, at rest, those of its other settings ended; None where none can be had."""
        candidates, rows = [], []
        for setting in peer.settings[:1] if self._quick else peer.settings:
            row: dict[str, Any] = {
                "name": peer.name,
                "title": peer.title,
                "precision": peer.precision,
                "setting": setting.name,
                "ours": peer.ours,
                "fastest": False,
                "problem": None,
            }
            self._rows.append(row)
            began = time.monotonic()
            try:
                server, found = self._start(peer, setting, model)
            except Unavailable as error:
                row["problem"] = str(error)
                self._say(f"{peer.title} ({setting.name}) is not measured: {error}")
                continue
            row |= found | {"start_s": round(time.monotonic() - began, 1)}
            self._say(f"{peer.title} ({setting.name}) is ready: {row['verdicts']}")
            candidates.append(Candidate(peer, setting, server))
            rows.append(row)
        if len(candidates) > 1:
            bench.screen(candidates)
            names = [candidate.setting.name for candidate in candidates]
            fastest = names.index(bench.ledger.fastest(peer.name, names, SHORT, SCREEN))
        else:
            fastest = 0
        for place, (candidate, row) in enumerate(zip(candidates, rows, strict=True)):
            row["fastest"] = place == fastest
            if place != fastest:
                candidate.server.stop()
        return candidates[fastest] if candidates else None

    def _start(self, peer: Peer, setting: Setting, model: Path) -> tuple[Server, dict[str, Any]]:
        python = own_python() if peer.ours else self._environments.python(peer.environment, peer.requirements)
        folder = self._folder / f"{peer.name}-{peer.settings.index(setting)}"
        place = Place(python, model, self._exports.folder, folder, free_port())
        command, variables = peer.command(place, setting)
        server = Server(command, clean_environment(**variables), folder, place.port, lambda: peer.is_up(place.port))
        self._stack.enter_context(server)
        try:
            answers = [answer for text in self._checked for answer in peer.answers(place.port, [text])]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"its answers cannot be read ({type(error).__name__})") from None
        expected = self._expected(FP32)
        differ, apart = disagreement(expected, answers)
        found: dict[str, Any] = {
            "versions": versions(python, peer.packages),
            "verdicts": {"texts": len(answers), "differ": differ, "largest_difference": apart},
            "memory_mb": round(memory_mb(server.pids), 1),
        }
        if peer.ours:
            found["artefact"] = self._artefact_of(answers)
        send(server.pids, signal.SIGSTOP)
        return server, found

    def _expected(self, precision: str) -> list[Answer]:
        """Return what an artefact says of the checked texts, each run alone."""
        artefact = next(a for a in self._artefacts() if a.precision == precision)
        path = self._exports.path(self._version) / artefact.file
        labels = [str(label) for label in self._manifest.labels]
        return [
            scored(dict(zip(labels, map(float, row), strict=True)))
            for row in softmax(run_alone(path, self._checked_ids()))
        ]

    def _checked_ids(self) -> list[Sequence[int]]:
        return [windows[0].ids for windows in self._bundle.encode(self._checked)]

    def _artefact_of(self, answers: Sequence[Answer]) -> str:
        """Return the precision whose scores a guard gives: what it has chosen, found without asking it."""
        apart = {a.precision: disagreement(self._expected(a.precision), answers)[1] or 0.0 for a in self._artefacts()}
        return min(apart, key=lambda precision: apart[precision])

    def _artefacts(self) -> list[Artefact]:
        return [artefact for artefact in self._manifest.artefacts if artefact.precision in _ON_CPU]

    def _engines(self) -> list[Engine]:
        folder = self._exports.path(self._version)
        engines = [
            Engine(f"ONNX Runtime, {a.precision}", "onnxruntime", own_python(), folder / a.file)
            for a in self._artefacts()
        ]
        if self._quick:
            return engines
        try:
            python = self._environments.python("openvino", OPENVINO)
        except Unavailable as error:
            self._say(f"OpenVINO is not measured: {error}")
            return engines
        model = folder / next(a.file for a in self._artefacts() if a.precision == FP32)
        return [
            *engines,
            *(Engine(f"OpenVINO, {told}", "openvino", python, model, told) for told in ("f32", "bf16")),
        ]

    def _ids(self) -> dict[str, Path]:
        """Write each corpus as token ids and return the files."""
        files = {}
        for name, texts in self._corpora.items():
            files[name] = self._folder / f"{name}.json"
            files[name].write_text(json.dumps([windows[0].ids for windows in self._bundle.encode(texts)]))
        return files

    def _batches(self) -> list[int]:
        return sorted({1, max(artefact.batch.max_batch_size for artefact in self._artefacts())})

    def _efficiency(self, bench: Bench, best: Sequence[Candidate]) -> list[dict[str, Any]]:
        """Return what our guards keep of the engine that they use: its CPU time a text over theirs.

        A message alone is compared with runs of one; lists, which can be run together, with whatever is cheapest.
        """
        found = []
        for candidate in best:
            row = next(r for r in self._rows if r["name"] == candidate.peer.name and r["fastest"])
            if not candidate.peer.ours or candidate.peer.aside:
                continue
            engine = f"ONNX Runtime, {row['artefact']}"
            for corpus in (SHORT, MIXED):
                cheapest = {
                    batch: statistics.median(e["cpu_ms_per_text"] for e in bench.engines[engine, corpus, batch])
                    for batch in self._batches()
                }
                for load, limit in (
                    ("closed-1", cheapest[1]),
                    ("closed-8", cheapest[1]),
                    (f"lists-{LIST}", min(cheapest.values())),
                ):
                    key = Key(candidate.peer.name, candidate.setting.name, corpus, load)
                    guard = bench.ledger.spread(key, "cpu_ms").median
                    found.append(
                        {
                            "guard": candidate.peer.title,
                            "corpus": corpus,
                            "load": load,
                            "engine": engine,
                            "engine_cpu_ms": round(limit, 4),
                            "guard_cpu_ms": round(guard, 4),
                            "kept": round(limit / guard, 4),
                        }
                    )
        return found

    def _quality(self) -> dict[str, Any]:
        """Return the share of each set that is flagged by the champion's thresholds and by LiteLLM's keyword lists."""
        found = quality.sets()
        texts = [text for rows in found.values() for text in rows]
        told: dict[str, Any] = {"Lifeguard": quality.shares(found, quality.guard_flags(self._bundle, texts))}
        if self._quick:
            return told
        try:
            flags, version = quality.filter_flags(self._environments, self._folder, texts)
        except Unavailable as error:
            return told | {"problem": f"LiteLLM's content filter is not measured: {error}"}
        return told | {f"LiteLLM {version} content filter": quality.shares(found, flags)}

    def _described(self, texts: Sequence[str]) -> dict[str, Any]:
        lengths = sorted(len(windows[0].ids) for windows in self._bundle.encode(texts))
        return {
            "texts": len(texts),
            "tokens_least": lengths[0],
            "tokens_median": statistics.median(lengths),
            "tokens_mean": round(statistics.mean(lengths), 1),
            "tokens_most": lengths[-1],
        }

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    @contextmanager
    def _progress(self, total: int) -> Iterator[Tick]:
        """Yield what moves the bar; where there is no terminal, each measurement is a line."""
        if not sys.stderr.isatty():
            yield self._say
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        # it is redrawn between runs only: a thread that draws would take CPU time from what is measured
        with Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, auto_refresh=False
        ) as bar:
            task = bar.add_task("measuring", total=total)

            def tick(done: str) -> None:
                bar.update(task, advance=1, description=done, refresh=True)

            yield tick


def _engine_rows(bench: Bench) -> list[Mapping[str, Any]]:
    return [
        {
            "name": name,
            "corpus": corpus,
            "batch": batch,
            "version": found[0]["version"],
            "per_s": _spread(e["texts_per_s"] for e in found),
            "cpu_ms": _spread(e["cpu_ms_per_text"] for e in found),
        }
        for (name, corpus, batch), found in bench.engines.items()
    ]


def _spread(values: Iterator[float]) -> dict[str, float]:
    found = Spread.of(values)
    return {"median": round(found.median, 4), "low": round(found.low, 4), "high": round(found.high, 4)}
