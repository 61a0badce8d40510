"""`guard serve`: one server and its child, started together, ended together, however the end comes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from guard.errors import BadConfiguration
from guard.exports import Exports
from guard.server import Child, _check_port
from guard.settings import GuardSettings
from guard.store import open_store
from tests.served import ServedGuard, free_port, session_pids, wait_for
from tests.toys import publish_toy


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


# the child


@contextmanager
def _child(command: list[str], *, restart_s: float = 0.01) -> Iterator[Child]:
    child = Child(command, restart_s=restart_s)
    child.start()
    try:
        yield child
    finally:
        child.stop()


def test_child_is_started_again(tmp_path: Path) -> None:
    """A child that ends, well or badly, is started again, and the log says so."""
    lives = tmp_path / "lives"
    with capture_logs() as logs, _child(_shell(f"echo $$ >> {lives}; exit 3")):
        wait_for(lambda: len(_lines(lives)) >= 3)
    assert len(set(_lines(lives))) == len(_lines(lives))
    assert {(log["event"], log["status"]) for log in logs} == {("child_ended", 3)}


def test_child_ends_when_told(tmp_path: Path) -> None:
    """Stopping ends the child and does not start it again."""
    lives = tmp_path / "lives"
    with _child(_shell(f"echo $$ >> {lives}; exec sleep 1000")) as child:
        wait_for(lambda: len(_lines(lives)) == 1)
        child.stop()
        assert not _alive(int(_lines(lives)[0]))
    assert len(_lines(lives)) == 1


def test_child_that_will_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ignores the request to end is killed."""
    monkeypatch.setattr("guard.server.GRACE_S", 0.1)
    lives = tmp_path / "lives"
    with _child(_shell(f"trap '' TERM; echo $$ >> {lives}; while true; do sleep 1000; done")) as child:
        wait_for(lambda: len(_lines(lives)) == 1)
        child.stop()
        wait_for(lambda: not _alive(int(_lines(lives)[0])))
    assert len(_lines(lives)) == 1


def test_child_stopped_between_two_lives(tmp_path: Path) -> None:
    """Stopping while the next life is waited for does not wait, and there is no next life."""
    lives = tmp_path / "lives"
    with capture_logs() as logs, _child(_shell(f"echo $$ >> {lives}"), restart_s=3600):
        wait_for(lambda: len(logs) == 1)
    assert len(_lines(lives)) == 1


_PARENT = """
import signal, sys
from guard.server import Child
Child(["/bin/sh", "-c", "echo $$; exec sleep 1000"]).start()
signal.pause()
"""


def test_child_ends_with_its_parent() -> None:
    """When the parent is killed, and cannot say goodbye, the child ends too."""
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _alive(child)
        parent.kill()
        parent.wait()
    wait_for(lambda: not _alive(child))


# the port


def test_taken_port() -> None:
    """A port that somebody listens on is refused with the settings that would change it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadConfiguration, match=f"127.0.0.1:{port} .* GUARD_PORT"):
            _check_port("127.0.0.1", port)
    _check_port("127.0.0.1", port)


def test_shared_port_counts_as_taken() -> None:
    """A port that another server would share with us is taken as well: half of the requests would go there."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadConfiguration):
            _check_port("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_foreign_address(host: str) -> None:
    """An address that is not this machine's is refused with the setting that would change it."""
    with pytest.raises(BadConfiguration, match="GUARD_HOST"):
        _check_port(host, free_port())


# the whole of it


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[ServedGuard]:
    """A guard with a toy export, ready to be started; what is left of it is ended."""
    made = ServedGuard(tmp_path, audit_rate=1, intake_flush_ms=3_600_000)
    publish_toy(made.exports)
    yield made
    if made._process is not None:
        made.stop()


def _began(guard: ServedGuard, length: int) -> socket.socket:
    """Send the head of a request and wait until the guard asks for the body."""
    connection = socket.create_connection(("127.0.0.1", guard.port), timeout=30)
    head = ("POST /classify HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", "Expect: 100-continue", "", "")
    connection.sendall("\r\n".join(head).encode())
    assert connection.recv(65536).startswith(b"HTTP/1.1 100")
    return connection


async def _pooled(guard: ServedGuard) -> list[str]:
    async with open_store(GuardSettings(data_dir=guard.data_dir)) as store:
        return [text.text async for batch in store.pool.texts() for text in batch]


def _refuses(guard: ServedGuard) -> bool:
    try:
        socket.create_connection(("127.0.0.1", guard.port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_ends_in_good_order(guard: ServedGuard, sent: signal.Signals) -> None:
    """Told to end, it takes nothing new, answers what it has begun, writes the pool's queue, and leaves nothing behind."""
    guard.start()
    idle = socket.create_connection(("127.0.0.1", guard.port))
    body = json.dumps({"texts": ["hello", "sue the landlord"]}).encode()
    with _began(guard, len(body)) as begun:
        guard.process.send_signal(sent)
        wait_for(lambda: _refuses(guard))
        begun.sendall(body)
        answer = begun.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"legal-advice" in answer
    assert guard.process.wait(30) == 0
    idle.close()
    assert guard.pids == []
    assert sorted(await _pooled(guard)) == ["hello", "sue the landlord"]
    assert guard.events[-1]["event"] == "stopped"


@pytest.mark.slow
def test_notice_before_the_end(guard: ServedGuard) -> None:
    """Told to end with a notice, it is not ready at once, judges on for that long, and then ends in good order."""
    guard.environment["GUARD_NOTICE_S"] = "3600"
    guard.start()
    with httpx.Client(base_url=guard.base_url) as client:
        guard.process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["problems"] == ["the guard is shutting down"]
        assert httpx.post(f"{guard.base_url}/classify", json={"text": "hello"}).status_code == 200
        guard.process.send_signal(signal.SIGTERM)  # a second one ends the notice
        assert guard.process.wait(30) == 0
    assert asyncio.run(_pooled(guard)) == ["hello"]


@pytest.mark.slow
def test_all_are_told_to_end(guard: ServedGuard) -> None:
    """Where all its processes are told to end at once, as systemd does, it ends well all the same."""
    guard.environment["GUARD_NOTICE_S"] = "3600"
    guard.start()
    for pid in guard.pids:
        os.kill(pid, signal.SIGTERM)
    assert guard.process.wait(30) == 0


@pytest.mark.slow
def test_killed_leaves_nothing_behind(guard: ServedGuard) -> None:
    """When the first process is killed, those it started end as well, and the port is free again."""
    guard.start()
    others = guard.pids[1:]
    assert others
    guard.process.kill()
    guard.process.wait()
    wait_for(lambda: not any(map(_alive, others)))
    _check_port("127.0.0.1", guard.port)


# a learner that writes down each of its lives and how it was called
_WITH_LEARNER = """
import guard.server
guard.server._LEARNER = ["/bin/sh", "-c", 'echo "$1 $$" >> lives; test "$1" = run && exec sleep 1000', "sh"]
guard.server._learner_installed = lambda: True
guard.server.Child.__init__.__kwdefaults__["restart_s"] = 0.01
guard.server.serve(guard.server.GuardSettings())
"""


@pytest.fixture
def with_learner(tmp_path: Path) -> Iterator[Callable[..., ServedGuard]]:
    """What makes a guard with a stub for a learner beside it."""
    made: list[ServedGuard] = []

    def make(*, ready: bool = True) -> ServedGuard:
        script = f"import os\nos.chdir({str(tmp_path)!r})\n" + _WITH_LEARNER
        made.append(ServedGuard(tmp_path, command=[sys.executable, "-c", script], learner=True, ready=ready))
        return made[0]

    yield make
    for guard in made:
        if guard._process is not None:
            guard.stop()


@pytest.mark.slow
def test_learner_beside_it(with_learner: Callable[..., ServedGuard], tmp_path: Path) -> None:
    """The learner runs beside the server, is started again when it dies, and ends with it."""
    guard = with_learner()
    publish_toy(guard.exports)
    guard.start()
    wait_for(lambda: len(_lines(tmp_path / "lives")) == 1)
    name, pid = _lines(tmp_path / "lives")[0].split()
    assert name == "run"
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: len(_lines(tmp_path / "lives")) == 2, timeout_s=60)
    assert httpx.get(f"{guard.base_url}/readyz").status_code == 200
    assert guard.stop() == 0
    assert not any(_alive(int(line.split()[1])) for line in _lines(tmp_path / "lives"))


@pytest.mark.slow
def test_first_model(with_learner: Callable[..., ServedGuard], tmp_path: Path) -> None:
    """Where there is no model the learner makes one first; when it cannot, the guard serves, but is not ready."""
    guard = with_learner(ready=False)
    guard.start()
    wait_for(lambda: len(_lines(tmp_path / "lives")) == 2)
    assert [line.split()[0] for line in _lines(tmp_path / "lives")] == ["bootstrap", "run"]
    assert httpx.get(f"{guard.base_url}/readyz").status_code == 503


@pytest.mark.slow
def test_server_that_dies(with_learner: Callable[..., ServedGuard], tmp_path: Path) -> None:
    """When the serving process dies, the whole ends with a failure for whoever supervises it, the learner too."""
    guard = with_learner()
    publish_toy(guard.exports)
    guard.start()
    wait_for(lambda: len(_lines(tmp_path / "lives")) == 1)
    learner = int(_lines(tmp_path / "lives")[0].split()[1])
    (worker,) = set(guard.pids) - {guard.process.pid, learner}
    os.kill(worker, signal.SIGKILL)
    assert guard.process.wait(30) == 1
    assert session_pids(guard.process.pid) == []
    assert "server_died" in {event["event"] for event in guard.events}


# what it refuses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "guard keys create"),
        ({"port": "no"}, "GUARD_PORT"),
        ({"database_url": "mysql://x"}, "GUARD_DATABASE_URL"),
        ({"keyring": "canary"}, "keyring is not readable"),
    ],
)
def test_refuses_to_start(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """With settings that cannot work it ends at once with status 1 and one line that names them, and nothing more."""
    guard = ServedGuard(tmp_path, **settings)
    ended = guard.run("serve")
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Bad configuration: ")
    assert said in line
    assert "canary" not in line


@pytest.mark.slow
def test_serves_others_with_a_key(tmp_path: Path) -> None:
    """With a key it binds to others' addresses too, and lets in who has it."""
    guard = ServedGuard(tmp_path, host="0.0.0.0")
    publish_toy(guard.exports)
    secret = guard.run("keys", "create", "bot").stdout.strip()
    with guard:
        url = f"{guard.base_url}/classify"
        assert httpx.post(url, json={"text": "hello"}).status_code == 401
        assert httpx.post(url, json={"text": "hello"}, headers={"x-api-key": secret}).status_code == 200


@pytest.mark.slow
def test_second_guard_on_the_port(guard: ServedGuard, tmp_path: Path) -> None:
    """A second guard on the same port is refused; the first one serves on."""
    guard.start()
    second = ServedGuard(tmp_path / "second", port=guard.port)
    ended = second.run("serve")
    assert ended.returncode == 1
    assert "GUARD_PORT" in ended.stderr
    assert httpx.get(f"{guard.base_url}/readyz").status_code == 200


@pytest.mark.slow
def test_broken_champion_from_the_start(guard: ServedGuard) -> None:
    """With nothing but a broken export it serves, is not ready, and says why."""
    version = Exports(guard.exports.folder).versions()[0]
    (guard.exports.path(version) / "model.onnx").write_bytes(b"")
    guard._ready = False
    guard.start()
    answer = httpx.get(f"{guard.base_url}/readyz")
    assert answer.status_code == 503
    assert [p[:20] for p in answer.json()["problems"]] == ["no model is loaded", "the champion does no"]
