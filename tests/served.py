"""A real `guard serve` on a free port, as users run it: started, awaited and stopped, with its output kept.

with ServedGuard(tmp_path, audit_rate=1) as guard:
    httpx.post(f"{guard.base_url}/classify", json={"text": "hello"})
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from guard.exports import Exports
from tests.toys import publish_toy

COMMAND = (sys.executable, "-m", "guard.cli", "serve")
POLL_S = 0.02
_SESSION = 3  # the session's place in /proc/PID/stat behind the command's name


class ServedGuard:
    """A guard in processes of its own, without a learner unless the settings say so.

    Args:
        folder: Holds its data (`var`), its versions (`exports`) and its output (`guard.log`).
        command: What to run.
        environment: Further variables.
        ready: Whether to wait until it can classify, or only until it answers.
        settings: Each becomes `GUARD_<NAME>`; mappings become JSON.
    """

    def __init__(
        self,
        folder: Path,
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
        ready: bool = True,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self.data_dir = folder / "var"
        self.exports = Exports(folder / "exports")
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        chosen = {
            "data_dir": self.data_dir,
            "exports_dir": self.exports.folder,
            "port": self.port,
            "learner": False,
            "threads": 1,
            **settings,
        }
        foreign = ("GUARD_", "LEARNER_", "OPENAI_")  # the settings of whoever runs the tests stay out of them
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        self.environment |= {f"GUARD_{k.upper()}": _value(v) for k, v in chosen.items()} | dict(environment or {})
        self._command = list(command)
        self._ready = ready
        self._output = folder / "guard.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started; its children are of the same session."""
        assert self._process is not None, "the guard was not started"
        return self._process

    @property
    def log(self) -> str:
        """Everything it has written to standard output and error so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of `log`, each of which must be one JSON object."""
        return [json.loads(line) for line in self.log.splitlines()]

    @property
    def pids(self) -> list[int]:
        """Its processes that live, the first one before its children."""
        return session_pids(self.process.pid)

    def start(self, *, timeout_s: float = 60) -> Self:
        """Start it and wait for it.

        Raises:
            RuntimeError: It ended instead.
            TimeoutError: It did neither.
        """
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that all its processes can be found, and ended
            )
        try:
            wait_for(self._answers, timeout_s=timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, sent: signal.Signals = signal.SIGTERM, *, timeout_s: float = 30) -> int:
        """Send it a signal, wait for its end and return its exit status; whatever outlives that is killed."""
        process = self.process
        try:
            if process.poll() is None:
                process.send_signal(sent)
            return process.wait(timeout_s)
        finally:
            for pid in self.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def run(self, *arguments: str, timeout_s: float = 60, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `guard …` with the same settings."""
        command = [*COMMAND[:-1], *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False, input=stdin
        )

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the guard ended with {self.process.returncode}:\n{self.log}")
        try:
            status = httpx.get(f"{self.base_url}/readyz", timeout=5).status_code
        except httpx.TransportError:
            return False
        return status == httpx.codes.OK or not self._ready


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGuard]:
    """A served guard with a toy export for the session; import it into a conftest to use it.

    Its toy knows a few words and has no opinion about others, so that one telling word makes the verdict on a sentence.
    """
    guard = ServedGuard(tmp_path_factory.mktemp("served"))
    publish_toy(guard.exports, default=None, strength=60)
    with guard:
        yield guard


def wait_for(holds: Callable[[], bool], *, timeout_s: float = 30) -> None:
    """Poll until something holds.

    Raises:
        TimeoutError: It did not within the time.
    """
    until = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"{getattr(holds, '__name__', holds)} does not hold after {timeout_s} s")
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def session_pids(session: int) -> list[int]:
    """Return the living processes of a session, oldest first (Linux)."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[_SESSION]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return sorted(found)


def rss_bytes(pid: int) -> int:
    """Return the memory a process holds (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def _value(setting: Any) -> str:
    return json.dumps(setting) if isinstance(setting, dict | bool) else str(setting)
