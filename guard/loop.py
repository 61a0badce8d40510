"""The loop as operators see it: read from the store into the gauges whenever somebody scrapes."""

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog

from guard.alike import overall
from guard.errors import LifeguardError
from guard.metrics import Metrics
from guard.shares import holding
from guard.store import Store
from guard.store.lease import LEARNER
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.taxonomy import Category

FRESH_S: Final = 2.0  # scrapes closer together share one reading
WAIT_S: Final = 2.0  # a scrape waits no longer: the other series matter most while the store is in trouble

_log = structlog.get_logger()


class LoopGauges:
    """Brings the loop's gauges up to date.

    Args:
        store: Where the loop is written down.
        metrics: Holds the gauges.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Read the store unless that was just done; a store that does not answer shows as `guard_store_up 0`."""
        if self._reading is None:
            if time.monotonic() - self._read_at < FRESH_S:
                return
            self._reading = asyncio.create_task(self._try())
        _, late = await asyncio.wait({self._reading}, timeout=WAIT_S)
        if late:
            self._metrics.store_up.set(0)

    async def close(self) -> None:
        """Wait for a reading under way."""
        if self._reading is not None:
            await self._reading

    async def _try(self) -> None:
        up = False
        try:
            await self._read()
            up = True
        except LifeguardError as error:
            _log.warning("loop_unread", reason=error.detail)
        finally:
            self._metrics.store_up.set(up)
            self._read_at = time.monotonic()
            self._reading = None

    async def _read(self) -> None:
        store, metrics, now = self._store, self._metrics, self._store.clock()
        metrics.set_states(await store.pool.counts(), await store.cycles.counts())
        oldest = await store.pool.oldest()
        metrics.pool_age_seconds.set((now - oldest).total_seconds() if oldest else 0)
        labels = await store.review.label_counts()
        for category in Category:
            metrics.labels.labels(category).set(labels.get(category, 0))
        metrics.labels.labels("unclear").set(labels.get(None, 0))
        metrics.labels_spent.set(await store.cycles.labels_spent())
        for fate, number in (await store.cycles.variation_fates()).items():
            metrics.variations.labels(fate).set(number)
        metrics.set_holding(holding(await store.pairs.strata()))
        self._show(await store.cycles.recent(), now)
        batch = await store.review.batch()
        if batch is not None:
            for state in ("labelled", "unclear", "contested", "waiting", "held"):
                metrics.batch.labels(state).set(getattr(batch, state))
        metrics.review_conflicts.set(await store.conflicts.count())
        metrics.set_agreement(overall(await store.conflicts.doubled()))
        judged = await store.cycles.last_judged()
        if judged is not None and judged.challenger is not None:
            metrics.set_gate(judged.challenger, judged.figures.get("gate", {}))
        metrics.set_reviewed_errors(await store.figures.reviewed_errors())
        metrics.set_figures(await store.figures.latest())
        expires_at = await store.leases.expires_at(LEARNER)
        if expires_at is not None:
            metrics.learner_lease_seconds.set((expires_at - now).total_seconds())

    def _show(self, cycles: Sequence[Cycle], now: datetime) -> None:
        """Show where the open cycle is, and how the latest stage of variations ended."""
        metrics = self._metrics
        metrics.cycle_stage_seconds.clear()
        metrics.cycle_due_seconds.clear()
        for cycle in cycles[:1]:
            if not cycle.state.ended:
                since = datetime.fromisoformat(cycle.timeline[-1]["started_at"])
                metrics.cycle_stage_seconds.labels(cycle.state).set((now - since).total_seconds())
            if cycle.state is CycleState.LABELLING:
                metrics.cycle_due_seconds.labels(cycle.state).set((cycle.due_at - now).total_seconds())
        varied = next((cycle for cycle in cycles if "generation" in cycle.figures), None)
        if varied is not None:
            metrics.set_generation(varied.figures["generation"])
