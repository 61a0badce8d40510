"""One command for the whole loop: the first model, the learner as a supervised child, and the HTTP server."""

import asyncio
import ctypes
import importlib.util
import signal
import socket
import subprocess
import sys
import threading
from typing import Final

import structlog
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from guard import logs
from guard.auth import Access
from guard.errors import BadConfiguration
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store

RESTART_S: Final = 5.0
GRACE_S: Final = 10.0
_LEARNER: Final = (sys.executable, "-m", "learner.cli")
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)  # opened here: between fork and exec nothing may be
# Granian's own handlers would write plain text, with tracebacks in it: everything goes to ours, in guard/logs.py
_GRANIAN_LOGGING: Final = {
    "formatters": {},
    "handlers": {},
    "loggers": {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")},
}

_log = structlog.get_logger()


def serve(settings: GuardSettings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        BadConfiguration: No key but an address that others reach, an unreadable keyring, a newer database, a taken port.
        StoreUnavailable: The database does not answer.
    """
    logs.configure(settings.log_level)
    asyncio.run(_prepare(settings))
    _check_port(settings.host, settings.port)
    learner = _learner_installed() and settings.learner
    if learner and Exports(settings.exports_dir).champion() is None:
        # its progress and its errors are its own to print; the learner follows it with a fine-tuned one
        subprocess.run([*_LEARNER, "bootstrap", "--quick"], check=False, preexec_fn=end_with_parent)  # noqa: S603
    child = Child([*_LEARNER, "run"]) if learner else None
    if child is not None:
        child.start()
    try:
        _http_server(settings).serve()
    except SystemExit:
        _log.error("server_died")
        raise
    finally:
        if child is not None:
            child.stop()
    _log.info("stopped")


def _http_server(settings: GuardSettings) -> MPServer:
    server = MPServer(
        "guard.app:serve_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=1,
        websockets=False,
        log_level=LogLevels.warning,
        log_dictconfig=_GRANIAN_LOGGING,
        http1_settings=HTTP1Settings(header_read_timeout=10_000),
        workers_kill_timeout=int(settings.drain_s) + 5,
    )
    server.on_startup(lambda: _log.info("starting", host=settings.host, port=settings.port))
    return server


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
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="child", daemon=True)

    def start(self) -> None:
        """Start it and watch over it from a thread.

        Call it before anything else forks: a process forked while this one starts would keep the pipe open through
        which its start is reported, and that report would be waited for as long as the other lives.
        """
        self._live()
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and end it when it does not."""
        with self._starting:
            self._stopping.set()
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(GRACE_S)

    def _live(self) -> None:
        with self._starting:
            if not self._stopping.is_set():
                self._process = subprocess.Popen(self._command, preexec_fn=end_with_parent)  # noqa: PLW1509, S603

    def _supervise(self) -> None:
        while True:
            status = self._process.wait() if self._process is not None else None
            if self._stopping.is_set():
                return
            _log.warning("child_ended", command=self._command[-1], status=status, restart_s=self._restart_s)
            self._stopping.wait(self._restart_s)
            try:
                self._live()
            except OSError as error:  # no memory or no processes left: perhaps there are at the next try
                _log.warning("child_not_started", command=self._command[-1], error=type(error).__name__)


async def _prepare(settings: GuardSettings) -> None:
    """Create keyring and schema, and refuse to serve others without a key, before anything is started."""
    async with open_store(settings, create_keyring=True) as store:
        await Access(store, settings.host).open()


def _check_port(host: str, port: int) -> None:
    """Refuse a port that somebody listens on: Granian would share it with them, and each would get some requests."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise BadConfiguration(
            f"{host}:{port} cannot be listened on ({error.strerror}): set GUARD_HOST or GUARD_PORT to another."
        ) from None


def _learner_installed() -> bool:
    return importlib.util.find_spec("learner") is not None and importlib.util.find_spec("torch") is not None


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however it dies (Linux)."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
