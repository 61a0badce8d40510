"""`/healthz`, `/readyz`, `/metrics`: honest, closed in their labels, and there when the store is not."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store
from guard.store.keyring import Keyring
from guard.store.states import Role
from tests.api.conftest import DATABASE, Running, Serve, update
from tests.conftest import Postgres
from tests.guard.store.scenes import learner, open_batch, pooled
from tests.served import ServedGuard, rss_bytes
from tests.toys import publish_toy

ROUTES = {"/classify", "/healthz", "/readyz", "/metrics", "/review/next", "/review/labels", "/review/undo",
          "/review/batch", "/docs", "/docs/{path}", "/docs/openapi.json", "/static/{file_path}", "unmatched"}  # fmt: skip
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}


async def test_lives(running: Running) -> None:
    """The process answers as long as it lives."""
    answer = await running.client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok")


async def test_ready(running: Running) -> None:
    """With a model in service and its workers alive it is ready, and says with which version."""
    answer = await running.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "model_version": "0001", "problems": []})


async def test_not_ready_without_a_model(serve: Serve, guard_settings: GuardSettings) -> None:
    """Without a model it lives but is not ready."""
    async with serve(guard_settings) as running:
        answer = await running.client.get("/readyz")
        assert (await running.client.get("/healthz")).status_code == 200
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json() == {"ready": False, "model_version": None, "problems": ["no model is loaded"]}


async def test_not_ready_with_dead_workers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the workers cannot work it is not ready, whatever is loaded."""
    monkeypatch.setattr(running.engine._batcher._workers[0], "is_alive", lambda: False)
    answer = await running.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["1 of 1 worker threads have died"]
    await running.client.get("/metrics")
    assert (running.metric("guard_ready"), running.metric("guard_champion_followed")) == (0, 1)


async def test_limits_are_shown(running: Running, guard_settings: GuardSettings) -> None:
    """What queue and pool are measured against stands beside them."""
    assert running.metric("guard_queue_max_tokens") == guard_settings.max_queue_tokens
    assert running.metric("guard_pool_max_messages") == guard_settings.pool_max_messages


async def test_ready_with_a_broken_champion(running: Running, exports: Exports) -> None:
    """A champion that does not load is named, while the one before it stays in service and ready."""
    (exports.path(publish_toy(exports)) / "model.onnx").write_bytes(b"")
    await running.watcher.look()
    answer = await running.client.get("/readyz")
    assert (answer.status_code, answer.json()["model_version"]) == (200, "0001")
    assert len(answer.json()["problems"]) == 1
    assert "0002" in answer.json()["problems"][0]
    assert running.metric("guard_swaps_total", result="failed") == 1
    await running.client.get("/metrics")
    assert (running.metric("guard_ready"), running.metric("guard_champion_followed")) == (1, 0)


async def test_requests_are_counted_and_timed(running: Running) -> None:
    """Each request counts once, under its route and status, and its time is observed."""
    await running.classify(text="hello")
    await running.classify(text="")
    count = "guard_requests_total"
    assert running.metric(count, method="POST", route="/classify", status="200") == 1
    assert running.metric(count, method="POST", route="/classify", status="400") == 1
    assert running.metric("guard_request_seconds_count", route="/classify") == 2


async def test_labels_are_from_closed_sets(running: Running) -> None:
    """Whatever callers invent, no new route, method or other label comes of it."""
    for path in (
        "/classify",
        "/canary",
        "/classify/canary",
        "/docs/canary",
        "/static/canary",
        "/review/canary",
        "//",
        "/%00",
    ):
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CANARY", "get"):
            await running.client.request(method, path, content=b"canary", params={"canary": "canary"})
    await running.classify(text="canary", user="canary", thresholds={"self-harm": 0.5})
    answer = await running.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "canary" not in answer.text.lower()
    samples = [s for f in text_string_to_metric_families(answer.text) for s in f.samples]
    assert {s.labels["route"] for s in samples if "route" in s.labels} <= ROUTES
    assert {s.labels["method"] for s in samples if "method" in s.labels} <= METHODS
    assert len(samples) < 1000


async def test_every_request_has_an_id(running: Running) -> None:
    """Each answer carries an id of its own, errors included."""
    answers = [await running.client.get(path) for path in ("/healthz", "/readyz", "/nothing", "/classify")]
    assert len({a.headers["x-request-id"] for a in answers}) == 4


# the store away


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that waits half a second where it would wait ten."""
    monkeypatch.setattr("guard.app.open_store", partial(open_store, timeout_s=0.5))
    monkeypatch.setattr("guard.loop.FRESH_S", 0.0)
    monkeypatch.setattr("guard.intake.RETRY_S", 0.01)


async def _check_outage(running: Running, pick_id: int) -> None:
    """While the store is away, classifying goes on, labels are refused, and the metrics say so."""
    assert (await running.classify(text="rash sue invest fire die joke")).status_code == 200
    assert not await running.intake.flush()
    refused = await running.client.post("/review/labels", json={"pick_id": pick_id, "category": "self-harm"})
    assert (refused.status_code, refused.json()["title"]) == (503, "Store unavailable")
    assert (await running.client.post("/review/next")).status_code == 503
    scraped = await running.client.get("/metrics")
    assert scraped.status_code == 200
    assert "guard_store_up 0.0" in scraped.text
    assert (await running.client.get("/readyz")).status_code == 200


async def _check_return(running: Running, pick_id: int) -> None:
    """Once the store is back, everything works, and what was classified meanwhile enters the pool."""
    label = await running.client.post("/review/labels", json={"pick_id": pick_id, "category": "self-harm"})
    assert label.status_code == 201
    assert "guard_store_up 1.0" in (await running.client.get("/metrics")).text
    assert await running.intake.flush()
    assert "rash sue invest fire die joke" in [p.text for p in await pooled(running.store)]


async def _hold(running: Running) -> int:
    await open_batch(running.store, await learner(running.store), "one")
    pick_id: int = (await running.client.post("/review/next")).json()["pick_id"]
    return pick_id


@pytest.mark.usefixtures("impatient")
async def test_locked_database(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Another process that holds the SQLite file costs labels a 503, and classification nothing."""
    publish_toy(exports)
    async with serve(guard_settings) as running:
        pick_id = await _hold(running)
        with closing(sqlite3.connect(guard_settings.data_dir / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await _check_outage(running, pick_id)
            other.execute("ROLLBACK")
        await _check_return(running, pick_id)


@pytest.fixture
def crashable(postgres: Postgres) -> Iterator[Postgres]:
    """The PostgreSQL server, up again at the end whatever the test did to it."""
    yield postgres
    postgres.restart()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
async def test_crashed_database(
    crashable: Postgres, guard_settings: GuardSettings, keyring: Keyring, serve: Serve, exports: Exports
) -> None:
    """A PostgreSQL server that crashes costs labels a 503, and classification nothing; its return is noticed."""
    publish_toy(exports)
    name = await crashable.create()
    async with serve(update(guard_settings, database_url=crashable.url(name))) as running:
        pick_id = await _hold(running)
        crashable.crash()
        await _check_outage(running, pick_id)
        crashable.restart()
        await _check_return(running, pick_id)


async def test_keys_while_the_store_is_away(running_on_both: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys known before the store went away are let in while it is away."""
    secret = await running_on_both.store.keys.create("bot", Role.CLIENT)
    await running_on_both.app.state.access.refresh()
    await running_on_both.store.database.close()

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(type(running_on_both.store.database.engine.sync_engine), "connect", refuse)
        for header, status in ((secret, 200), ("lg_wrong", 401)):
            answer = await running_on_both.client.post(
                "/classify", json={"text": "hello"}, headers={"x-api-key": header}
            )
            assert answer.status_code == status


# lightness

HEAVY = ["torch", "transformers", "optimum", "sklearn", "scipy", "openai", "apscheduler", "matplotlib", "onnx", "learner",
         "pandas", "sentence_transformers"]  # fmt: skip

_SERVING = f"""
import asyncio, sys
from guard.app import serve_app
app = serve_app()
async def serve():
    async with app._app.lifespan():
        sent = []
        async def receive():
            return {{"type": "http.request", "body": b'{{"text": "hello"}}', "more_body": False}}
        async def send(message):
            sent.append(message)
        scope = {{"type": "http", "method": "POST", "path": "/classify", "raw_path": b"/classify", "query_string": b"",
                 "headers": [(b"host", b"127.0.0.1")], "http_version": "1.1", "scheme": "http", "root_path": "",
                 "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {{}}, "asgi": {{"version": "3.0"}}}}
        await app(scope, receive, send)
        assert sent[0]["status"] == 200, sent
asyncio.run(serve())
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""


@pytest.mark.slow
def test_serving_loads_nothing_heavy(tmp_path: Path) -> None:
    """A process that serves, and has answered, holds none of the learner's libraries."""
    guard = ServedGuard(tmp_path)
    publish_toy(guard.exports)
    assert guard.run("keyring", "create").returncode == 0
    process = subprocess.run(
        [sys.executable, "-c", _SERVING], env=guard.environment, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (0, "\n"), process.stderr


@pytest.mark.slow
def test_memory(served: ServedGuard, capsys: pytest.CaptureFixture[str]) -> None:
    """Both processes of a serving guard together stay below the 300 MB that the project aims at."""
    httpx.post(f"{served.base_url}/classify", json={"text": "hello"})
    sizes = [rss_bytes(pid) / 2**20 for pid in served.pids]
    with capsys.disabled():
        sys.stdout.write(f"\nRSS with a toy export: {' + '.join(f'{s:.0f}' for s in sizes)} = {sum(sizes):.0f} MiB\n")
    assert len(sizes) == 2
    assert sum(sizes) < 300
