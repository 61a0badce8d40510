"""Follows the champion pointer: loads what it names beside the model in service, and swaps when it is sound."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from guard import priority
from guard.bundle import Bundle
from guard.engine import Engine, release_memory
from guard.errors import LifeguardError
from guard.exports import Exports
from guard.metrics import Metrics
from guard.settings import GuardSettings

RETRY_S: Final = 30.0  # a broken champion is tried again, in case its files were still being copied

_log = structlog.get_logger()


class Loader:
    """Loads the versions that a pointer names, off the event loop, and one that is broken no more often than it must.

    Args:
        exports: Holds the versions.
        settings: Provider and artefact.
    """

    def __init__(self, exports: Exports, settings: GuardSettings) -> None:
        self._exports = exports
        self._settings = settings
        self._failed: tuple[str, float] | None = None
        # a thread of its own, since its priority stays low: at full priority a load delays ten answers
        self._thread = ThreadPoolExecutor(1, "loader", lambda: priority.give_way(priority.LOADING))

    async def load(self, version: str) -> Bundle | None:
        """Return a version's bundle; None where it has failed within the last `RETRY_S`.

        Raises:
            LifeguardError: It does not load.
        """
        if self._failed is not None and self._failed[0] == version and time.monotonic() - self._failed[1] < RETRY_S:
            return None
        provider, precision = self._settings.provider, self._settings.artefact
        try:
            load = partial(Bundle.load, self._exports, version, provider=provider, precision=precision)
            bundle = await asyncio.get_running_loop().run_in_executor(self._thread, load)
        except LifeguardError:
            self._failed = (version, time.monotonic())
            raise
        self._failed = None
        return bundle

    def forget(self) -> None:
        """Load what has failed at once when it is asked for again."""
        self._failed = None


class Watcher:
    """Keeps the engine on the champion.

    Args:
        engine: Gets the new bundle.
        exports: Holds the pointer.
        settings: Provider and interval.
        metrics: Told of swaps and failures.
    """

    def __init__(self, engine: Engine, exports: Exports, settings: GuardSettings, metrics: Metrics) -> None:
        self._engine = engine
        self._exports = exports
        self._settings = settings
        self._metrics = metrics
        self._loader = Loader(exports, settings)
        self._swapped = False
        self.problem: str | None = None

    async def run(self) -> None:
        """Look at the pointer for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.watch_interval_ms / 1000)

    async def look(self) -> None:
        """Look once: load and swap when the pointer names another version; a broken one leaves the champion in service."""
        serving = self._engine.bundle.version if self._engine.bundle else None
        try:
            version = await asyncio.to_thread(self._exports.champion)
        except (OSError, ValueError) as error:
            self.problem = f"the champion pointer cannot be read ({type(error).__name__})"
            return
        if version is None or version == serving:
            self.problem = None
            self._loader.forget()
            if self._swapped:  # at the look after a swap: by now the requests that held the bundle before have ended
                self._swapped = False
                await asyncio.to_thread(release_memory)
            return
        try:
            bundle = await self._loader.load(version)
        except LifeguardError as error:
            self.problem = f"the champion does not load: {error.detail}"
            self._metrics.swaps.labels("failed").inc()
            _log.error("swap_failed", version=version[:40], serving=serving, reason=error.detail)
            return
        if bundle is None:
            return
        self._engine.swap(bundle)
        self.problem = None
        self._metrics.swaps.labels("swapped").inc()
        self._swapped = True
        _log.info("swapped", version=version, artefact=bundle.artefact.precision, previous=serving)
