"""`guard check`: a line for each message as soon as it is judged, and an exit status that a script can go by."""

import io
import json
import os
import pty
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from guard import cli
from guard.check import BATCH_CHARS, BATCH_LINES, CHUNK_BYTES, batches
from guard.exports import Exports
from guard.taxonomy import Category
from tests.guard.client.misbehaving import Behaviour, Misbehaving, answer, babble, half, hang_up, verdicts
from tests.served import COMMAND, ServedGuard
from tests.toys import publish_toy

Check = Callable[..., Result]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """Run `guard check` in this process, without the settings of whoever runs the tests."""
    for name in ("GUARD_URL", "GUARD_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, lines: bytes | None = None) -> Result:
        return CliRunner().invoke(cli.app, ["check", *arguments], input=lines)

    return run


def _rows(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(("text", "status"), [("hello", 0), ("sue my landlord", 1), (" ", 2)])
def test_one_message(check: Check, served: ServedGuard, text: str, status: int) -> None:
    """The exit status says whether the message was harmless, flagged or not judged."""
    result = check(text, "--url", served.base_url)
    assert result.exit_code == status
    assert result.output.count("\n") == 1
    assert result.output.startswith(["not-harmful  ", "legal-advice  ", "Not judged: "][status])
    assert text.strip() == "" or text not in result.output


def test_json(check: Check, served: ServedGuard) -> None:
    """With --json an answer is one object with everything the guard said."""
    result = check("sue", "--url", served.base_url, "--json")
    (row,) = _rows(result.output)
    assert (row["line"], row["judged"], row["category"], row["flagged"], row["action"]) == (
        1,
        True,
        "legal-advice",
        True,
        "advise",
    )
    assert set(row["scores"]) == {c.value for c in Category}
    assert row["model_version"] == "0001"


def test_lines(check: Check, served: ServedGuard) -> None:
    """Each line of standard input that is not blank is answered under its number, whatever bytes it holds."""
    lines = b"hello\r\n\n  \t\nsue\n\xff hello \xfe\nfire"
    result = check("-", "--url", served.base_url, lines=lines)
    assert [(row["line"], row["category"]) for row in _rows(result.output)] == [
        (1, "not-harmful"),
        (4, "legal-advice"),
        (5, "not-harmful"),
        (6, "emergency-situation"),
    ]
    assert result.exit_code == 1


def test_no_lines(check: Check) -> None:
    """Where there is nothing to judge, nothing is flagged, and nobody is asked."""
    result = check("-", "--url", "http://127.0.0.1:1", lines=b"\n\n")
    assert (result.exit_code, result.output) == (0, "")


def test_one_bad_line_spoils_no_other(check: Check, served: ServedGuard) -> None:
    """A line that the guard does not take is not judged, those around it are."""
    lines = f"hello\n\u200b\n{'x' * 40_000}\nhello\n".encode()
    result = check("-", "--url", served.base_url, lines=lines)
    rows = _rows(result.output)
    assert [row["judged"] for row in rows] == [True, False, False, True]
    assert [row.get("title") for row in rows] == [None, "Empty text", "Too large", None]
    assert all("allowed" not in row for row in rows)
    assert result.exit_code == 2


def test_flagged_and_not_judged(check: Check) -> None:
    """What was not judged outweighs what was flagged: the answer is not complete."""
    with Misbehaving(answer(200, verdicts(Category.LEGAL_ADVICE)), answer(500)) as server:
        lines = f"sue\n{'x' * BATCH_CHARS}\n".encode()
        result = check("-", "--url", server.base_url, lines=lines)
    assert result.exit_code == 2
    assert [(row["line"], row["judged"]) for row in _rows(result.stdout)] == [(1, True), (2, False)]


def test_nothing_is_stored_and_the_key_is_sent(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check asks the guard to keep nothing, with the key of the environment."""
    monkeypatch.setenv("GUARD_API_KEY", "lg_secret")
    with Misbehaving(answer(200, verdicts(Category.NOT_HARMFUL, action="allow"))) as server:
        result = check("hello", "--url", server.base_url)
    (request,) = server.received
    assert result.exit_code == 0
    assert request.json["store"] is False
    assert request.headers["authorization"] == "Bearer lg_secret"


def test_guard_of_the_settings(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --url the guard at GUARD_URL is asked; with it, that one is not."""
    harmless = answer(200, verdicts(Category.NOT_HARMFUL, action="allow"))
    with Misbehaving(harmless) as named, Misbehaving(harmless) as set_:
        monkeypatch.setenv("GUARD_URL", set_.base_url)
        assert check("hello").exit_code == 0
        assert check("hello", "--url", named.base_url).exit_code == 0
        assert (len(set_.received), len(named.received)) == (1, 1)


def test_guard_that_breaks_is_not_replaced(check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the named guard does not answer, nothing is judged: the champion of this machine does not step in."""
    publish_toy(Exports(tmp_path))
    monkeypatch.setenv("GUARD_EXPORTS_DIR", str(tmp_path))
    with Misbehaving(hang_up) as server:
        result = check("sue", "--url", server.base_url)
    assert (result.exit_code, result.stdout.startswith("Not judged: no connection")) == (2, True)


def test_long_lines_are_not_asked_together(check: Check) -> None:
    """Lines that together are more than a guard judges in time go out one by one, each answered under its number."""
    with Misbehaving(answer(200, verdicts(Category.NOT_HARMFUL, action="allow"))) as server:
        lines = f"{'x' * BATCH_CHARS}\n".encode() * 3
        result = check("-", "--url", server.base_url, lines=lines)
    assert [(row["line"], row["judged"]) for row in _rows(result.output)] == [(1, True), (2, True), (3, True)]
    assert [len(request.json["texts"]) for request in server.received] == [1, 1, 1]


@pytest.mark.parametrize("reply", [answer(200, b"null"), half(b"{}"), babble], ids=["null", "half", "babble"])
def test_bad_guard_says_nothing_of_the_text(check: Check, reply: Behaviour) -> None:
    """What a guard that is none answers is not judged, and the message is repeated nowhere."""
    with Misbehaving(reply) as server:
        for arguments in (["zqcanary"], ["zqcanary", "--json"], ["-"]):
            result = check(*arguments, "--url", server.base_url, lines=b"zqcanary\nzqcanary\n")
            assert result.exit_code == 2
            assert "zqcanary" not in result.output


@pytest.mark.parametrize("arguments", [["--url", "nowhere"], []], ids=["no address", "no champion"])
def test_what_cannot_work(check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]) -> None:
    """What cannot work ends with one line and the status of what is not judged, not that of what is flagged."""
    monkeypatch.setenv("GUARD_EXPORTS_DIR", str(tmp_path))
    monkeypatch.setattr("guard.logs.configure", lambda _: None)
    result = check("hello", *arguments)
    assert result.exit_code == 2
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)


@pytest.mark.slow
def test_answers_come_while_lines_do(served: ServedGuard) -> None:
    """A line is answered before the next one is written: nothing waits for more."""
    command = [*COMMAND[:-1], "check", "-", "--url", served.base_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text, category in [("hello", "not-harmful"), ("sue", "legal-advice")]:
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["category"] == category
        _, errors = process.communicate()
    assert (process.returncode, errors) == (1, b"")


@pytest.mark.slow
def test_local(tmp_path: Path) -> None:
    """Where no guard is named the champion judges in the process: the same answers, and nothing is written to disk."""
    guard = ServedGuard(tmp_path)
    publish_toy(guard.exports)
    lines = b"hello\nsue my landlord\n\xe2\x80\x8b\nfire\n"
    command = [*COMMAND[:-1], "check", "-"]
    local = subprocess.run(command, input=lines, env=guard.environment, capture_output=True, check=False)
    assert not guard.data_dir.exists()
    with guard:
        environment = guard.environment | {"GUARD_URL": guard.base_url}
        served = subprocess.run(command, input=lines, env=environment, capture_output=True, check=False)
    here, there = _rows(local.stdout.decode()), _rows(served.stdout.decode())
    for row in (*here, *there):
        row.pop("id", None)
    assert here == there
    assert [row["judged"] for row in here] == [True, True, False, True]
    assert (local.returncode, local.stderr) == (served.returncode, served.stderr) == (2, b"")


@pytest.mark.slow
@pytest.mark.parametrize("from_file", [True, False], ids=["file", "pipe"])
def test_bar(served: ServedGuard, tmp_path: Path, *, from_file: bool) -> None:
    """A bar goes to the terminal where a file is judged, none for a pipe; the answers are the same without a trace."""
    lines = b"hello\nsue\n"
    (tmp_path / "messages.txt").write_bytes(lines)
    terminal, end = pty.openpty()
    command = [*COMMAND[:-1], "check", "-", "--url", served.base_url]
    with (tmp_path / "messages.txt").open("rb") as file:
        given: dict[str, Any] = {"stdin": file} if from_file else {"input": lines}
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=end, check=False, **given)
    os.close(end)
    shown = bytearray()
    with suppress(OSError):  # how a terminal ends whose other end is closed
        while part := os.read(terminal, CHUNK_BYTES):
            shown += part
    os.close(terminal)
    assert (b"Judging" in shown) is from_file
    assert [row["category"] for row in _rows(ended.stdout.decode())] == ["not-harmful", "legal-advice"]


# lines


def test_lines_across_chunks() -> None:
    """Lines longer than what is read at once stay whole, and no group is larger than a request takes."""
    long = b"x" * (3 * CHUNK_BYTES)
    stream = io.BytesIO(long + b"\n" + b"y\n" * 100 + b"z")
    groups = list(batches(stream))
    assert [line for group in groups for line in group] == [
        (1, long.decode()),
        *((n, "y") for n in range(2, 102)),
        (102, "z"),
    ]
    assert max(map(len, groups)) == BATCH_LINES


def test_batches_do_not_wait() -> None:
    """What has come is given out before more is read."""

    class Stream(io.BytesIO):
        parts = [b"a\nb\nc", b"c\n", b""]  # noqa: RUF012

        def read1(self, _: int | None = -1) -> bytes:
            return self.parts.pop(0)

    groups = batches(Stream())
    assert next(groups) == [(1, "a"), (2, "b")]
    assert Stream.parts == [b"c\n", b""]
    assert list(groups) == [[(3, "cc")]]
