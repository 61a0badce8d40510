"""A local HTTP server that speaks the OpenAI chat completions protocol, and misbehaves when told to.

    with FakeLLM(Rehearsed({"seed text": ["a variation"]}, {"a variation": Category.SELF_HARM})) as llm:
        settings = LearnerSettings(llm_base_url=llm.base_url, llm_api_key="sk-fake")

A behaviour is a reply, or a function from the request's JSON to one; several make a script, of which the last stays.
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from guard.taxonomy import GUIDELINES, Category
from guard.text import normalise

_QUOTED = re.compile(r"<<<([0-9a-f]+)\n(.*)\n\1>>>", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """An HTTP response. `parts` are sent one by one with a pause between them; `hangs` means that none ever comes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: Iterable[bytes] = ()
    pause_s: float = 0.0
    hangs: bool = False


Behaviour = Reply | Callable[[dict[str, Any]], Reply]


@dataclass(frozen=True)
class Request:
    """What a client sent; the names of its headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    json: dict[str, Any]

    @property
    def prompt(self) -> str:
        """All of the messages' text."""
        return "\n".join(message["content"] for message in self.json["messages"])

    @property
    def judges(self) -> bool:
        """Whether it asks for verdicts, not for texts."""
        return isinstance(quoted(self.json), dict)

    @property
    def edits(self) -> bool:
        """Whether it asks for edits."""
        return asks_for_edits(self.json)


class FakeLLM:
    """The server, on a free loopback port while the context is open.

    Args:
        behaviours: What to do with the first request, the second ...; the last stays for all that follow.
    """

    def __init__(self, *behaviours: Behaviour) -> None:
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self._script = list(behaviours)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._server.mistakes:
            raise self._server.mistakes[0]

    def answer(self, request: Request) -> Reply:
        """Log a request and return what the script says."""
        with self._lock:
            self.requests.append(request)
            behaviour = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        return behaviour if isinstance(behaviour, Reply) else behaviour(request.json)

    def send(self, reply: Reply, write: Callable[[bytes], Any]) -> None:
        """Write a body part by part until it is whole, the client leaves, or the server closes."""
        for part in reply.parts:
            write(part)
            self.sent_bytes += len(part)
            if self._closing.wait(reply.pause_s):
                return

    def hang(self) -> None:
        """Wait until the server closes."""
        self._closing.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them: none outlives its test
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.mistakes: list[Exception] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what a behaviour raised for the test; a client that left is meant to."""
        mistake = sys.exc_info()[1]
        if isinstance(mistake, Exception) and not isinstance(mistake, ConnectionError):
            self.mistakes.append(mistake)


def _handler(llm: FakeLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # the client was killed while it sent its request: nobody waits for an answer
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = llm.answer(Request(self.command, self.path, headers, json.loads(body or b"{}")))
            if reply.hangs:
                llm.hang()
                return
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", "Connection": "close", **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            llm.send(reply, self.wfile.write)

        do_GET = do_POST  # noqa: N815 - what a redirect becomes

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Keep quiet."""

    return Handler


def completion(
    content: str | None, *, refusal: str | None = None, finish_reason: str = "stop", tokens: int | None = 100
) -> Reply:
    """Return a chat completion with this text; without `tokens` it does not say what it charged."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
            }
        ],
    }
    if tokens is not None:
        body["usage"] = {
            "prompt_tokens": tokens // 2,
            "completion_tokens": tokens - tokens // 2,
            "total_tokens": tokens,
        }
    return raw(json.dumps(body))


def raw(body: str | bytes) -> Reply:
    """Return any body with status 200."""
    return Reply(parts=[body.encode() if isinstance(body, str) else body])


def error(status: int, **headers: str) -> Reply:
    """Return an error as OpenAI words it; `retry_after="3"` becomes a header."""
    body = json.dumps({"error": {"message": "no", "type": "fake_error", "param": None, "code": None}})
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, [body.encode()])


def variations(*texts: Any) -> Reply:
    """Return an answer to a request for variations."""
    return completion(json.dumps({"variations": list(texts)}))


def edits(*texts: Any) -> Reply:
    """Return an answer to a request for edits."""
    return completion(json.dumps({"edits": list(texts)}))


def asks_for_edits(request: Mapping[str, Any]) -> bool:
    """Return whether a request asks for edits of a text, not for variations of it."""
    return '{"edits":' in request["messages"][0]["content"]


def quoted(request: Mapping[str, Any]) -> Any:
    """Return the data a prompt quotes: the seed's text, or the judge's numbered candidates."""
    found = _QUOTED.search(request["messages"][-1]["content"])
    return json.loads(found[2]) if found else None


def letters(request: Mapping[str, Any]) -> dict[Category, str]:
    """Return the letter of each category's option in a judge's prompt, found by its definition."""
    lines = request["messages"][0]["content"].splitlines()
    return {
        category: line.removeprefix("Option ")[0]
        for category, guideline in GUIDELINES.items()
        for line in lines
        if line.startswith("Option ") and guideline.definition in line
    }


class Rehearsed:
    """Answers sensibly, from what it was told: writes the variations of known seeds and judges known texts.

    Args:
        variations: Seed text to variations, and to edits where those are asked for; an unknown seed has none.
        categories: Text to category, as the judge sees it.
        default: Category of other texts; None leaves them without a verdict.
    """

    def __init__(
        self,
        variations: Mapping[str, Sequence[str]],
        categories: Mapping[str, Category],
        *,
        default: Category | None = Category.NOT_HARMFUL,
    ) -> None:
        self._variations = {normalise(seed): list(texts) for seed, texts in variations.items()}
        self._categories = {normalise(text): category for text, category in categories.items()}
        self._default = default

    def __call__(self, request: dict[str, Any]) -> Reply:
        """Answer a request for variations or for verdicts."""
        data = quoted(request)
        if isinstance(data, str):
            texts = self._variations.get(normalise(data), ())
            return edits(*texts) if asks_for_edits(request) else variations(*texts)
        options = letters(request)
        verdicts = {
            number: options[category]
            for number, text in data.items()
            if (category := self._categories.get(normalise(text), self._default)) is not None
        }
        return completion(json.dumps(verdicts))
