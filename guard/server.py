"""One command for the whole loop: the first model, the learner as a supervised child, and the HTTP server."""

import asyncio
import ctypes
import importlib.util
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from guard import logs, priority
from guard.auth import Access
from guard.errors import BadConfiguration
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store

RESTART_S: Final = 5.0
GRACE_S: Final = 10.0
IDLE_S: Final = 10.0  # a connection without a whole request head for so long is closed
MAX_CONNECTIONS: Final = 8_192  # at once; further ones wait in the kernel until one ends
SPARE_FILES: Final = 512  # for the database, the models and the other half of what the connections need
POLL_S: Final = 0.1
LEAVE: Final = signal.SIGUSR1  # to the serving process: be not ready, and go on serving
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
    child = Child([*_LEARNER, "run"], prepare=_learn_behind) if learner else None
    if child is not None:
        child.start()
    signal.signal(
        LEAVE, signal.SIG_IGN
    )  # inherited by the serving process, which it would end before it is awaited there
    try:
        _http_server(settings).serve()
    except SystemExit:
        _log.error("server_died")
        raise
    finally:
        if child is not None:
            child.stop()
    _log.info("stopped")


class NoticingServer(MPServer):
    """Granian, but its worker is told that it will leave before it is told to.

    Args:
        notice_s: Seconds between the two.
    """

    def __init__(self, *arguments: Any, notice_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._notice_s = notice_s

    def signal_handler_interrupt(self, signum: int, *_: Any) -> None:
        """Stop; at once where a person asks for it from a terminal, which has told the worker too."""
        if signum == signal.SIGINT:
            self._notice_s = 0.0
        super().signal_handler_interrupt()  # type: ignore[no-untyped-call]

    def _stop_workers(self) -> None:
        self.main_loop_interrupt.clear()
        living = [worker for worker in self.wrks if worker.inner.is_alive()]
        for worker in living:
            worker.interrupt_by_parent = True  # whoever signals all processes, as systemd does, ends it meanwhile
            os.kill(worker.inner.pid, LEAVE)
        until = time.monotonic() + self._notice_s
        while time.monotonic() < until and any(worker.inner.is_alive() for worker in living):
            if self.main_loop_interrupt.wait(POLL_S):  # a second signal
                break
        super()._stop_workers()  # type: ignore[no-untyped-call]


def _http_server(settings: GuardSettings) -> MPServer:
    server = NoticingServer(
        "guard.app:serve_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=1,
        websockets=False,
        http=HTTPModes.http1,  # where it may be HTTP/2 too, Granian waits for ever for the first bytes, and closes nothing
        backpressure=_max_connections(),
        log_level=LogLevels.warning,
        log_dictconfig=_GRANIAN_LOGGING,
        http1_settings=HTTP1Settings(header_read_timeout=int(IDLE_S * 1000)),
        workers_kill_timeout=int(settings.drain_s) + 5,
        notice_s=settings.notice_s,
    )
    server.on_startup(lambda: _log.info("starting", host=settings.host, port=settings.port))
    return server


def _max_connections() -> int:
    """Return how many connections are taken at once, after having allowed this process and its heirs the files for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, soft - SPARE_FILES))


class Child:
    """A process that is started again when it dies, and ends with this one.

    Args:
        command: What to run.
        restart_s: Seconds between its death and its next life.
        prepare: Done in the new process before the command; by default `end_with_parent`.
    """

    def __init__(
        self, command: list[str], *, restart_s: float = RESTART_S, prepare: Callable[[], None] | None = None
    ) -> None:
        self._command = command
        self._prepare = prepare or end_with_parent
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
                self._process = subprocess.Popen(self._command, preexec_fn=self._prepare)  # noqa: PLW1509, S603

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


def _learn_behind() -> None:
    """End with the parent, and compute only while nobody else does."""
    end_with_parent()
    priority.give_way(priority.LEARNING)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies, however it dies (Linux)."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
