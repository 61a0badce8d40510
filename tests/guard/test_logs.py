"""The log: one JSON object a line, and never what somebody wrote."""

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from guard import logs

CANARY = "canary-3f70"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers, root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers, threading.excepthook = handlers, hook
    root.setLevel(level)
    structlog.reset_defaults()


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""
    assert CANARY not in err
    return [json.loads(line) for line in err.splitlines()]


def _raise() -> None:
    raise ValueError(CANARY)


def test_events(capsys: pytest.CaptureFixture[str]) -> None:
    """An event is one line with its level, its time in UTC and its fields."""
    logs.configure("info")
    structlog.get_logger().info("swapped", version="0001")
    (line,) = _lines(capsys)
    assert (line["event"], line["level"], line["version"]) == ("swapped", "info", "0001")
    assert line["timestamp"].endswith("Z")


def test_level(capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is not written."""
    logs.configure("warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in _lines(capsys)] == ["loud"]


def test_exceptions_without_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an exception the type and the way to it are written, not its message."""
    logs.configure("info")
    try:
        _raise()
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
        structlog.get_logger().exception("failed")
    for line in _lines(capsys):
        assert line["error"] == "ValueError"
        assert line["frames"][-1].endswith("_raise")


def test_frames_are_few() -> None:
    """Of a deep stack the innermost places are kept."""

    def sink(depth: int) -> None:
        if depth:
            sink(depth - 1)
        _raise()

    with pytest.raises(ValueError, match=CANARY) as caught:
        sink(50)
    assert len(logs.frames(caught.value)) == 8
    assert logs.frames(caught.value)[-1].endswith(" _raise")


@pytest.mark.parametrize("name", ["sqlalchemy.engine", "litestar", "asyncio", "_granian", "granian.access", "root"])
def test_libraries_without_their_words(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Of a library's warning its name, level and place are written; what it is about, and its details, are not."""
    logs.configure("debug")
    logger = logging.getLogger(name)
    logger.debug(CANARY)
    logger.info(CANARY)
    logger.warning("%s", CANARY)
    try:
        _raise()
    except ValueError:
        logger.exception(CANARY)
    lines = _lines(capsys)
    assert [(line["library"], line["level"]) for line in lines] == [(name, "warning"), (name, "error")]
    assert all(line["place"].startswith("test_logs.py:") for line in lines)


def test_warnings_without_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's warnings are lines too."""
    with warnings.catch_warnings():
        logs.configure("info")
        warnings.simplefilter("always")
        warnings.warn(CANARY, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert [line["library"] for line in _lines(capsys)] == ["py.warnings"]


_THREAD = """
import threading
from guard import logs
logs.configure("info")
def fall():
    raise ValueError("canary-3f70")
thread = threading.Thread(target=fall, name="batcher-0")
thread.start()
thread.join()
"""


def test_thread_that_ends_by_an_exception() -> None:
    """A thread that dies says so in a line, without the exception's words."""
    run = subprocess.run([sys.executable, "-c", _THREAD], capture_output=True, text=True, check=True)
    line = json.loads(run.stderr)
    assert (line["event"], line["thread"], line["error"]) == ("thread_ended", "batcher-0", "ValueError")
    assert CANARY not in run.stdout + run.stderr
