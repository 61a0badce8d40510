"""A second model on a share of live traffic: judged verdicts come in, disagreements are counted and offered to the pool.

It works off the request path, in one thread of low priority, and only while the workers of the engine are idle.
"""

import asyncio
import contextlib
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog

from guard.bundle import Bundle
from guard.decision import Verdict, softmax
from guard.engine import Engine, Judged, release_memory
from guard.errors import LifeguardError
from guard.exports import Exports
from guard.intake import Intake
from guard.logs import frames
from guard.metrics import Metrics
from guard.reading import read
from guard.settings import GuardSettings
from guard.taxonomy import Category
from guard.watcher import Loader

WAITING: Final = 64  # requests; a shadow that falls further behind is not worth their memory
BUSY_S: Final = 0.005
NICENESS: Final = 10  # a tenth of a worker's weight; at 19 a thread that holds the GIL could long be kept off the cores

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A request that was drawn."""

    judged: Judged
    thresholds: Mapping[Category, float]
    user: str | None
    store: bool


class Shadow:
    """Judges a share of the requests a second time, with the version that `exports/shadow` names.

    Args:
        engine: Its workers go first.
        intake: Is offered the texts about which the two disagree.
        exports: Holds the pointer.
        settings: Share, provider and interval.
        metrics: Told of every verdict and every fate.
        sample: Returns a number in [0, 1); decides who is drawn.
    """

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        exports: Exports,
        settings: GuardSettings,
        metrics: Metrics,
        *,
        sample: Callable[[], float] | None = None,
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._exports = exports
        self._settings = settings
        self._metrics = metrics
        self._sample = sample or random.SystemRandom().random  # unpredictable: nobody may choose to be drawn
        self._waiting: queue.Queue[_Drawn | None] = queue.Queue(WAITING)
        self._loader = Loader(exports, settings)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker = threading.Thread(target=self._work, name="shadow", daemon=True)
        self.bundle: Bundle | None = None

    async def run(self) -> None:
        """Follow the pointer for ever; without a share nothing is loaded."""
        while self._settings.shadow_share:
            await self.look()
            await asyncio.sleep(self._settings.watch_interval_ms / 1000)
        await asyncio.Event().wait()

    async def look(self) -> None:
        """Look once: load what the pointer names, let go of what it no longer names or what has become the champion."""
        try:
            version = await asyncio.to_thread(self._exports.shadow)
        except (OSError, ValueError):  # at the next look, perhaps
            return
        champion, current = self._engine.bundle, self.bundle
        if version is None or (champion is not None and version == champion.version):
            if current is not None:
                self._put(None)
                await asyncio.to_thread(release_memory)
            return
        if current is not None and current.version == version:
            return
        try:
            bundle = await self._loader.load(version)
        except LifeguardError as error:
            _log.error("shadow_failed", version=version[:40], reason=error.detail)
            return
        if bundle is not None:
            self._put(bundle)

    def offer(
        self, judged: Judged, *, thresholds: Mapping[Category, float] | None, user: str | None, store: bool
    ) -> None:
        """Draw a request, or do not; one for which there is no room is dropped and counted.

        Args:
            judged: The champion's verdicts.
            thresholds: Those that the request overrode.
            user: The caller's opaque user id.
            store: Whether the texts may enter the pool.
        """
        if self.bundle is None or self._sample() >= self._settings.shadow_share:
            return
        try:
            self._waiting.put_nowait(_Drawn(judged, thresholds or {}, user, store))
        except queue.Full:
            self._metrics.shadow_requests.labels("dropped").inc()

    def close(self) -> None:
        """Stop the thread; what waits is dropped."""
        self._closed = True
        with contextlib.suppress(queue.Full):  # then the thread is awake, or about to be
            self._waiting.put_nowait(None)
        if self._worker.ident is not None:
            self._worker.join()

    def _put(self, bundle: Bundle | None) -> None:
        self.bundle = bundle
        self._loader.forget()
        self._metrics.set_shadow(bundle.version if bundle else None)
        _log.info("shadowed", version=bundle.version if bundle else None)
        if bundle is not None and self._worker.ident is None:
            self._loop = asyncio.get_running_loop()
            self._worker.start()

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # on Linux, of this thread alone
        while (drawn := self._waiting.get()) is not None and not self._closed:
            bundle = self.bundle
            if bundle is None:
                continue
            try:
                verdicts = self._judge(bundle, drawn)
                if verdicts is not None and self._loop is not None:
                    self._loop.call_soon_threadsafe(self._compare, bundle.version, drawn, verdicts)
            except BaseException as error:  # noqa: BLE001 - what a model on trial raises must not end its trial
                self._metrics.shadow_requests.labels("failed").inc()
                _log.warning(
                    "shadow_run_failed", model_version=bundle.version, error=type(error).__name__, frames=frames(error)
                )
            del bundle, drawn  # or they would be kept alive until the next request

    def _judge(self, bundle: Bundle, drawn: _Drawn) -> list[Verdict] | None:
        """Return the shadow's verdicts, made window by window in the pauses of the workers; None when closed meanwhile."""
        limits = {**bundle.thresholds, **drawn.thresholds}
        verdicts = []
        for reading in read(bundle, drawn.judged.texts, max_chars=self._settings.max_text_chars):
            rows = []
            for window in reading.windows:
                while self._engine.busy:
                    if self._closed:
                        return None
                    time.sleep(BUSY_S)
                rows.append(bundle.run([window]).logits)
            verdicts.append(reading.decide(softmax(np.concatenate(rows)), limits)[0])
        return verdicts

    def _compare(self, version: str, drawn: _Drawn, verdicts: list[Verdict]) -> None:
        self._metrics.shadow_requests.labels("scored").inc()
        judged = drawn.judged
        for index, (champion, shadow) in enumerate(zip(judged.verdicts, verdicts, strict=True)):
            self._metrics.shadow_verdicts.labels(version, champion.category, shadow.category).inc()
            if drawn.store and champion.category is not shadow.category:
                self._intake.offer_disputed(judged, index, user=drawn.user, probability=self._settings.shadow_share)
