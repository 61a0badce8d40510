"""The pool comes in, batch by batch; probabilities and vectors under the champion go out, without the texts.

The store yields the texts; `selection` takes what comes out.
"""

import asyncio
from collections.abc import AsyncIterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from guard.decision import uncertainty
from guard.store.pool import PooledText
from guard.taxonomy import CATEGORIES
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
        users: The hashes of who sent each message.
        probabilities: `(n, 6)` float32, in the order of `CATEGORIES`.
        vectors: `(n, d)` float32.
    """

    ids: npt.NDArray[np.int64]
    users: tuple[tuple[str, ...], ...]
    probabilities: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def uncertainty(self) -> npt.NDArray[np.float32]:
        """`(n,)` entropy / ln 6 (the paper's equation 1)."""
        return uncertainty(self.probabilities)


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
        total: How many messages to expect, for the progress.
        progress: Told after every batch.
    """
    ids: list[int] = []
    users: list[tuple[str, ...]] = []
    scores: list[npt.NDArray[np.float32]] = []
    vectors: list[npt.NDArray[np.float32]] = []
    loop, workers = asyncio.get_running_loop(), ThreadPoolExecutor(threads, thread_name_prefix="embed")
    try:
        async for batch in batches:
            texts = [message.text for message in batch]
            chunks = (texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK))
            for probabilities, embeddings in await asyncio.gather(
                *(loop.run_in_executor(workers, scorer.score, chunk) for chunk in chunks)
            ):
                scores.append(probabilities)
                vectors.append(embeddings)
            ids.extend(message.id for message in batch)
            users.extend(message.user_hashes for message in batch)
            progress("embedding", len(ids), max(total, len(ids)))
    finally:
        workers.shutdown(wait=False, cancel_futures=True)  # a cancelled learner does not wait for a chunk
    return Embedded(
        ids=np.array(ids, dtype=np.int64),
        users=tuple(users),
        probabilities=np.concatenate(scores) if scores else np.empty((0, len(CATEGORIES)), dtype=np.float32),
        vectors=np.concatenate(vectors) if vectors else np.empty((0, 1), dtype=np.float32),
    )
