"""A TCP server on loopback that does to each request what its script says, however wrong that is.

    with Misbehaving(answer(503), answer(200, verdicts("hello"))) as server:
        Client(server.base_url, on_failure="block")

The last behaviour of the script stays for all requests that follow. A behaviour gets the connection and an event that
is set when the server closes; when it returns False the connection is closed, else the next request is read from it.
"""

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from guard.schemas import ClassifyResponse, Result
from guard.taxonomy import CATEGORIES, Category

Behaviour = Callable[[socket.socket, threading.Event], bool]
DRIP_S = 0.005


@dataclass(frozen=True)
class Received:
    """What a client sent; the names of its headers in lower case."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return msgspec.json.decode(self.body)


class Misbehaving:
    """The server, on a free port while the context is open."""

    def __init__(self, *script: Behaviour) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.arrived = threading.Semaphore(0)  # to be acquired once for each request
        self._script = list(script)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def base_url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client has left already
                    connection.shutdown(socket.SHUT_RD)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        stays = True
        try:
            with connection.makefile("rb") as stream:
                while stays and (request := _read(stream)) is not None:
                    with self._lock:
                        self.received.append(request)
                        behave = self._script.pop(0) if len(self._script) > 1 else self._script[0]
                    self.arrived.release()
                    stays = behave(connection, self._closing)
        except OSError:  # the client has left
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer in full and keep the connection; underscores in a header's name become hyphens."""

    def behave(connection: socket.socket, _: threading.Event) -> bool:
        connection.sendall(_head(status, len(body), **headers) + body)
        return True

    return behave


def verdicts(*categories: Category, **changes: Any) -> bytes:
    """Return the body of a guard's answer, with a verdict for each category, changed as told."""
    results = [
        Result(
            category=category,
            flagged=category is not Category.NOT_HARMFUL,
            action=changes.get("action", "escalate"),
            scores={c: float(c is category) for c in CATEGORIES},
            uncertainty=0.0,
            uncertain=False,
            windows=1,
            span=(0, 1),
            disguised=False,
        )
        for category in categories
    ]
    answered = msgspec.to_builtins(ClassifyResponse(id="cls-1", model_version="0007", results=results))
    for result in answered["results"]:
        result.update(changes)
    return msgspec.json.encode(answered)


def hang(_: socket.socket, closing: threading.Event) -> bool:
    """Never answer."""
    closing.wait()
    return False


def hang_up(_: socket.socket, __: threading.Event) -> bool:
    """Close the connection without an answer."""
    return False


def reset(connection: socket.socket, _: threading.Event) -> bool:
    """Break the connection without an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def half(body: bytes) -> Behaviour:
    """Promise a body and close in the middle of it."""

    def behave(connection: socket.socket, _: threading.Event) -> bool:
        connection.sendall(_head(200, len(body)) + body[: len(body) // 2])
        return False

    return behave


def drip(content: bytes) -> Behaviour:
    """Send a byte now and then, each soon enough for a timeout of its own."""

    def behave(connection: socket.socket, closing: threading.Event) -> bool:
        for byte in content:
            connection.sendall(bytes([byte]))
            if closing.wait(DRIP_S):
                break
        return False

    return behave


def drip_head(body: bytes) -> Behaviour:
    """Send a sound answer, byte by byte from its first."""
    return drip(_head(200, len(body)) + body)


def drip_body(body: bytes) -> Behaviour:
    """Send the head at once and the body byte by byte."""

    def behave(connection: socket.socket, closing: threading.Event) -> bool:
        connection.sendall(_head(200, len(body)))
        return drip(body)(connection, closing)

    return behave


def flood(connection: socket.socket, closing: threading.Event) -> bool:
    """Send a body without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not closing.is_set():
        connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
    return False


def babble(connection: socket.socket, _: threading.Event) -> bool:
    """Answer in no known protocol."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
    return False


def _head(status: int, length: int, **headers: str) -> bytes:
    given = {"Content-Length": str(length)} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode()


def _read(stream: Any) -> Received | None:
    """Read one request; None when the client has left."""
    line = stream.readline().decode().strip()
    if not line:
        return None
    headers = {}
    while field := stream.readline().decode().strip():
        name, _, value = field.partition(": ")
        headers[name.lower()] = value
    return Received(line, headers, stream.read(int(headers.get("content-length", 0))))
