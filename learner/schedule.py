"""One learner process: it takes the lease, keeps it, and takes the cycle on whenever there is something to do.

`cycle.Loop` says what that is. Of several learners one acts; the others wait for its lease to end.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from guard.errors import Conflict, LifeguardError, StoreUnavailable
from guard.exports import Exports
from guard.logs import frames
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.lease import LEARNER
from guard.store.states import CycleState
from learner.cycle import Loop, Step
from learner.selection import strategy
from learner.settings import LearnerSettings
from learner.work import Work

RETENTION_EVERY: Final = timedelta(hours=1)
ESTIMATE_EVERY: Final = timedelta(hours=1)
_RENEWALS: Final = 3  # in the life of a lease: two may be missed

_log = structlog.get_logger()


class Schedule:
    """Steps through the loop while it holds the lease.

    Args:
        store: Holds the lease, too.
        exports: Where the models are.
        settings: Interval and lease.
        guard: Retention.
        work: Does what the stages consist of.
        tell: Told of every step.
    """

    def __init__(
        self,
        store: Store,
        exports: Exports,
        settings: LearnerSettings,
        guard: GuardSettings,
        work: Work,
        *,
        tell: Callable[[Step], None] = lambda _: None,
    ) -> None:
        strategy(settings.strategy)  # a name that does not exist is found now, not when a batch is due
        self._store = store
        self._exports = exports
        self._settings = settings
        self._guard = guard
        self._work = work
        self._tell = tell
        self._holder = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._ttl = timedelta(seconds=settings.lease_s)
        self._fence: int | None = None
        self._renewing = asyncio.Lock()
        self._turn: asyncio.Task[None] | None = None
        self._bootstrapped = False
        self._expired_at: datetime | None = None
        self._estimated_at: datetime | None = None
        self._waits_for: str | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Look for something to do every `tick_s`, until told to stop; then give the lease back.

        A stage that computes in a thread is left to itself: what it has not recorded, the next learner does again.
        """
        async with self._on_duty() as scheduler:
            now = datetime.now(UTC)
            scheduler.add_job(self._tick, "interval", seconds=self._settings.tick_s, next_run_time=now)
            await stop.wait()

    async def once(self) -> None:
        """Take the loop as far as it goes without people.

        Raises:
            Conflict: Another learner holds the lease, or has taken it over.
            StoreUnavailable: The database does not answer.
        """
        if not await self._take():
            raise Conflict("A learner is at work and will do this by itself: see `learner status`.")
        async with self._on_duty():
            self._turn = asyncio.create_task(self._go(by_hand=True))
            await asyncio.wait([self._turn])
            if self._turn.cancelled():
                raise Conflict("Another learner has taken over: see `learner status`.")
            self._turn.result()

    @asynccontextmanager
    async def _on_duty(self) -> AsyncIterator[AsyncIOScheduler]:
        """Yield a scheduler that renews the lease; afterwards stop what runs and give the lease back."""
        # a skipped tick is no news, and what a job raises is told by `_report`
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        scheduler = AsyncIOScheduler(timezone=UTC, job_defaults=defaults)
        scheduler.add_job(self._renew, "interval", seconds=self._settings.lease_s / _RENEWALS)
        scheduler.start()
        try:
            yield scheduler
        finally:
            scheduler.remove_all_jobs()
            if self._turn is not None:
                self._turn.cancel()
                await asyncio.wait([self._turn])
            async with self._renewing:
                fence, self._fence = self._fence, None
                if fence is not None:
                    with suppress(StoreUnavailable):  # then it expires
                        await self._store.leases.release(LEARNER, fence=fence)
            scheduler.shutdown(wait=False)
            await asyncio.sleep(0)  # it stops in the loop's next turn

    async def _tick(self) -> None:
        """Begin a turn unless one is under way: a stage may take longer than the interval."""
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._serve_turn())
            self._turn.add_done_callback(_report)

    async def _serve_turn(self) -> None:
        try:
            if self._fence is None and not await self._take():
                return
            await self._expire()
            await self._estimate()
            await self._bootstrap()
            await self._go()
        except Conflict:
            await self._renew()  # whether it was the lease; if not, the stage is done again with what is true now
        except StoreUnavailable as error:
            _log.warning("store_unavailable", detail=error.detail)

    async def _go(self, *, by_hand: bool = False) -> None:
        """Step until there is something to wait for."""
        if self._fence is None:
            return
        loop = Loop(self._store, self._exports, self._settings, self._work, fence=self._fence, by_hand=by_hand)
        while True:
            step = await loop.step()
            self._tell(step)
            if step.waits_for is None:
                self._estimated_at = None
                await self._estimate()
            if step.waits_for is not None or (by_hand and step.state is CycleState.FAILED):
                break
        if step.waits_for != self._waits_for:
            self._waits_for = step.waits_for
            _log.info("waiting", cycle=step.cycle_id, reason=step.waits_for)

    async def _bootstrap(self) -> None:
        """Make the first model where there is none, and then a better one; tried once, for what fails now fails again."""
        if self._bootstrapped:
            return
        self._bootstrapped = True
        if self._exports.champion() is None:
            _log.info("bootstrapped", version=await self._work.bootstrap())
        if (version := await self._work.refine()) is not None:
            _log.info("refined", version=version)

    async def _take(self) -> bool:
        self._fence = await self._store.leases.acquire(LEARNER, self._holder, ttl=self._ttl)
        if self._fence is not None:
            _log.info("lease_taken", holder=self._holder, fence=self._fence)
        return self._fence is not None

    async def _renew(self) -> None:
        """Prolong the lease; stop at once when it was lost."""
        async with self._renewing:
            if self._fence is None:
                return
            try:
                held = await self._store.leases.renew(LEARNER, fence=self._fence, ttl=self._ttl)
            except StoreUnavailable as error:  # nobody else can take it either
                _log.warning("store_unavailable", detail=error.detail)
                return
            if not held:
                _log.warning("lease_lost", holder=self._holder, fence=self._fence)
                self._fence = None
                if self._turn is not None:
                    self._turn.cancel()

    async def _expire(self) -> None:
        """Delete what is past its retention, messages and models, once in a while."""
        now = self._store.clock()
        if self._expired_at is not None and now - self._expired_at < RETENTION_EVERY:
            return
        expired = await self._store.pool.expire(
            retention=timedelta(days=self._guard.retention_days),
            labelled_retention=timedelta(days=self._guard.labelled_retention_days),
        )
        pruned = await asyncio.to_thread(self._exports.prune, self._settings.exports_kept)
        if pruned:
            _log.info("exports_pruned", versions=pruned)
        self._expired_at = now
        if expired:
            _log.info("messages_expired", messages=expired)

    async def _estimate(self) -> None:
        """Write down how often the guard is wrong: after every step, and once in a while for the verdicts of meanwhile."""
        from learner.monitor import estimate  # scipy takes a moment to load

        now = self._store.clock()
        if self._fence is None or (self._estimated_at is not None and now - self._estimated_at < ESTIMATE_EVERY):
            return
        days = min(self._settings.estimate_days, self._guard.retention_days)
        await self._store.figures.replace(await estimate(self._store, days=days), fence=self._fence)
        self._estimated_at = now


def _report(turn: asyncio.Task[None]) -> None:
    """Tell of a turn that ended in an error nobody expected; the next tick begins another."""
    if not turn.cancelled() and (error := turn.exception()) is not None:
        detail = error.detail if isinstance(error, LifeguardError) else None  # only ours are known to have no text
        _log.error("turn_failed", error=type(error).__name__, detail=detail, frames=frames(error))


async def run(settings: LearnerSettings, guard: GuardSettings) -> None:
    """Learn until SIGTERM or SIGINT.

    Raises:
        BadConfiguration: A setting cannot work, or there is no keyring.
        StoreUnavailable: The database does not answer at the start.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    exports = Exports(guard.exports_dir)
    async with open_store(guard) as store:
        await Schedule(store, exports, settings, guard, Work(store, exports, settings)).serve(stop)
