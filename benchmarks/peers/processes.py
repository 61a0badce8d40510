"""Servers as processes: started, awaited, stopped for a while so that they take nothing from others, their CPU counted."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from benchmarks.peers.environments import Unavailable
from tests.served import POLL_S, rss_bytes

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_START_S: Final = 180.0
_STOP_S: Final = 15.0
# places behind the command's name in /proc/PID/stat
_PARENT: Final = 1
_TIMES: Final = slice(11, 15)  # utime, stime, cutime, cstime


class Server:
    """A peer's server, in a session of its own.

    Args:
        command: What to run.
        environment: All of its variables.
        folder: Where it runs; its output goes to `output.log` there.
        port: On which it will listen.
        answers: Whether it answers yet.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        port: int,
        answers: Callable[[], bool],
    ) -> None:
        self._command, self._environment, self._folder = list(command), dict(environment), folder
        self._port, self._answers = port, answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""
        return self._port

    @property
    def pids(self) -> list[int]:
        """Its living processes."""
        assert self._process is not None, "the server was not started"
        return family(self._process.pid)

    def __enter__(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            Unavailable: It ended instead, or did not answer in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "output.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait(log)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and all its processes; once is enough."""
        assert self._process is not None
        send(self.pids, signal.SIGCONT)
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        send(self.pids, signal.SIGKILL)
        self._process.wait()

    def _wait(self, log: Path) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None:
                raise Unavailable(f"it ended with {self._process.returncode}: {_last_line(log)}")
            if time.monotonic() > until:
                raise Unavailable(f"it did not answer within {_START_S:.0f} s: {_last_line(log)}")
            time.sleep(10 * POLL_S)


def family(first: int) -> list[int]:
    """Return a process and all that descend from it, oldest first; those that have ended are left out (Linux)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))) and fields[0] != "Z":
            children.setdefault(int(fields[_PARENT]), []).append(int(folder.name))
    found, waiting = [], [first]
    while waiting:
        found.append(waiting.pop(0))
        waiting += children.get(found[-1], [])
    return [pid for pid in found if _stat(pid)]


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU seconds that processes and their ended children have taken."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, _stat(pid)[_TIMES]))
    return ticks / _TICKS


def memory_mb(pids: Sequence[int]) -> float:
    """Return the memory that processes hold, in MB; what they share counts for each."""
    total = 0
    for pid in pids:
        with suppress(OSError, StopIteration):
            total += rss_bytes(pid)
    return total / 2**20


def send(pids: Sequence[int], sent: signal.Signals) -> None:
    """Send processes a signal; one that has ended is passed over."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, sent)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return []
