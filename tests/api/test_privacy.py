"""What people write, and who they are, stands nowhere but in the sealed pool: not in logs, metrics, answers or files."""

import hashlib
import http.client
import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import onnx
import pytest
from onnx import numpy_helper
from sqlalchemy import select

from guard.exports import Exports, sha256
from guard.settings import GuardSettings
from guard.store.keyring import Keyring
from guard.store.rows import Message
from tests.api.conftest import DATABASE, Running, Serve, update
from tests.guard.store.scenes import pooled
from tests.served import ServedGuard
from tests.toys import publish_toy, rewrite_manifest


class Canaries:
    """Words that stand nowhere else, each made once and remembered."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self) -> str:
        """Return a new one."""
        self.made.append(f"zq{len(self.made):03d}canary")
        return self.made[-1]

    def found(self, content: str | bytes) -> list[str]:
        """Return those that stand in some content, in either case."""
        text = content.decode("latin-1") if isinstance(content, bytes) else content
        return [word for word in self.made if word in text.lower()]


def _files(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def _bodies(canary: Canaries) -> Iterator[bytes]:
    """Yield bodies with canaries in every place that a body has."""
    shapes: list[object] = [
        {"text": canary()},
        {"texts": [canary(), canary()]},
        {"messages": [{"role": "user", "content": canary()}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": canary()}]}]},
        {"messages": [{"role": "user", "content": [{"type": canary(), "text": canary()}]}]},
        {"messages": [{"role": canary(), "content": canary(), canary(): canary()}]},
        {"text": canary(), "user": canary()},
        {"text": canary(), "user": canary(), "store": False},
        {"text": canary(), "thresholds": {canary(): 0.5}},
        {"text": canary(), "thresholds": {"self-harm": canary()}},
        {"text": canary(), canary(): canary()},
        {"text": canary(), "store": canary()},
        {"text": canary(), "texts": [canary()]},
        {"text": canary(), "user": canary() * 60},
        {"text": {canary(): canary()}},
        {"text": canary() + "x" * 3000},
        {"texts": [canary()] * 20},
        {"id": canary(), "text": canary(), "category": None, "source": "person", "user": canary()},
        {"id": "cls-1", "text": canary(), "category": canary(), "source": canary()},
        {"pick_id": canary(), "category": canary(), "idempotency_key": canary()},
        {"pick_id": 1, "category": canary()},
        {"pick_id": 1, "category": None, "idempotency_key": canary() + "\u00e4"},
        [canary()],
        canary(),
    ]
    yield from (json.dumps(shape).encode() for shape in shapes)
    yield json.dumps({"text": canary()}).encode("utf-16")
    yield f'{{"text": "{canary()}'.encode()
    yield f'{{"text": "{canary()}"}} {canary()}'.encode()
    yield f'{{"text": "{canary()} \\ud800"}}'.encode()
    yield b'{"text": "' + canary().encode() + b'\xff"}'
    yield canary().encode() * 500


def _send_everything(guard: ServedGuard, canary: Canaries) -> str:
    """Send canaries through every input there is, and return all that came back."""
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=guard.base_url) as client:
        for body in _bodies(canary):
            answers += [client.post(path, content=body) for path in ("/classify", "/review/labels", "/feedback")]
        for path in ("/review/login", "/review/label", "/review/label/flag", "/review/label/pass", "/review/logout"):
            for accept in ("text/html", "application/json"):
                fields = ("name", "password", "category", "pick_id", "key", "csrf", canary())
                form = {field: canary() for field in fields}
                answers.append(client.post(path, data=form, headers={"accept": accept}))
                answers.append(client.post(path, data={**form, "pick_id": "1"}, headers={"accept": accept}))
                answers.append(client.get(f"{path}?{canary()}", headers={"accept": accept}))
        for header in (
            "authorization", "x-api-key", "user-agent", "referer", "cookie", "x-forwarded-for", "x-request-id",
            "traceparent", "content-type", "accept", "host", "origin", "x-" + canary(),
        ):  # fmt: skip
            for value in (canary(), f"Bearer {canary()}"):
                answers.append(client.post("/classify", json={"text": canary()}, headers={header: value}))
        for path in (f"/{canary()}", f"/classify/{canary()}", f"/docs/{canary()}", f"/static/{canary()}",
                     f"/classify?text={canary()}&{canary()}=1", f"/readyz?{canary()}", f"/metrics?{canary()}"):  # fmt: skip
            for method in ("GET", "POST", canary().upper()):
                answers.append(client.request(method, path))
        client.post("/review/next")
        client.post("/review/undo")
    raw = b""
    for head in (f"GET /{canary()}", f"{canary()} HTTP/1.1\r\n", f"GET / HTTP/1.1\r\n{canary()}: a\x00b\r\n",
                 f"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{canary()}\r\n",
                 f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{canary()}"):  # fmt: skip
        connection = socket.create_connection(("127.0.0.1", guard.port), timeout=10)
        with connection, suppress(OSError):  # it may hang up on nonsense before it has read all of it
            connection.sendall(f"{head}\r\n\r\n".encode())
            connection.shutdown(socket.SHUT_WR)
            raw += connection.recv(65536)
    for word in canary.made[:3]:  # said again, so that what was said before would be found if it were remembered
        connection_ = http.client.HTTPConnection("127.0.0.1", guard.port)
        connection_.request("POST", "/classify", json.dumps({"text": word}))
        raw += connection_.getresponse().read()
        connection_.close()
    metrics = httpx.get(f"{guard.base_url}/metrics").text + httpx.get(f"{guard.base_url}/readyz").text
    return metrics + "".join(f"{a.text}{a.headers}" for a in answers) + raw.decode("latin-1")


@pytest.mark.slow
@pytest.mark.parametrize("keyed", [False, True])
def test_canaries(tmp_path: Path, *, keyed: bool) -> None:
    """Canaries sent through every input are found in no answer, log line, series or file, while it runs and after."""
    guard = ServedGuard(
        tmp_path, audit_rate=1, max_text_chars=2000, max_texts=10, intake_flush_ms=10, log_level="debug"
    )
    publish_toy(guard.exports)
    if keyed:
        assert guard.run("keys", "create", "bot").returncode == 0
        assert guard.run("reviewers", "add", "ann", stdin="correct horse").returncode == 0
    canary = Canaries()
    with guard:
        answers = _send_everything(guard, canary)
        assert canary.found(answers) == []
        assert canary.found(_files(guard.data_dir)) == []
    assert len(canary.made) > 100
    assert canary.found(guard.log) == []
    assert canary.found(_files(tmp_path)) == []
    requests = [event for event in guard.events if event["event"] == "request"]
    assert len(requests) > 90
    assert all(request["caller"] in {None, "local"} for request in requests)
    with closing(sqlite3.connect(guard.data_dir / DATABASE)) as database:
        (stored,) = database.execute("SELECT count(*) FROM message").fetchone()
    assert (stored == 0) is keyed  # the texts were there to be found, sealed


async def test_sealed_in_both_stores(serve: Serve, store_settings: GuardSettings, exports: Exports) -> None:
    """What enters the pool stands in no file of the data folder, and can be opened by whoever has the keyring."""
    publish_toy(exports)
    async with serve(update(store_settings, audit_rate=1)) as running:
        await running.classify(text="zq000canary", user="zq001canary")
        assert await running.intake.flush()
        assert [t.text for t in await pooled(running.store)] == ["zq000canary"]
        assert b"canary" not in _files(store_settings.data_dir)


async def test_not_stored(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """With `store: false` the data folder is, to the byte, what it was: no text, no hash, no count."""
    publish_toy(exports)
    async with serve(update(guard_settings, audit_rate=1)) as running:
        await running.classify(text="before")
        assert await running.intake.flush()
        before = (guard_settings.data_dir / DATABASE).read_bytes()
        answer = await running.classify(texts=["zq000canary", "before"], user="ada", store=False)
        assert answer.status_code == 200
        assert await running.intake.flush()
        assert (guard_settings.data_dir / DATABASE).read_bytes() == before
        assert running.metric("guard_intake_total", fate="new") == 1
        assert running.metric("guard_intake_total", fate="repeated") == 0


async def test_user_stands_nowhere(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """A user's id is stored only as a keyed hash: neither itself nor a plain hash of it is found, the keyed one is."""
    publish_toy(exports)
    user = "ada@example.org"
    async with serve(update(guard_settings, audit_rate=1)) as running:
        await running.classify(text="mine", user=user)
        assert await running.intake.flush()
        keyed = running.store.keyring.user_hash(user)
    content = _files(guard_settings.data_dir)
    assert keyed.encode() in content
    assert user.encode() not in content
    plain = hashlib.sha256(user.encode())
    assert plain.hexdigest().encode() not in content
    assert plain.digest() not in content


async def test_erased_user_leaves_no_trace(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """After an erasure not even the sealed text is in the file any more."""
    publish_toy(exports)
    async with serve(update(guard_settings, audit_rate=1)) as running:
        await running.classify(text="mine alone", user="ada")
        assert await running.intake.flush()
        async with running.store.database.read() as session:
            (message,) = await session.scalars(select(Message))
        assert message.ciphertext in (guard_settings.data_dir / DATABASE).read_bytes()
        assert await running.store.pool.erase_user("ada") == 1
        content = _files(guard_settings.data_dir)
    assert message.ciphertext not in content
    assert message.fingerprint not in content


async def test_failing_libraries_say_nothing(
    running: Running, exports: Exports, capfd: pytest.CaptureFixture[str]
) -> None:
    """When ONNX Runtime itself fails on a text, neither answer nor output repeats what it said."""
    version = publish_toy(exports, promote=False)
    folder = exports.path(version)
    model = onnx.load(folder / "model.onnx")
    table = model.graph.initializer[0]
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:-1], table.name))  # the last word has no row
    onnx.save(model, folder / "model.onnx")
    rewrite_manifest(folder, files={name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")})
    exports.promote(version, by="test", reason="test")
    await running.watcher.look()
    assert running.engine.bundle is not None
    assert running.engine.bundle.version == version
    answer = await running.classify(text="zq000canary joke")
    out, err = capfd.readouterr()
    assert answer.status_code == 503
    assert "canary" not in answer.text + out + err
    assert "run_failed" in out + err
    assert (await running.classify(text="hello")).status_code == 200


def test_settings_keep_their_secret(keyring: Keyring) -> None:
    """Neither the keyring nor the settings that hold it show it."""
    settings = GuardSettings(keyring="zq000canary")
    assert "canary" not in repr(settings) + str(settings) + settings.model_dump_json() + repr(keyring)
