"""The run itself: servers that stand ready come in, samples go out, one server at work at a time, A B A B."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from benchmarks.peers.corpus import MIXED, SHORT
from benchmarks.peers.environments import clean_environment
from benchmarks.peers.figures import Key, Ledger, sample
from benchmarks.peers.load import arrivals, closed_loop, open_loop
from benchmarks.peers.processes import Server, cpu_s, send
from benchmarks.peers.roster import CORES, SERVICES, Answer, Peer, Setting

LIST: Final = 32  # texts of one request, where a server takes several
AT_ONCE: Final = (1, 8, 32)
SCREENED: Final = 8
SCREEN: Final = f"screen-{SCREENED}"  # a load of its own: the settings of one peer are compared by themselves
SHARES: Final = (50, 80, 95)  # % of saturation
_LISTS_AT_ONCE: Final = 2 * CORES
_WARM_SHARE: Final = 0.2  # of a run's seconds
_OPEN_LONGER: Final = 2  # an open loop runs so many times as long: its 99th percentile needs more requests

Tick = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer in one setting, its server started and at rest."""

    peer: Peer
    setting: Setting
    server: Server

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the server run for a while; all others are stopped, so that none takes anything from it."""
        send(self.server.pids, signal.SIGCONT)
        try:
            yield
        finally:
            send(self.server.pids, signal.SIGSTOP)

    def key(self, corpus: str, load: str) -> Key:
        """Return what a sample of it goes under."""
        return Key(self.peer.name, self.setting.name, corpus, load)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine in process, without a server: the limit.

    Args:
        name: As the results call it.
        engine: `onnxruntime` or `openvino`.
        python: That has it.
        model: The ONNX.
        precision: For `openvino`.
    """

    name: str
    engine: str
    python: Path
    model: Path
    precision: str = "f32"


class Bench:
    """Measures candidates and engines.

    Args:
        corpora: Texts by corpus.
        seconds: Of one run.
        repeats: Rounds.
        tick: Told what has been measured.
    """

    def __init__(self, corpora: Mapping[str, Sequence[str]], *, seconds: float, repeats: int, tick: Tick) -> None:
        self._corpora, self._seconds, self._repeats, self._tick = corpora, seconds, repeats, tick
        self.ledger = Ledger()
        self.engines: dict[tuple[str, str, int], list[dict[str, Any]]] = {}

    def screen(self, candidates: Sequence[Candidate]) -> None:
        """Measure the settings of a peer with eight at once, to find its fastest."""
        for _ in range(self._repeats):
            for candidate in candidates:
                with candidate.awake():
                    self._closed(candidate, SHORT, SCREENED, name=SCREEN)

    def closed(self, candidates: Sequence[Candidate]) -> None:
        """Measure the closed loops, and lists of texts; of an aside no more than what it stands aside for."""
        for _ in range(self._repeats):
            for candidate in candidates:
                with candidate.awake():
                    for corpus in (SHORT,) if candidate.peer.aside else (SHORT, MIXED):
                        for at_once in AT_ONCE:
                            self._closed(candidate, corpus, at_once)
                        if candidate.peer.lists and not candidate.peer.aside:
                            self._lists(candidate, corpus)

    def open(self, candidates: Sequence[Candidate]) -> None:
        """Measure at shares of what the closed loops have shown to be the most."""
        for number in range(self._repeats):
            for candidate in (c for c in candidates if not c.peer.aside):
                with candidate.awake():
                    for corpus in (SHORT, MIXED):
                        for share in SHARES:
                            self._open(candidate, corpus, share, seed=number)

    def limits(self, engines: Sequence[Engine], ids: Mapping[str, Path], batches: Sequence[int]) -> None:
        """Measure the engines in process, one text a run and several, on token ids by corpus."""
        for _ in range(self._repeats):
            for engine in engines:
                for corpus, path in ids.items():
                    for batch in batches:
                        found = self._limit(engine, path, batch)
                        self.engines.setdefault((engine.name, corpus, batch), []).append(found)
                        self._tick(f"{engine.name} {corpus}, {batch} a run")

    def _closed(self, candidate: Candidate, corpus: str, at_once: int, name: str | None = None) -> None:
        requests = [candidate.peer.request([text]) for text in self._corpora[corpus]]
        self._measure(candidate, corpus, name or f"closed-{at_once}", requests, at_once, texts=1)

    def _lists(self, candidate: Candidate, corpus: str) -> None:
        texts = self._corpora[corpus]
        requests = [candidate.peer.request(texts[first : first + LIST]) for first in range(0, len(texts), LIST)]
        self._measure(candidate, corpus, f"lists-{LIST}", requests, _LISTS_AT_ONCE, texts=LIST)

    def _measure(
        self, candidate: Candidate, corpus: str, name: str, requests: Sequence[bytes], at_once: int, *, texts: int
    ) -> None:
        port = candidate.server.port
        closed_loop(port, requests, at_once=at_once, seconds=self._seconds * _WARM_SHARE)
        with _Cpu(candidate.server) as spent:
            load = closed_loop(port, requests, at_once=at_once, seconds=self._seconds)
        self.ledger.add(candidate.key(corpus, name), sample(load, spent.seconds, texts=texts))
        self._tick(f"{candidate.peer.title} ({candidate.setting.name}) {corpus} {name}")

    def _open(self, candidate: Candidate, corpus: str, share: int, *, seed: int) -> None:
        closed = [f"closed-{at_once}" for at_once in AT_ONCE]
        most = self.ledger.saturation(candidate.peer.name, candidate.setting.name, corpus, closed)
        requests = [candidate.peer.request([text]) for text in self._corpora[corpus]]
        port = candidate.server.port
        closed_loop(port, requests, at_once=1, seconds=self._seconds * _WARM_SHARE)
        due = arrivals(max(1.0, most * share / 100), self._seconds * _OPEN_LONGER, seed)
        with _Cpu(candidate.server) as spent:
            load = open_loop(port, requests, due=due if len(due) else np.array([self._seconds]))
        self.ledger.add(candidate.key(corpus, f"open-{share}"), sample(load, spent.seconds))
        self._tick(f"{candidate.peer.title} ({candidate.setting.name}) {corpus} open-{share}")

    def _limit(self, engine: Engine, ids: Path, batch: int) -> dict[str, Any]:
        command = [engine.python, SERVICES / "raw_loop.py", engine.engine, engine.model, ids]
        options = [self._seconds, CORES, batch, engine.precision]
        said = subprocess.run(
            [str(part) for part in (*command, *options)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        ).stdout
        return dict(json.loads(said.splitlines()[-1]))


def runs(peers: Sequence[Peer], engines: int, repeats: int, *, screening: bool) -> int:
    """Return how many runs there will be, for the progress bar."""
    screened = sum(len(peer.settings) for peer in peers if len(peer.settings) > 1) if screening else 0
    full = [peer for peer in peers if not peer.aside]
    closed = len(AT_ONCE) * (2 * len(full) + len(peers) - len(full)) + 2 * sum(peer.lists for peer in full)
    return repeats * (screened + closed + 2 * len(SHARES) * len(full) + engines)


def disagreement(expected: Sequence[Answer], answers: Sequence[Answer]) -> tuple[int, float | None]:
    """Return how many texts are judged differently, and the largest difference of scores where there are any."""
    wrong = sum(a.flagged is not b.flagged for a, b in zip(expected, answers, strict=True))
    differences = [
        abs(a.scores[label] - b.scores[label])
        for a, b in zip(expected, answers, strict=True)
        if a.scores is not None and b.scores is not None
        for label in a.scores
    ]
    return wrong, max(differences) if differences else None


class _Cpu:
    """The CPU time a server takes while a block runs."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._before = cpu_s(self._server.pids)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.05)  # whatever it does behind its last answer belongs to it
        self.seconds = cpu_s(self._server.pids) - self._before
