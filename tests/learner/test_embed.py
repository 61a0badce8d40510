"""The pool in numbers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from guard.bundle import Bundle
from guard.decision import uncertainty
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.pool import PooledText
from learner.cluster import unit
from learner.embed import Embedded, embed
from tests.toys import publish_toy

Floats = npt.NDArray[np.float32]


class Counting:
    """Scores a text by the number it ends in, and remembers how many texts came at once."""

    def __init__(self, length: float = 3.0) -> None:
        self.length = length
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Return the number as the angle of the embedding, in thousandths, and its share of 1,000 as a probability."""
        self.sizes.append(len(texts))
        self.threads.add(threading.get_ident())
        numbers: Floats = np.array([float(text.split()[-1]) / 1000 for text in texts], dtype=np.float32)
        probabilities = np.empty((len(texts), 6), dtype=np.float32)
        probabilities[:] = (1 - numbers[:, None]) / 5
        probabilities[:, 0] = numbers
        return probabilities, np.stack([np.cos(numbers), np.sin(numbers)], axis=1) * np.float32(self.length)


async def pool(count: int, batch: int) -> AsyncIterator[list[PooledText]]:
    """Yield messages 1 to `count` in batches."""
    for start in range(1, count + 1, batch):
        numbers = range(start, min(start + batch, count + 1))
        yield [PooledText(n, f"message {n}", (f"user {n}",) if n % 2 else (), 1.0) for n in numbers]


def angles(embedded: Embedded) -> Floats:
    """Return the angle of each embedding."""
    vectors = embedded.vectors.astype(np.float32)
    return np.asarray(np.arctan2(vectors[:, 1], vectors[:, 0]))


async def test_every_message_keeps_its_own_row() -> None:
    """Ids, users, probabilities and vectors stand in the order of the pool, whatever thread scored them."""
    embedded = await embed(pool(1000, 300), Counting(), threads=4)
    assert len(embedded) == 1000
    assert embedded.ids.tolist() == list(range(1, 1001))
    assert angles(embedded) == pytest.approx(np.arange(1, 1001) / 1000, abs=4e-4)
    assert embedded.probabilities[:, 0] == pytest.approx(np.arange(1, 1001) / 1000)
    assert embedded.users[:2] == (("user 1",), ())


@pytest.mark.parametrize("length", [1e-3, 1e6])
async def test_vectors_are_kept_small_and_of_length_one(length: float) -> None:
    """Vectors take two bytes a number and have length 1, whatever length the model gives them."""
    embedded = await embed(pool(100, 100), Counting(length), threads=1)
    assert embedded.vectors.dtype == np.float16
    assert np.linalg.norm(embedded.vectors.astype(np.float32), axis=1) == pytest.approx(np.ones(100), abs=1e-3)


@pytest.mark.parametrize("total", [0, 130, 1000, 5000])
async def test_no_more_or_fewer_rows_than_messages(total: int) -> None:
    """However many messages were expected, each that came has its row, and no memory is held for more."""
    embedded = await embed(pool(1000, 70), Counting(), threads=2, total=total)
    assert angles(embedded) == pytest.approx(np.arange(1, 1001) / 1000, abs=4e-4)
    assert embedded.probabilities.shape == (1000, 6)
    assert embedded.vectors.base is None
    assert embedded.vectors.nbytes == 1000 * 2 * 2


async def test_who_sent_many_messages_is_kept_once() -> None:
    """Messages of the same users share one tuple, though the store gives each its own."""

    async def batches() -> AsyncIterator[list[PooledText]]:
        for first in (0, 10):
            yield [
                PooledText(n, f"message {n}", tuple(f"user {n % 2}".split(",")), 1.0) for n in range(first, first + 10)
            ]

    embedded = await embed(batches(), Counting(), threads=1)
    assert embedded.users == (("user 0",), ("user 1",)) * 10
    assert len({id(users) for users in embedded.users}) == 2


async def test_uncertainty_is_the_normalised_entropy() -> None:
    """Uncertainty is the entropy of the row's probabilities over ln 6."""
    embedded = await embed(pool(167, 167), Counting(), threads=1)
    assert embedded.uncertainty == pytest.approx(uncertainty(embedded.probabilities))
    assert embedded.uncertainty[166] == pytest.approx(1.0, abs=1e-4)  # 0.167 and five times the rest


async def test_the_model_runs_in_other_threads_than_the_event_loop() -> None:
    """No chunk is scored in the event loop's thread, and none is larger than a chunk."""
    scorer = Counting()
    await embed(pool(500, 250), scorer, threads=2)
    assert threading.get_ident() not in scorer.threads
    assert max(scorer.sizes) <= 64


async def test_one_batch_of_texts_is_in_hand_at_a_time() -> None:
    """A batch is asked for only after the one before was scored."""
    scorer = Counting()
    asked: list[int] = []

    async def watched() -> AsyncIterator[list[PooledText]]:
        async for batch in pool(300, 100):
            asked.append(sum(scorer.sizes))
            yield batch

    await embed(watched(), scorer, threads=2)
    assert asked == [0, 100, 200]


async def test_progress_counts_messages() -> None:
    """Progress tells the messages done of those expected, and never more than there are in all."""
    told: list[tuple[str, int, int]] = []
    await embed(pool(250, 100), Counting(), threads=1, total=200, progress=lambda *step: told.append(step))
    assert told == [("embedding", 100, 200), ("embedding", 200, 200), ("embedding", 250, 250)]


async def test_an_empty_pool_gives_no_rows() -> None:
    """Without messages there are no rows, and no error."""
    embedded = await embed(pool(0, 1), Counting(), threads=1)
    assert len(embedded) == 0
    assert embedded.probabilities.shape == (0, 6)


async def test_what_the_model_raises_is_passed_on() -> None:
    """A chunk that cannot be scored ends the embedding with that error."""

    class Broken:
        def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await embed(pool(10, 10), Broken(), threads=2)


async def test_a_cancelled_embedding_does_not_wait_for_its_threads() -> None:
    """Cancelling returns while a thread still scores."""
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow(Counting):
        def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
            started.set()
            release.wait(10)
            ended.set()
            return super().score(texts)

    task = asyncio.create_task(embed(pool(10, 10), Slow(), threads=1))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    release.set()


async def test_a_real_bundle_gives_the_rows_it_gives_alone(guard_settings: GuardSettings) -> None:
    """Embedding through threads gives what the bundle gives for the same texts at once, its vectors rounded."""
    exports = Exports(guard_settings.exports_dir)
    bundle = Bundle.load(exports, publish_toy(exports))
    texts = ["hello", "fire trapped", "sue my landlord", "hello die"] * 50

    async def batches() -> AsyncIterator[list[PooledText]]:
        yield [PooledText(n, text, (), 1.0) for n, text in enumerate(texts, 1)]

    embedded = await embed(batches(), bundle, threads=2)
    probabilities, vectors = bundle.score(texts)
    assert embedded.probabilities == pytest.approx(probabilities, abs=1e-6)
    assert embedded.vectors == pytest.approx(unit(vectors), abs=5e-4)
