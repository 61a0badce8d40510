"""Verdicts into the pool, off the request path: sampled with a known probability, bounded, written in batches."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import islice
from typing import Any, Final, Protocol

import structlog

from guard.calls import Calls
from guard.engine import Judged
from guard.errors import LifeguardError
from guard.metrics import Metrics
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.pool import AUDIT, SHADOW, UNCERTAIN, Added, Arrival

FLUSH_MESSAGES: Final = 500
RETRY_S: Final = 2.0

_log = structlog.get_logger()


class Tracer(Protocol):
    """Follows verdicts from their requests into the pool; see `guard.traces`."""

    def mark(self) -> Any:
        """Return which request is being served."""

    def writing(self, marks: Sequence[Any]) -> AbstractContextManager[dict[str, int]]:
        """Surround a write of these requests' verdicts, and take its counts by fate."""


class Intake:
    """Decides which verdicts enter the pool and writes them there.

    Args:
        store: Holds the pool.
        settings: Thresholds, audit rate and bounds.
        metrics: Told of every fate.
        clock: Tells when a text was seen.
        sample: Returns a number in [0, 1); decides about the audit share.
        tracer: Follows verdicts from their requests into the pool.
    """

    def __init__(
        self,
        store: Store,
        settings: GuardSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime],
        sample: Callable[[], float] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._sample = sample or random.SystemRandom().random  # unpredictable: nobody may choose to be audited
        self._calls = Calls(clock)
        self._tracer = tracer
        self._waiting: deque[Arrival] = deque()
        self._marks: deque[Any] = deque()  # of each that waits its request's, while there is a tracer
        self._ready = asyncio.Event()
        self._flushing = asyncio.Lock()

    def offer(self, judged: Judged, *, user: str | None, call: str | None = None) -> None:
        """Queue the verdicts that belong into the pool: all uncertain ones, and an audit share of the others.

        Args:
            judged: The verdicts.
            user: The caller's opaque user id.
            call: The id of the call that brings them; a text that it brought before is passed over, whatever became
                of it: drawn twice, its inclusion probability would be wrong, and written twice, its count.
        """
        for index, (text, verdict) in enumerate(zip(judged.texts, judged.verdicts, strict=True)):
            if call is not None and not self._calls.first(call, text):
                self._metrics.intake.labels("same_call").inc()
                continue
            uncertain = self._settings.uncertain(verdict.uncertainty)
            probability = 1.0 if uncertain else self._settings.audit_rate
            if not uncertain and self._sample() >= probability:
                continue
            self._queue(judged, index, UNCERTAIN if uncertain else AUDIT, probability, user=user)

    def offer_disputed(self, judged: Judged, index: int, *, user: str | None, probability: float) -> None:
        """Queue a text about which a second model disagrees, unless the champion's own doubt has brought it in.

        Args:
            judged: The champion's verdicts.
            index: The text's place in them.
            user: The caller's opaque user id.
            probability: That with which its request was drawn for the second model. What was drawn and then dropped
                because the guard was busy is missing at random: all are less likely by the same factor.
        """
        if not self._settings.uncertain(judged.verdicts[index].uncertainty):
            self._queue(judged, index, SHADOW, probability, user=user)

    def _queue(self, judged: Judged, index: int, reason: str, probability: float, *, user: str | None) -> None:
        if len(self._waiting) >= self._settings.intake_max_waiting:
            self._metrics.intake.labels("dropped_queue").inc()
            return
        verdict = judged.verdicts[index]
        self._waiting.append(
            Arrival(
                text=judged.texts[index],
                user=user,
                reason=reason,
                inclusion_probability=probability,
                model_version=judged.model_version,
                category=verdict.category,
                scores=verdict.scores,
                uncertainty=verdict.uncertainty,
                seen_at=self._clock(),
            )
        )
        if self._tracer is not None:
            self._marks.append(self._tracer.mark())
        self._metrics.intake_waiting.set(len(self._waiting))
        self._ready.set()

    async def run(self) -> None:
        """Write what waits, for ever; a store that does not answer is tried again, and what waits is kept meanwhile."""
        while True:
            await self._ready.wait()
            await asyncio.sleep(self._settings.intake_flush_ms / 1000)
            # shielded: a batch that is cancelled while the store commits it would be written, and counted, twice
            if not await asyncio.shield(self.flush()):
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> bool:
        """Write everything that waits and return whether the store took it."""
        async with self._flushing:
            return await self._flush()

    async def close(self) -> None:
        """Write what waits, for the last time."""
        if not await self.flush():
            _log.error("intake_lost", verdicts=len(self._waiting))

    async def _flush(self) -> bool:
        while self._waiting:
            batch = list(islice(self._waiting, FLUSH_MESSAGES))
            try:
                added = await self._write(batch)
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the texts stay queued and the task lives
                self._metrics.intake.labels("retried").inc(len(batch))
                reason = error.detail if isinstance(error, LifeguardError) else type(error).__name__
                _log.warning("intake_waits", reason=reason, waiting=len(self._waiting))
                return False
            for _ in batch:
                self._waiting.popleft()
                if self._tracer is not None:
                    self._marks.popleft()
            for fate, number in (("new", added.new), ("repeated", added.repeated), ("dropped_full", added.dropped)):
                self._metrics.intake.labels(fate).inc(number)
            self._metrics.intake_waiting.set(len(self._waiting))
        self._ready.clear()
        return True

    async def _write(self, batch: list[Arrival]) -> Added:
        if self._tracer is None:
            return await self._store.pool.add(batch, max_messages=self._settings.pool_max_messages)
        with self._tracer.writing(list(islice(self._marks, len(batch)))) as fates:
            added = await self._store.pool.add(batch, max_messages=self._settings.pool_max_messages)
            fates.update(new=added.new, repeated=added.repeated, dropped_full=added.dropped)
            return added
