"""A client as an object: what it is made of, what it sends, how it ends, and what becomes of it in other processes."""

import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

from guard.client import AsyncClient, Client, NotJudged, Reason, Retries
from guard.errors import BadConfiguration
from guard.taxonomy import Category
from tests.guard.client.conftest import Ask
from tests.guard.client.misbehaving import Misbehaving, answer, hang, verdicts

HARMLESS = verdicts(Category.NOT_HARMFUL, action="allow")
SOON_S = 3.0  # far below what the server would take


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_light(kind: type[Client] | type[AsyncClient]) -> None:
    """A client loads neither the store nor the server nor the engine."""
    code = (
        f"import json, sys; from guard.client import {kind.__name__}; "
        f"{kind.__name__}('http://127.0.0.1:1', on_failure='block'); print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    heavy = {"sqlalchemy", "litestar", "granian", "numpy", "onnxruntime", "tokenizers", "pydantic", "structlog"}
    assert heavy & set(loaded) == set()


def test_unused_client_has_no_thread() -> None:
    """A client that nobody uses starts nothing, so that it may be made before a fork."""
    before = threading.active_count()
    with Client("http://127.0.0.1:1", on_failure="block"):
        assert threading.active_count() == before


@pytest.mark.parametrize(
    "given", ["hello", ["hello"], [{"role": "user", "content": "hello"}]], ids=["text", "texts", "chat"]
)
async def test_options_are_sent(ask: Ask, given: Any) -> None:
    """Who wrote a text, whether it may be kept and its thresholds go to the guard; what is not given is not decided."""
    options = {"user": "customer-4711", "store": False, "thresholds": {Category.SELF_HARM: 0.2}}
    with Misbehaving(answer(200, HARMLESS)) as server:
        await ask(server.base_url, given, options=options)
        await ask(server.base_url, given)
    told, plain = (request.json for request in server.received)
    assert {name: told[name] for name in options} == options
    assert {plain.get("user"), plain.get("thresholds")} == {None}
    assert plain.get("store", True) is True


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://127.0.0.1"},
        {"base_url": "http://"},
        {"base_url": "http://canary:canary@127.0.0.1"},
        {"base_url": "http://127.0.0.1/?canary=1"},
        {"base_url": "http://127.0.0.1/#canary"},
        {"base_url": "http://127.0.0.1:canary"},
        {"on_failure": "canary"},
        {"deadline_s": 0},
        {"deadline_s": float("nan")},
        {"deadline_s": float("inf")},
        {"max_connections": 0},
        {"api_key": "canary\r\nX-Canary: 1"},
        {"api_key": "canary\u00e9"},
        {"api_key": ""},
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_arguments_that_cannot_be(kind: type[Client] | type[AsyncClient], arguments: dict[str, Any]) -> None:
    """A client that could not work is not made, and the reason does not repeat what may be a secret."""
    with pytest.raises(BadConfiguration) as caught:
        kind(**({"base_url": "http://127.0.0.1", "on_failure": "block"} | arguments))
    assert "canary" not in caught.value.detail


def test_on_failure_is_mandatory() -> None:
    """Nobody gets a policy without choosing it."""
    with pytest.raises(TypeError, match="on_failure"):
        Client("http://127.0.0.1")  # type: ignore[call-arg]


async def test_base_url_may_have_a_path(ask: Ask) -> None:
    """A guard behind a path of a proxy is asked there, and its key and type of content come along."""
    with Misbehaving(answer(200, HARMLESS)) as server:
        assert (await ask(f"{server.base_url}/guard/", "hello", api_key="lg_x")).judged
    (request,) = server.received
    assert request.line == "POST /guard/classify HTTP/1.1"
    assert request.headers["authorization"] == "Bearer lg_x"
    assert request.headers["content-type"] == "application/json"


async def test_environment_does_not_reroute(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment gets no text."""
    with Misbehaving(answer(200, HARMLESS)) as proxy, Misbehaving(answer(200, HARMLESS)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base_url)
        assert (await ask(server.base_url, "hello")).judged
    assert proxy.received == []


def test_closing_ends_calls_under_way(retries: Retries) -> None:
    """Closing a client ends the calls of other threads with an error that says so, and its own thread with them."""
    before = threading.active_count()
    errors: list[Exception] = []
    with Misbehaving(hang) as server:
        client = Client(server.base_url, on_failure="block", deadline_s=60, retries=retries)

        def call() -> None:
            try:
                client.classify("hello")
            except Exception as error:  # noqa: BLE001 - which one it is, is what is tested
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert all(server.arrived.acquire(timeout=SOON_S) for _ in threads)
        client.close()
        for thread in threads:
            thread.join(SOON_S)
        client.close()
    assert [(type(e), "closed" in str(e)) for e in errors] == [(RuntimeError, True)] * 4
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        client.classify("hello")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_clients_are_not_copied(kind: type[Client] | type[AsyncClient]) -> None:
    """A client, which may hold a key, is neither pickled nor copied, and says what to do instead."""
    client = kind("http://127.0.0.1", on_failure="block", api_key="lg_canary")
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            duplicate(client)


def test_what_a_client_gives_is_pickled() -> None:
    """Answers and errors go from one process to another whole."""
    retries = Retries(reserve=0)
    with Misbehaving(answer(200, HARMLESS), answer(500)) as server:
        with Client(server.base_url, on_failure="block", deadline_s=20, retries=retries) as client:
            answers = [client.classify("hello"), client.classify("hello")]
        with (
            Client(server.base_url, on_failure="raise", deadline_s=20, retries=retries) as client,
            pytest.raises(NotJudged) as caught,
        ):
            client.classify("hello")
    assert [a.judged for a in answers] == [True, False]
    assert pickle.loads(pickle.dumps(answers)) == answers
    error = pickle.loads(pickle.dumps(caught.value))
    assert (type(error), error.detail, str(error), error.reason) == (
        NotJudged,
        caught.value.detail,
        str(caught.value),
        Reason.UNAVAILABLE,
    )


def _ask_in_child(client: Client, said: Any) -> None:
    said.send(client.classify("hello").judged)
    client.close()


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork() -> None:
    """A client that was used before a fork works in the child, on connections of the child's own."""
    context = multiprocessing.get_context("fork")
    with (
        Misbehaving(answer(200, HARMLESS)) as server,
        Client(server.base_url, on_failure="block", deadline_s=20) as client,
    ):
        assert client.classify("hello").judged
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_ask_in_child, args=(client, sender))
        child.start()
        assert receiver.poll(20)
        assert receiver.recv() is True
        child.join(20)
        assert client.classify("hello").judged
        receiver.close()
        sender.close()
        assert server.connections == 2


def test_forgotten_client_does_not_hold_the_process() -> None:
    """A program that never closes its client ends all the same, silently."""
    code = (
        "import sys; from guard.client import Client; "
        "client = Client(sys.argv[1], on_failure='block', deadline_s=20); print(client.classify('hello').judged)"
    )
    with Misbehaving(answer(200, HARMLESS)) as server:
        ended = subprocess.run(
            [sys.executable, "-c", code, server.base_url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
