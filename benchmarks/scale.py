"""Selection from large pools: time and peak memory by pool size, near-duplicates missed, and messages scored a second.

    python -m benchmarks.scale --exports exports --sizes 10000,100000,1000000

Two parts, reported apart and together. The model's scoring of real texts (the seed corpus with small edits) is timed on
a sample, since it is the same for every message. All that follows it runs in full on synthetic vectors, in a process of
its own with the model loaded as in service: embedding's bookkeeping, the collapse, the clusters, the draw.
"""

import asyncio
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from guard.bundle import Bundle
from guard.decision import softmax
from guard.exports import Exports
from guard.store.pool import PooledText
from guard.taxonomy import CATEGORIES
from guard.text import normalise
from learner import cluster
from learner.cluster import SAME, Rows, Vectors, leaders, unit
from learner.dataset import Corpus
from learner.embed import Embedded, embed
from learner.selection import select, strategy
from learner.settings import LearnerSettings

RESULTS: Final = Path(__file__).parent / "results"
STRATEGIES: Final = ("stochastic", "cluster", "random")
BATCH: Final = 20
WIDTH: Final = 384
SEED: Final = 20261121
DOUBLE_EVERY: Final = 5
FLOOD_EVERY: Final = 20
FLOODS: Final = 3
STORE_BATCH: Final = 1000  # messages the store yields at once
CHUNK: Final = 64  # texts scored at once, as in `learner.embed`
PROBE: Final = 2000  # leaders compared with all others to see how many doubles the collapse has missed
REAL_LEAVES: Final = 300  # into which the real texts are cut: as many as half a million rows are

Floats = npt.NDArray[np.float32]


class SyntheticChampion:
    """Scores the text "17" with what message 17 of a synthetic pool has; the same in any order and any thread.

    Modelled on MiniLM's embeddings of the seed corpus: a mean of length 0.27, axes whose variance falls with the power
    0.6 of their rank, half of it between 2,000 topics. Every fifth message is a double of the one before it, at a cosine
    between 0.97 and 1. Every twentieth belongs to one of three floods: texts sent over and over with a word changed.
    """

    def __init__(self) -> None:
        generator = np.random.default_rng(SEED)
        variances = np.arange(3, WIDTH + 3, dtype=np.float32) ** -0.6
        self._spread = np.sqrt(variances / variances.sum() * (1 - 0.27**2) / 2)
        self._mean = np.zeros(WIDTH, dtype=np.float32)
        self._mean[-1] = 0.27
        self._topics = generator.normal(size=(2000, WIDTH)).astype(np.float32) * self._spread
        self._head = generator.normal(size=(WIDTH, len(CATEGORIES))).astype(np.float32) * 4

    def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return `(n, 6)` probabilities and `(n, d)` embeddings."""
        vectors = np.stack([self._vector(int(text)) for text in texts])
        return softmax(vectors @ self._head), 5 * vectors

    def _vector(self, number: int) -> Floats:
        if number % FLOOD_EVERY == 0:
            return self._near(self._message(number % FLOODS), number, 0.15)
        if number % DOUBLE_EVERY == 1:
            return self._near(self._message(number - 1), number, 0.25)
        return self._message(number)

    def _message(self, number: int) -> Floats:
        generator = np.random.default_rng([SEED, number])
        topic = self._topics[int(generator.integers(len(self._topics)))]
        vector = self._mean + topic + generator.standard_normal(WIDTH, dtype=np.float32) * self._spread
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)

    def _near(self, vector: Floats, number: int, distance: float) -> Floats:
        """Return a vector up to a distance away, in any direction."""
        generator = np.random.default_rng([SEED, number, 1])
        noise = generator.standard_normal(WIDTH, dtype=np.float32)
        moved = vector + noise * np.float32(distance * generator.random() / np.linalg.norm(noise))
        return np.asarray(moved / np.linalg.norm(moved), dtype=np.float32)


def main(
    exports: Annotated[Path, typer.Option(help="Folder with a model.")] = Path("exports"),
    sizes: Annotated[str, typer.Option(help="Messages in the pool, several with commas.")] = "10000,100000",
    version: Annotated[str | None, typer.Option(help="The champion by default.")] = None,
    texts: Annotated[int, typer.Option(help="Real texts to score.")] = 20_000,
) -> None:
    """Print time and memory of a selection from pools of each size and write them to `results/scale.json`."""
    exports, version = exports.absolute(), version or Exports(exports).champion() or ""
    load = round(os.getloadavg()[0], 2)
    real = _run("score", exports, version, texts)
    rows = [_run(name, exports, version, size) for size in map(int, sizes.split(",")) for name in STRATEGIES]
    for row in rows:
        row["end_to_end_s"] = round(
            row["messages"] / real["messages_per_s"] + row["embed_overhead_s"] + row["select_s"], 1
        )
    summary = {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "load_average_before": load,
        "scoring_real_texts": real,
        "selections": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scale.json").write_text(json.dumps(summary, indent=2) + "\n")
    Console().print(f"{real['messages_per_s']} real texts a second, {real['mean_tokens']} tokens each")
    shown = ("messages", "strategy", "select_s", "of_it_collapse_s", "peak_mb", "recall", "end_to_end_s")
    table = Table(*(name.replace("_", " ") for name in shown))
    for row in rows:
        table.add_row(*(str(row[name]) for name in shown))
    Console().print(table)


def _run(name: str, exports: Path, version: str, count: int) -> dict[str, Any]:
    """Return what a fresh process measures: its peak memory is its own."""
    call = f"from benchmarks.scale import measure; measure({name!r}, {str(exports)!r}, {version!r}, {count})"
    command = [sys.executable, "-c", call]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    typer.echo(found)
    return dict(json.loads(found))


def measure(name: str, exports: str, version: str, count: int) -> None:
    """Print as JSON what one process finds out; `main` starts it."""
    bundle = Bundle.load(Exports(Path(exports)), version)
    bundle.score(["a message"] * CHUNK)  # the model's own memory counts
    typer.echo(json.dumps(_score(bundle, count) if name == "score" else _select(name, count)))


def _score(bundle: Bundle, count: int) -> dict[str, Any]:
    """Return the throughput on real texts and how many of their near-duplicates the collapse finds."""
    texts = _texts(count)
    chunks = [texts[first : first + CHUNK] for first in range(0, count, CHUNK)]
    began = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        vectors = np.concatenate([found for _, found in workers.map(bundle.score, chunks)])
    took_s = time.monotonic() - began
    tokens = [sum(len(window.ids) for window in windows) for windows in bundle.encode(texts[:2000])]
    vectors = unit(vectors).astype(np.float16)
    order = np.random.default_rng(SEED).permutation(count)
    with patch.multiple(cluster, _EXACT=0, _LEAF=count // REAL_LEAVES):  # else so few are compared each with each
        leader = leaders(vectors, order)
    return {
        "texts": count,
        "mean_tokens": round(float(np.mean(tokens)), 1),
        "messages_per_s": round(count / took_s, 1),
        "leaves": REAL_LEAVES,
        **_missed(vectors, leader),
        "peak_mb": _peak_mb(),
    }


def _select(name: str, count: int) -> dict[str, Any]:
    champion = SyntheticChampion()
    began = time.monotonic()
    pool, scoring_s = asyncio.run(_pool(champion, count))
    overhead_s = time.monotonic() - began - scoring_s
    collapsed: list[tuple[Rows, float]] = []

    def timed(vectors: Vectors, order: Rows) -> Rows:
        began = time.monotonic()
        leader = leaders(vectors, order)
        collapsed.append((leader, time.monotonic() - began))
        return leader

    began = time.monotonic()
    with patch("learner.selection.leaders", timed):
        picks = select(pool, strategy(name), size=BATCH, user_cap=3, seed=SEED)
    select_s, peak_mb = time.monotonic() - began, _peak_mb()
    (leader, collapse_s), *_ = collapsed
    return {
        "messages": count,
        "strategy": name,
        "embed_overhead_s": round(overhead_s, 1),
        "select_s": round(select_s, 1),
        "of_it_collapse_s": round(collapse_s, 1),
        "peak_mb": peak_mb,
        "picked": len(picks),
        **_missed(pool.vectors, leader),
    }


async def _pool(champion: SyntheticChampion, count: int) -> tuple[Embedded, float]:
    """Return the embedded pool and the seconds that went into making up its vectors."""
    spent = [0.0]

    class Timed:
        def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
            began = time.monotonic()
            found = champion.score(texts)
            spent[0] += time.monotonic() - began
            return found

    async def batches() -> AsyncIterator[list[PooledText]]:
        for first in range(0, count, STORE_BATCH):
            numbers = range(first, min(first + STORE_BATCH, count))
            yield [PooledText(n + 1, str(n), _users(n, count), 1.0) for n in numbers]

    return await embed(batches(), Timed(), threads=1, total=count), spent[0]


def _users(number: int, count: int) -> tuple[str, ...]:
    """Return one user of some five messages, as the hash that the store gives; a tenth of the messages has none."""
    user = number * 7919 % max(count // 5, 1)
    return () if number % 10 == 0 else (hashlib.sha256(str(user).encode()).hexdigest(),)


def _missed(vectors: Vectors, leader: Rows) -> dict[str, Any]:
    """Return how many rows the collapse has left and how many of those have a double among them yet, from a sample."""
    heads = np.unique(leader)
    probe = np.random.default_rng(SEED).choice(heads, min(PROBE, len(heads)), replace=False)
    mine, doubles = vectors[probe].astype(np.float32), np.zeros(len(probe), dtype=bool)
    for first in range(0, len(heads), 4096):
        others = heads[first : first + 4096]
        doubles |= ((mine @ vectors[others].astype(np.float32).T > SAME) & (probe[:, None] != others)).any(axis=1)
    missed = doubles.mean() * len(heads) / 2  # one of each two should be gone
    gone = len(vectors) - len(heads)
    return {
        "collapsed": gone,
        "leaders_with_a_double": round(float(doubles.mean()), 5),
        "recall": round(float(gone / max(gone + missed, 1)), 5),
    }


def _texts(count: int) -> list[str]:
    """Return the seed corpus, each text followed by copies of it with a small edit."""
    corpus = Corpus.load(LearnerSettings().corpus_dir)
    seeds = sorted({normalise(example.text) for example in (*corpus.train, *corpus.dev, *corpus.gate)})
    generator = np.random.default_rng(SEED)
    copies = -(-count // len(seeds)) - 1
    texts = [text for seed in seeds for text in (seed, *(_edited(seed, generator) for _ in range(copies)))]
    return [texts[place] for place in generator.permutation(len(texts))[:count]]


def _edited(text: str, generator: np.random.Generator) -> str:
    """Return a text with a letter dropped or typed wrongly, a word dropped or put before it, or other signs."""
    place = int(generator.integers(len(text)))
    words = text.split()
    word = int(generator.integers(len(words)))
    return (
        text[:place] + text[place + 1 :] or text,
        text[:place] + "abcdefghijklmnopqrstuvwxyz"[int(generator.integers(26))] + text[place + 1 :],
        " ".join(words[:word] + words[word + 1 :]) or text,
        ("hi, ", "hey ", "ok ", "so ", "well, ")[int(generator.integers(5))] + text,
        text.rstrip(".!?") + (".", "!", "?", "...", " please")[int(generator.integers(5))],
        text.lower(),
    )[int(generator.integers(6))]


def _peak_mb() -> float:
    """Return the peak of resident memory; `ru_maxrss` would count the process that started this one, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def _processor() -> str:
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return (
        information.split("model name")[1].split(":", 1)[1].splitlines()[0].strip()
        if "model name" in information
        else "?"
    )


if __name__ == "__main__":
    typer.run(main)
