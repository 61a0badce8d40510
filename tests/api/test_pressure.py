"""More work than can be done: who has gone costs nothing, who comes too late is told at once, nobody holds up the others."""

import json
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.schemas import DEADLINE_HEADER
from tests.api.conftest import Running
from tests.served import ServedGuard, wait_for
from tests.toys import publish_toy

# a guard whose runs last as long as the file is there
_OCCUPIED = """
import os, time
from guard import cli
from guard.bundle import Bundle
run = Bundle.run
def wait_and_run(self, windows):
    while os.path.exists({busy!r}):
        open({taken!r}, "w").close()
        time.sleep(0.002)
    return run(self, windows)
Bundle.run = wait_and_run
cli.app(["serve"])
"""


class OccupiedGuard(ServedGuard):
    """A guard with one worker thread that can be kept busy."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._busy, self._taken = folder / "busy", folder / "taken"
        script = _OCCUPIED.format(busy=str(self._busy), taken=str(self._taken))
        super().__init__(folder, command=[sys.executable, "-c", script], **settings)
        publish_toy(self.exports)

    @contextmanager
    def occupied(self) -> Iterator[socket.socket]:
        """Keep its worker busy with the request on this connection."""
        self._taken.unlink(missing_ok=True)
        self._busy.touch()
        try:
            with self.asked(text="hello") as first:
                wait_for(self._taken.exists)
                yield first
        finally:
            self._busy.unlink(missing_ok=True)

    def release(self) -> None:
        """Let its worker go on."""
        self._busy.unlink()

    def asked(self, **body: object) -> socket.socket:
        """Send a request and do not wait for its answer."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        content = json.dumps(body)
        connection.sendall(
            f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
        )
        return connection

    def series(self, name: str) -> float:
        """Return the value of a series, named as it is exposed; 0 where it is not."""
        lines = httpx.get(f"{self.base_url}/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def answered(self, status: int) -> float:
        """Return how many requests to judge were answered with this status."""
        return self.series(f'guard_requests_total{{method="POST",route="/classify",status="{status}"}}')


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OccupiedGuard]:
    """A guard that has room for 200 short texts; runs that were held up make it expect long waits, so it gives an hour."""
    made = OccupiedGuard(tmp_path_factory.mktemp("occupied"), max_queue_tokens=600, deadline_ms=3_600_000)
    with made:
        yield made


def _status(connection: socket.socket) -> int:
    return int(connection.recv(65536).split()[1])


# deadlines


@pytest.mark.parametrize("value", ["", "0", "000", "-5", "1.5", "1e3", "soon", "1" * 13, "²", "5,5"])
@pytest.mark.asyncio(loop_scope="module")
async def test_deadline_that_is_none(resident: Running, value: str) -> None:
    """A deadline that is no whole number of milliseconds is a 400 that names the limit and repeats nothing."""
    answer = await resident.client.post(
        "/classify", json={"text": "hello"}, headers={DEADLINE_HEADER.encode(): value.encode()}
    )
    assert (answer.status_code, answer.json()["title"]) == (400, "Invalid request")
    assert all(word in answer.json()["detail"] for word in (DEADLINE_HEADER, "at least 1", "5000", "GUARD_DEADLINE_MS"))


@pytest.mark.parametrize("value", ["1000", "0999", "9" * 12])
@pytest.mark.asyncio(loop_scope="module")
async def test_deadline_that_is_met(resident: Running, value: str) -> None:
    """A deadline that can be met changes nothing, however far away it is."""
    answer = await resident.client.post("/classify", json={"text": "hello"}, headers={DEADLINE_HEADER: value})
    assert answer.status_code == 200


@pytest.mark.asyncio(loop_scope="module")
async def test_deadline_is_documented(resident: Running) -> None:
    """Each route that judges says that it takes a deadline; the others do not."""
    paths = (await resident.client.get("/docs/openapi.json")).json()["paths"]
    taking = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if any(p["name"] == DEADLINE_HEADER and p["in"] == "header" for p in operation.get("parameters", ()))
    }
    assert taking == {path for path in paths if path.startswith(("/classify", "/v1/", "/beta/"))}


@pytest.mark.slow
def test_callers_deadline(guard: OccupiedGuard) -> None:
    """What its caller waits for no longer is answered then, is not run, and holds no room."""
    with guard.occupied() as first:
        runs = guard.series("guard_run_windows_sum")
        began = time.monotonic()
        answer = httpx.post(
            f"{guard.base_url}/classify", json={"texts": ["joke"] * 9}, headers={DEADLINE_HEADER: "200"}
        )
        assert 0.15 < time.monotonic() - began < 5
        assert (answer.status_code, answer.json()["title"]) == (503, "Out of time")
        assert guard.series("guard_queue_tokens") == 0
        guard.release()
        assert _status(first) == 200
    assert guard.series("guard_run_windows_sum") == runs + 1


# clients that go away


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_have_gone(guard: OccupiedGuard, reset: bool) -> None:  # noqa: FBT001
    """What clients had waiting who closed their connections is never run; their room is free at once."""
    with guard.occupied() as first:
        runs, gone = guard.series("guard_run_windows_sum"), guard.answered(499)
        clients = [guard.asked(text="joke") for _ in range(40)]
        wait_for(lambda: guard.series("guard_queue_tokens") == 40 * 3)
        for client in clients:
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        wait_for(lambda: guard.series("guard_queue_tokens") == 0)
        assert guard.answered(499) == gone + 40
        guard.release()
        assert _status(first) == 200
    assert guard.series("guard_run_windows_sum") == runs + 1
    assert "unexpected" not in guard.log


@pytest.mark.slow
def test_clients_that_stay(guard: OccupiedGuard) -> None:
    """Those who wait beside clients that go away get their answers."""
    with guard.occupied() as first, ExitStack() as stack:
        waiting = [stack.enter_context(guard.asked(text="hello")) for _ in range(10)]
        for _ in range(10):
            guard.asked(text="joke").close()
        wait_for(lambda: guard.series("guard_queue_tokens") == 10 * 3)
        guard.release()
        assert {_status(connection) for connection in (first, *waiting)} == {200}


# overload


@pytest.mark.slow
def test_full(guard: OccupiedGuard) -> None:
    """A guard refuses at once what it has no room or no time for, says when to come again, and answers what it took."""
    with guard.occupied() as first, ExitStack() as stack:
        before = guard.answered(503)
        clients = [stack.enter_context(guard.asked(text="hello")) for _ in range(400)]
        wait_for(lambda: guard.answered(503) - before + guard.series("guard_queue_tokens") / 3 == 400)
        taken = guard.series("guard_queue_tokens") / 3
        assert 1 <= taken <= 200
        guard.release()
        answers = [client.recv(65536) for client in (first, *clients)]
    refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503")]
    assert len(refused) == 400 - taken
    assert all(b'"title":"Overloaded"' in answer for answer in refused)
    assert all(int(re.findall(rb"retry-after: (\d+)\r\n", answer)[0]) >= 1 for answer in refused)
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers if answer not in refused)
    assert httpx.post(f"{guard.base_url}/classify", json={"text": "hello"}).status_code == 200


# connections that are held open


_UNFINISHED = (
    b"",
    b"POST /classify HT",
    b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le",
    b'POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"text": ',
    b"GET /static/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",  # 1.5 MB that nobody reads
)


@pytest.mark.slow
def test_held_connections(served: ServedGuard) -> None:
    """Beside 500 connections that send nothing, half a request, or read nothing, others are answered as if alone."""
    with ExitStack() as stack:
        for number in range(500):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", served.port))
            connection.sendall(_UNFINISHED[number % 50 // 12])  # twenty of them ask for the large file
        for _ in range(20):
            began = time.monotonic()
            answer = httpx.post(f"{served.base_url}/classify", json={"text": "hello"})
            assert answer.status_code == 200
            assert time.monotonic() - began < 2


_IMPATIENT = """
import guard.server
guard.server.IDLE_S = 0.5
guard.server.MAX_CONNECTIONS = 32
guard.server.serve(guard.server.GuardSettings())
"""


@pytest.mark.slow
def test_idle_connections_are_closed(tmp_path: Path) -> None:
    """A connection on which no request comes is closed, new or used, so that who holds all of them holds them briefly."""
    guard = ServedGuard(tmp_path, command=[sys.executable, "-c", _IMPATIENT])
    publish_toy(guard.exports)
    with guard, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", guard.port))) for _ in range(32)]
        held[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert _status(held[0]) == 200
        assert httpx.post(f"{guard.base_url}/classify", json={"text": "hello"}, timeout=30).status_code == 200
        for connection in held:
            connection.settimeout(30)
            assert connection.recv(1024) == b""
