"""Requests that nobody should send: made from the OpenAPI schema, then bent, cut and mixed up, from a seed.

`Fuzzer` makes them, `ask` puts them to an application in this process, `throw` sends bytes to a server on this machine.
"""

import asyncio
import json
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from litestar.types import ASGIApp

ANSWER_S: Final = 0.3  # of a raw connection, for its next bytes; what the guard still waits for gets no answer
_STRINGS: Final = (
    "", " ", "hello", "my landlord wont give my deposit back", "\x00", "\u200b\u2060", "ﷺ" * 50, "\ud800", "é" * 300,
    "🙂" * 200, "a " * 3_000, "\r\nSet-Cookie: a=b", "../../etc/passwd", "{{7*7}}", "' OR 1=1 --", "NaN", "null",
    "\u202eabc", "\U000e0041", "ﬃ" * 120, "0", "-1", "1e999", "self-harm", "user", "x" * 257, "\ufeff",
)  # fmt: skip
_SCALARS: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**40, 0.0, -0.0, 1e308, -1e-300, float("nan"),
    float("inf"), [], {}, [[]], [None], {"": None},
)  # fmt: skip
_PLAIN: Final[dict[Any, tuple[Any, ...]]] = {
    "string": _STRINGS,
    "integer": (0, 1, -1, 7, 2**31, 2**64),
    "number": (0, 0.5, 1, -1, 1e-9, 1.0000001, 1e300),
    "boolean": (True, False),
}
_HEADERS: Final = (
    (b"content-type", b"text/plain"), (b"content-type", b"application/json; charset=utf-16"), (b"content-type", b""),
    (b"content-type", b"multipart/form-data"), (b"content-type", b"application/x-www-form-urlencoded"),
    (b"content-encoding", b"gzip"), (b"accept", b"application/xml"), (b"accept", b"*/*;q=x"), (b"x-deadline-ms", b"1"),
    (b"x-deadline-ms", b"\xff"), (b"x-deadline-ms", b"0"), (b"authorization", b"Bearer lg_x"), (b"authorization", b"\xff"),
    (b"x-api-key", b"\xe2\x98\x83"), (b"cookie", b"a=\xff;;=;"), (b"origin", b"http://evil.example"),
    (b"host", b"[::1"), (b"host", b"evil.example"), (b"range", b"bytes=9-1"), (b"if-modified-since", b"yesterday"),
    (b"transfer-encoding", b"chunked"), (b"expect", b"100-continue"), (b"x-forwarded-for", b"\x00"),
)  # fmt: skip
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW")
_PATHS: Final = (
    "/",
    "/docs",
    "/docs/openapi.json",
    "/static/docs.js",
    "/static/../app.py",
    "//",
    "/%00",
    "/classify/%ff",
    "/review/label",
    "/review/label/flag",
    "/review/login",
    "/review/guideline/x",
    "/review/ledger",
)


@dataclass(frozen=True)
class Fuzzed:
    """One request."""

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def raw(self) -> bytes:
        """Return it as it goes over the wire."""
        target = quote(self.path, safe="/%").encode() + (b"?" + self.query if self.query else b"")
        lines = [
            self.method.encode() + b" " + target + b" HTTP/1.1",
            *(name + b": " + value for name, value in self.headers),
        ]
        length = b"content-length: %d" % len(self.body)
        return b"\r\n".join([*lines, length, b"connection: close", b"", b""]) + self.body


class Fuzzer:
    """Makes requests from an OpenAPI schema.

    Args:
        schema: The schema, as JSON.
        seed: The same gives the same requests.
    """

    def __init__(self, schema: Mapping[str, Any], seed: int) -> None:
        self._schemas = schema["components"]["schemas"]
        self._random = random.Random(seed)
        operations = [
            (m.upper(), p, o) for p, by in schema["paths"].items() for m, o in by.items() if isinstance(o, dict)
        ]
        self._bodied = [operation for operation in operations if "requestBody" in operation[2]]
        self._others = [operation for operation in operations if "requestBody" not in operation[2]]

    def request(self) -> Fuzzed:
        """Return a request that is often almost right."""
        chance = self._random
        method, path, operation = chance.choice(self._bodied if chance.random() < 0.85 else self._others)
        body = b""
        if "requestBody" in operation:
            content = next(iter(operation["requestBody"]["content"].values()))
            body = self._bytes(self._value(content["schema"], depth=0))
        query = "&".join(
            f"{p['name']}={quote(str(self._value(p['schema'], depth=0)), errors='replace')}"
            for p in operation.get("parameters", ())
            if p["in"] == "query" and chance.random() < 0.5
        ).encode()
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        while chance.random() < 0.15:
            headers.append(chance.choice(_HEADERS))
        if chance.random() < 0.02:
            method = chance.choice(_METHODS)
        if chance.random() < 0.02:
            path = chance.choice(_PATHS)
        return Fuzzed(method, path, query, headers, body)

    def bent(self, raw: bytes) -> bytes:
        """Return bytes of which some were changed, left out, doubled or put elsewhere."""
        chance, data = self._random, bytearray(raw)
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            start = chance.randrange(len(data) + 1)
            end = min(len(data), start + chance.choice((1, 1, 2, 8, 64)))
            match chance.randrange(6):
                case 0:
                    data[start:end] = chance.randbytes(end - start)
                case 1:
                    del data[start:end]
                case 2:
                    data[start:start] = data[start:end]
                case 3:
                    data[start:start] = chance.choice(
                        (b"\r\n", b"\n", b"\x00", b":", b" ", b"\xff", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n")
                    )
                case 4:
                    place = chance.randrange(len(data) + 1)
                    data[place:place] = data[start:end]
                case 5:
                    del data[max(1, start) :]
        return bytes(data)

    def _value(self, schema: Mapping[str, Any], depth: int) -> Any:
        chance = self._random
        if chance.random() < 0.04:
            return chance.choice(_SCALARS) if chance.random() < 0.5 else chance.choice(_STRINGS)
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], depth)
        if "oneOf" in schema:
            return self._value(chance.choice(schema["oneOf"]), depth)
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                return [self._value(schema.get("items", {}), depth + 1) for _ in range(chance.choice((0, 1, 1, 2, 9)))]
            case kind:
                return chance.choice(schema.get("enum") or _PLAIN.get(kind, (None,)))

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        chance, made = self._random, {}
        names = list(schema.get("properties", {}))
        kept = chance.choice((1, 1, 2, len(names)))
        for name in names:
            if name in schema.get("required", ()) or chance.randrange(len(names)) < kept:
                made[name] = self._value(schema["properties"][name], depth + 1)
        if schema.get("additionalProperties") and depth < 5:
            for _ in range(chance.choice((0, 1, 3))):
                made[chance.choice(_STRINGS)] = self._value(schema["additionalProperties"], depth + 1)
        if chance.random() < 0.03:
            made[chance.choice(_STRINGS)] = chance.choice(_SCALARS)
        return made

    def _bytes(self, value: Any) -> bytes:
        chance = self._random
        if chance.random() < 0.005:
            return b"[" * chance.choice((10, 1_000, 60_000))
        body = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
        return self.bent(body) if body and chance.random() < 0.1 else body


async def ask(app: ASGIApp, request: Fuzzed) -> int:
    """Put a request to an application and return the status of its answer.

    Raises:
        AssertionError: It did not answer, or not once.
    """
    events = iter(({"type": "http.request", "body": request.body, "more_body": False},))
    statuses: list[int] = []

    async def receive() -> Any:
        return next(events, None) or await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "method": request.method, "path": request.path, "raw_path": quote(request.path).encode(),
        "query_string": request.query, "headers": list(request.headers), "state": {}, "scheme": "http", "root_path": "",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)  # type: ignore[arg-type]
    assert len(statuses) == 1, statuses
    return statuses[0]


async def throw(port: int, raw: bytes) -> list[int]:
    """Send bytes on a connection of their own and return the statuses of all answers."""
    received = b""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(raw)
            with suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(ANSWER_S):
                        part = await reader.read(65536)
                    if not part:
                        break
                    received += part
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]
