"""The model swapped under load, again and again: no request fails, none is answered by two versions, none goes back."""

import asyncio
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from guard.bundle import Bundle
from guard.exports import Exports
from guard.taxonomy import CATEGORIES
from tests.served import ServedGuard, rss_bytes
from tests.toys import VOTES, publish_toy

VERSIONS = 16
SWAPS = 24
CONNECTIONS = 8
REQUESTS = 6_000
ROLLBACK_EVERY = 5
MIB = 2**20
TEXTS = [" ".join(words) for words in itertools.permutations(list(VOTES)[::2], 2)][:20]

Scores = Mapping[str, float]


def _publish(exports: Exports) -> dict[str, dict[str, Scores]]:
    """Publish versions that disagree about every text and order their labels differently; return what each says."""
    said: dict[str, dict[str, Scores]] = {}
    for n in range(VERSIONS):
        turned = {word: CATEGORIES[(CATEGORIES.index(category) + n) % 6] for word, category in VOTES.items()}
        order = random.Random(n).sample(CATEGORIES, 6)
        version = publish_toy(exports, votes=turned, labels=tuple(order), strength=3 + n / 4, promote=n == 0)
        rows = Bundle.load(exports, version).score(TEXTS)[0]
        said[version] = {
            text: dict(zip(CATEGORIES, map(float, row), strict=True)) for text, row in zip(TEXTS, rows, strict=True)
        }
    return said


@dataclass
class Progress:
    """Where the test is: which versions were promoted, in order, and what the clients saw."""

    promoted: list[str]
    answers: int = 0
    seen: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    done: bool = False


class Connection:
    """One keep-alive connection that asks as fast as it is answered."""

    def __init__(self, port: int, number: int, said: dict[str, dict[str, Scores]], progress: Progress) -> None:
        self._port = port
        self._texts = itertools.cycle(TEXTS[number:] + TEXTS[:number])
        self._said = said
        self._progress = progress
        self._place = 0  # in the order of promotions: it never falls

    async def run(self) -> None:
        """Ask until the test is done."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for text in self._texts:
            if self._progress.done:
                break
            body = json.dumps({"text": text, "store": False}).encode()
            head = f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status, headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
            length = next(h for h in headers.lower().split(b"\r\n") if h.startswith(b"content-length:"))
            content = await reader.readexactly(int(length.partition(b":")[2]))
            self._progress.answers += 1
            self._check(text, status, content)
        writer.close()

    def _check(self, text: str, status: bytes, content: bytes) -> None:
        failures = self._progress.failures
        if status.split()[1] != b"200":
            failures.append(f"{status!r} {content!r}")
            return
        answer = json.loads(content)
        version, result = answer["model_version"], answer["results"][0]
        expected = self._said[version][text]
        if not all(math.isclose(result["scores"][c], p, abs_tol=1e-4) for c, p in expected.items()):
            failures.append(f"{version} says {result['scores']}, not {expected}")
        places = [n for n, v in enumerate(self._progress.promoted) if v == version and n >= self._place]
        if not places:
            failures.append(f"{version} after {self._progress.promoted[self._place]}")
        else:
            self._place = places[0]
            self._progress.seen.add(self._place)


async def _swap(exports: Exports, progress: Progress) -> None:
    """Promote another version whenever the one before was seen and the clients have asked on for a while."""
    versions = itertools.cycle(exports.versions()[1:])
    for number in range(1, SWAPS + 2):
        enough = progress.answers + REQUESTS // SWAPS
        while progress.answers < enough or len(progress.promoted) - 1 not in progress.seen:
            await asyncio.sleep(0.005)  # lets the clients go on: what is waited for comes from another process
            if progress.failures:
                return
        if number > SWAPS:
            return
        if number % ROLLBACK_EVERY == 0:
            # known before it is done: a client may see it before the call returns
            progress.promoted.append(exports.promotions()[-1].previous or "")
            await asyncio.to_thread(exports.rollback, by="test", reason="test")
        else:
            progress.promoted.append(next(versions))
            await asyncio.to_thread(exports.promote, progress.promoted[-1], by="test", reason="test")


@pytest.mark.slow
async def test_swap_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through more than twenty swaps each of thousands of answers is whole, by one version, and by none older."""
    guard = ServedGuard(tmp_path, watch_interval_ms=10, threads=2, log_level="warning")
    said = _publish(guard.exports)
    distances = [np.abs(np.subtract(list(a[t].values()), list(b[t].values()))).max() for a, b in itertools.combinations(said.values(), 2) for t in TEXTS]  # fmt: skip
    assert min(distances) > 1e-3  # an answer that mixed two versions would show
    progress = Progress(promoted=["0001"])
    with guard:
        worker = guard.pids[-1]
        connections = [Connection(guard.port, n, said, progress) for n in range(CONNECTIONS)]
        began = time.monotonic()
        clients = [asyncio.create_task(connection.run()) for connection in connections]
        before = rss_bytes(worker)
        async with asyncio.timeout(240):
            await _swap(guard.exports, progress)
        progress.done = True
        await asyncio.gather(*clients)
        took_s = time.monotonic() - began
        grown = rss_bytes(worker) - before
        async with httpx.AsyncClient(base_url=guard.base_url) as client:
            metrics = (await client.get("/metrics")).text
            ready = (await client.get("/readyz")).json()
    with capsys.disabled():
        sys.stdout.write(
            f"\n{progress.answers} answers over {SWAPS} swaps from {CONNECTIONS} connections in {took_s:.1f} s, "
            f"{progress.answers / took_s:.0f}/s; memory grew by {grown / MIB:.1f} MiB\n"
        )
    assert progress.failures == []
    assert progress.answers >= 5_000
    assert progress.seen == set(range(SWAPS + 1))
    assert f'guard_swaps_total{{result="swapped"}} {SWAPS + 1}.0' in metrics
    assert 'guard_swaps_total{result="failed"} 0.0' in metrics
    assert ready == {"ready": True, "model_version": progress.promoted[-1], "problems": []}
    assert grown < 50 * MIB
