"""The pool comes in, batch by batch; probabilities and vectors under the champion go out, without the texts.

The store yields the texts; `selection` takes what comes out. A million messages of 384 numbers are 0.8 GB, all in
memory: texts can be guessed back from embeddings (arXiv 2310.06816), so no file of them lies about, not even for a while.
"""

import asyncio
from array import array
from collections.abc import AsyncIterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from guard.decision import uncertainty
from guard.store.pool import PooledText
from guard.taxonomy import CATEGORIES
from learner.cluster import Vectors, unit
from learner.progress import Progress, silent

_CHUNK: Final = 64  # texts a thread scores at once: enough to amortise the call, few enough to keep all threads busy


class Scorer(Protocol):
    """What is needed of a `guard.bundle.Bundle`; several threads call it at once."""

    def score(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return `(n, 6)` probabilities and `(n, d)` embeddings."""


@dataclass(frozen=True)
class Embedded:
    """The pool in numbers, one row a message.

    Args:
        ids: `(n,)` message ids.
        users: The hashes of who sent each message; those who sent several have one tuple for all.
        probabilities: `(n, 6)` float32, in the order of `CATEGORIES`.
        vectors: `(n, d)` float16, of length 1 but for rounding: cosines are right to 0.0005; or float32, of any length.
    """

    ids: npt.NDArray[np.int64]
    users: tuple[tuple[str, ...], ...]
    probabilities: npt.NDArray[np.float32]
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def uncertainty(self) -> npt.NDArray[np.float32]:
        """`(n,)` entropy / ln 6 (the paper's equation 1)."""
        return uncertainty(self.probabilities)


class _Column:
    """Rows that come block by block and grow in place; collecting blocks and joining them would need the memory twice.

    Args:
        expected: How many rows to make room for; those that never come take no memory.
    """

    def __init__(self, width: int, dtype: type[np.floating[Any]], expected: int) -> None:
        self._rows = np.empty((expected, width), dtype=dtype)
        self._count = 0

    def extend(self, block: npt.NDArray[np.float32]) -> None:
        """Add rows, rounded to the column's type."""
        first, self._count = self._count, self._count + len(block)
        if self._count > len(self._rows):  # more came than were expected: the pool has grown meanwhile
            self._resize(self._count + self._count // 8)
        self._rows[first : self._count] = block

    def rows(self) -> npt.NDArray[Any]:
        """Return all rows; nothing may be added from then on."""
        self._resize(self._count)
        return self._rows

    def _resize(self, length: int) -> None:
        # nobody else holds the array; realloc moves pages of that size without copying them
        self._rows.resize((length, self._rows.shape[1]), refcheck=False)


async def embed(
    batches: AsyncIterable[list[PooledText]],
    scorer: Scorer,
    *,
    threads: int,
    total: int = 0,
    progress: Progress = silent,
) -> Embedded:
    """Score every message; the texts of one batch at a time are in memory.

    Args:
        batches: The pool, as `store.pool.texts()` yields it.
        scorer: The champion.
        threads: How many threads run the model.
        total: How many messages to expect, for the progress and the memory.
        progress: Told after every batch.
    """
    ids = array("q")
    users: list[tuple[str, ...]] = []
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    scores = _Column(len(CATEGORIES), np.float32, total)
    vectors: _Column | None = None  # as wide as the model's first
    loop, workers = asyncio.get_running_loop(), ThreadPoolExecutor(threads, thread_name_prefix="embed")
    try:
        async for batch in batches:
            texts = [message.text for message in batch]
            chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
            for probabilities, embeddings in await asyncio.gather(
                *(loop.run_in_executor(workers, scorer.score, chunk) for chunk in chunks)
            ):
                scores.extend(probabilities)
                vectors = vectors or _Column(embeddings.shape[1], np.float16, total)
                vectors.extend(unit(embeddings))  # before the rounding: float16 ends at 65,504
            ids.extend(message.id for message in batch)
            users.extend(known.setdefault(message.user_hashes, message.user_hashes) for message in batch)
            progress("embedding", len(ids), max(total, len(ids)))
    finally:
        workers.shutdown(wait=False, cancel_futures=True)  # a cancelled learner does not wait for a chunk
    return Embedded(
        ids=np.array(ids, dtype=np.int64),
        users=tuple(users),
        probabilities=scores.rows(),
        vectors=vectors.rows() if vectors else np.empty((0, 1), dtype=np.float16),
    )
