"""Threads that compute give way to those that answer."""

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from guard.batcher import Batcher
from guard.bundle import Bundle, Outputs, Window
from guard.exports import Exports
from guard.priority import RUNS, give_way
from tests.toys import publish_toy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")

_RUN = Bundle.run


def _niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_give_way() -> None:
    """A thread lowers its own priority, never below the lowest, and nobody else's."""
    before = _niceness(threading.get_native_id())

    def lower(steps: int) -> int:
        give_way(steps)
        return _niceness(threading.get_native_id())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lower, 3).result() == min(19, before + 3)
        assert pool.submit(lower, 100).result() == 19
    assert _niceness(threading.get_native_id()) == before


async def test_runs_give_way(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is made by a thread that comes behind the one which waits for it."""
    seen: list[int] = []

    def run(bundle: Bundle, windows: Sequence[Window]) -> Outputs:
        seen.append(_niceness(threading.get_native_id()))
        return _RUN(bundle, windows)

    monkeypatch.setattr(Bundle, "run", run)
    bundle = Bundle.load(exports, publish_toy(exports))
    seen.clear()
    batcher = Batcher(threads=1, max_queue_tokens=100)
    try:
        await batcher.run(bundle, bundle.encode(["hello"])[0], timeout_s=30)
    finally:
        batcher.close()
    assert seen == [min(19, _niceness(threading.get_native_id()) + RUNS)]
