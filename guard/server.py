"""One command for the whole loop: the first model, the learner as a supervised child, and the HTTP server."""

import asyncio
import ctypes
import importlib.util
import signal
import subprocess
import sys
import threading
from typing import Final

import structlog
from granian import Granian
from granian.constants import Interfaces
from granian.http import HTTP1Settings

from guard import logs
from guard.auth import Access
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store

RESTART_S: Final = 5.0
GRACE_S: Final = 10.0
_LEARNER: Final = (sys.executable, "-m", "learner.cli")
_PR_SET_PDEATHSIG: Final = 1

_log = structlog.get_logger()


def serve(settings: GuardSettings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        BadConfiguration: No key but an address that others reach, an unreadable keyring, a newer database.
        StoreUnavailable: The database does not answer.
    """
    logs.configure(settings.log_level)
    asyncio.run(_prepare(settings))
    learner = _learner_installed() and settings.learner
    if learner and Exports(settings.exports_dir).champion() is None:
        subprocess.run([*_LEARNER, "bootstrap"], check=False)  # noqa: S603 - our own command; its progress and its errors are its own to print
    child = Child([*_LEARNER, "run"]) if learner else None
    if child is not None:
        child.start()
    try:
        Granian(
            "guard.app:serve_app",
            address=settings.host,
            port=settings.port,
            interface=Interfaces.ASGI,
            factory=True,
            workers=1,
            websockets=False,
            log_enabled=True,
            log_dictconfig=None,
            http1_settings=HTTP1Settings(header_read_timeout=10_000),
            workers_kill_timeout=int(settings.drain_s) + 5,
        ).serve()
    finally:
        if child is not None:
            child.stop()


class Child:
    """A process that is started again when it dies, and ends with this one.

    Args:
        command: What to run.
        restart_s: Seconds between its death and its next life.
    """

    def __init__(self, command: list[str], *, restart_s: float = RESTART_S) -> None:
        self._command = command
        self._restart_s = restart_s
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="child", daemon=True)

    def start(self) -> None:
        """Start it and watch over it from a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(GRACE_S)

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            self._process = subprocess.Popen(self._command, preexec_fn=_end_with_parent)  # noqa: PLW1509, S603
            status = self._process.wait()
            if self._stopping.is_set():
                return
            _log.warning("child_ended", command=self._command[-1], status=status, restart_s=self._restart_s)
            self._stopping.wait(self._restart_s)


async def _prepare(settings: GuardSettings) -> None:
    """Create keyring and schema, and refuse to serve others without a key, before anything is started."""
    async with open_store(settings, create_keyring=True) as store:
        await Access(store, settings.host).open()


def _learner_installed() -> bool:
    return importlib.util.find_spec("learner") is not None and importlib.util.find_spec("torch") is not None


def _end_with_parent() -> None:
    """Have the kernel end this child when its parent dies, however it dies (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
