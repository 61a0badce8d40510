"""A light HTTP/1.1 load generator: ready requests come in, when each was due, answered and how goes out.

One thread, one epoll, keep-alive without pipelining. It shares the cores with what it measures, so it counts its own CPU.
"""

import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

OK: Final = 200
LOST: Final = 0  # the status of a request that was never answered
_TIMEOUT_S: Final = 5.0
_DRAIN_S: Final = 30.0  # what is under way at the end is waited for so long
_READ_BYTES: Final = 65_536

Seen = Callable[[int, int, bytes], None]


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the generator saw, one row a request, in the order of the answers.

    Args:
        due_s: `(n,)` seconds since the run began at which a request was due.
        latency_s: `(n,)` seconds from then to the end of its answer: waiting for a free connection counts.
        status: `(n,)` HTTP status, `LOST` where none came.
        seconds: How long requests were sent.
        cpu_s: CPU time of the generator's process.
        resent: Requests sent again because the server had closed an idle connection just then.
    """

    due_s: npt.NDArray[np.float64]
    latency_s: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]
    seconds: float
    cpu_s: float
    resent: int = 0

    @property
    def answered(self) -> int:
        """Requests answered with 200, however late."""
        return int((self.status == OK).sum())

    @property
    def failed(self) -> int:
        """All others."""
        return len(self.status) - self.answered

    @property
    def per_s(self) -> float:
        """Requests answered with 200 a second, until the last answer came."""
        ended_s = float((self.due_s + self.latency_s).max(initial=self.seconds))
        return self.answered / ended_s

    def latency_ms(self, quantile: float) -> float:
        """Return a quantile of the latencies of what was answered with 200; NaN when nothing was."""
        good = self.latency_s[self.status == OK]
        return float(np.quantile(good, quantile)) * 1000 if len(good) else float("nan")


def post(path: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole POST request with a JSON body."""
    content = msgspec.json.encode(body)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Return the seconds at which requests of a Poisson process of that rate fall due, in order."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / rate, size=int(rate * seconds + 6 * (rate * seconds) ** 0.5 + 10))
    due = np.cumsum(gaps)
    return np.asarray(due[due < seconds])


def closed_loop(
    port: int, requests: Sequence[bytes], *, at_once: int, seconds: float, seen: Seen | None = None
) -> Load:
    """Keep so many requests under way for a while; they are sent in order, again and again.

    Args:
        port: Of 127.0.0.1.
        requests: Whole ones, as `post` makes them.
        at_once: Connections; each asks again as soon as it is answered.
        seconds: After that nothing new is sent, and what is under way is waited for.
        seen: Given the number of each request, its status and the body of its answer.
    """
    return _Drive(port, requests, seconds, due=None, limit=at_once, seen=seen).run()


def open_loop(
    port: int, requests: Sequence[bytes], *, due: npt.NDArray[np.float64], limit: int = 256, seen: Seen | None = None
) -> Load:
    """Send requests when they fall due, whether or not the ones before were answered.

    Args:
        port: Of 127.0.0.1.
        requests: As for `closed_loop`.
        due: `(n,)` seconds, in order.
        limit: Connections at most; what is due while all are busy waits, and the wait counts.
        seen: As for `closed_loop`.
    """
    return _Drive(port, requests, float(due[-1]), due=due, limit=limit, seen=seen).run()


class _Connection:
    """One connection and the request under way on it."""

    __slots__ = ("buffer", "due", "number", "socket", "used")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.number = -1
        self.due = 0.0
        self.used = False


class _Drive:
    """One run."""

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        seconds: float,
        *,
        due: npt.NDArray[np.float64] | None,
        limit: int,
        seen: Seen | None,
    ) -> None:
        self._port, self._requests, self._seconds, self._limit, self._seen = port, requests, seconds, limit, seen
        self._due = None if due is None else due.tolist()
        self._numbers = count()
        self._sent = 0
        self._idle: list[_Connection] = []
        self._busy: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._rows: list[tuple[float, float, int]] = []
        self._resent = 0
        self._began = 0.0

    def run(self) -> Load:
        cpu_s = time.process_time()
        self._began = time.perf_counter()
        try:
            self._loop()
        finally:
            for connection in (*self._idle, *self._busy.values()):
                connection.socket.close()
            self._epoll.close()
        cpu_s = time.process_time() - cpu_s
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 3)
        return Load(rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64), self._seconds, cpu_s, self._resent)

    def _loop(self) -> None:
        waits = [self._epoll.fileno()]
        while True:
            now = self._now()
            self._send_due(now)
            wait_s = self._next_due(now)
            if wait_s is None and not self._busy:
                return
            if now > self._seconds + _DRAIN_S and self._busy:
                for connection in list(self._busy.values()):
                    self._lose(connection)
                continue
            # epoll counts in milliseconds; select, on the epoll itself, in microseconds
            if select.select(waits, (), (), max(0.0, 0.1 if wait_s is None else min(0.1, wait_s)))[0]:
                for descriptor, _ in self._epoll.poll(0):
                    self._receive(self._busy[descriptor])

    def _now(self) -> float:
        return time.perf_counter() - self._began

    def _next_due(self, now: float) -> float | None:
        """Return the seconds until something may be sent without an answer before it; None when there is nothing."""
        if self._due is None:
            return self._seconds - now if now < self._seconds and len(self._busy) < self._limit else None
        if self._sent == len(self._due):
            return None
        return 0.1 if len(self._busy) == self._limit else self._due[self._sent] - now

    def _send_due(self, now: float) -> None:
        if self._due is None:
            while now < self._seconds and len(self._busy) < self._limit:
                self._send(now)
            return
        while self._sent < len(self._due) and self._due[self._sent] <= now and len(self._busy) < self._limit:
            self._send(self._due[self._sent])

    def _send(self, due: float) -> None:
        number = next(self._numbers)
        self._sent += 1
        while True:
            try:
                connection = self._idle.pop() if self._idle else _Connection(self._port)  # the one used last
            except OSError:
                self._note(number, due, LOST, b"")
                return
            connection.number, connection.due = number, due
            if self._write(connection):
                return

    def _write(self, connection: _Connection) -> bool:
        """Send a connection's request; False when the server has closed it meanwhile."""
        request = self._requests[connection.number % len(self._requests)]
        try:
            sent = connection.socket.send(request)
            while sent < len(request):  # a request larger than the socket's buffer: no more than milliseconds
                select.select((), [connection.socket], (), _TIMEOUT_S)
                sent += connection.socket.send(request[sent:])
        except OSError:
            connection.socket.close()
            return False
        descriptor = connection.socket.fileno()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._busy[descriptor] = connection
        return True

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hung_up(connection)
            return
        connection.buffer += data
        answer = parse(connection.buffer)
        if answer is None:
            return
        status, body, keep = answer
        self._release(connection)
        self._note(connection.number, connection.due, status, body)
        connection.buffer, connection.used = b"", True
        if keep:
            self._idle.append(connection)
        else:
            connection.socket.close()

    def _hung_up(self, connection: _Connection) -> None:
        if connection.used and not connection.buffer:  # it was idle too long for the server: as clients do, ask anew
            self._release(connection)
            connection.socket.close()
            with suppress(OSError):
                fresh = _Connection(self._port)
                fresh.number, fresh.due = connection.number, connection.due
                self._resent += 1
                if self._write(fresh):
                    return
            self._note(connection.number, connection.due, LOST, b"")
            return
        self._lose(connection)

    def _lose(self, connection: _Connection) -> None:
        self._release(connection)
        connection.socket.close()
        self._note(connection.number, connection.due, LOST, b"")

    def _release(self, connection: _Connection) -> None:
        descriptor = connection.socket.fileno()
        self._epoll.unregister(descriptor)
        del self._busy[descriptor]

    def _note(self, number: int, due: float, status: int, body: bytes) -> None:
        self._rows.append((due, self._now() - due, status))
        if self._seen is not None:
            self._seen(number, status, body)


def parse(buffer: bytes) -> tuple[int, bytes, bool] | None:
    """Return status, body and whether the connection stays open; None while an answer is incomplete.

    Raises:
        ValueError: It is no HTTP answer.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, body = buffer[:end].lower() + b"\r\n", buffer[end + 4 :]
    if not head.startswith(b"http/1."):
        raise ValueError(f"The server answers {head[:20]!r}, which is no HTTP/1 answer.")
    keep = b"\r\nconnection: close" not in head
    place = head.find(b"\r\ncontent-length:")
    if place >= 0:
        length = int(head[place + 17 : head.index(b"\r\n", place + 17)])
        return None if len(body) < length else (int(head[9:12]), body[:length], keep)
    if b"\r\ntransfer-encoding: chunked" not in head:
        raise ValueError("The server's answer has no length.")
    return (int(head[9:12]), _joined(body), keep) if body.endswith(b"0\r\n\r\n") else None


def _joined(chunks: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, _, chunks = chunks.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            return b"".join(parts)
        parts.append(chunks[:length])
        chunks = chunks[length + 2 :]
