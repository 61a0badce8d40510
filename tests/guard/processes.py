"""Processes that may be killed: forked from a clean one with everything imported, so that each starts in milliseconds."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "guard.store", "guard.exports"])


def start(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Run a function of a module in a process of its own."""
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def finish(process: ForkServerProcess, *, timeout_s: float = 60) -> int:
    """Wait for a process and return its exit code; a negative one is the signal that killed it."""
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"The process took longer than {timeout_s} s.")
    return process.exitcode


@contextmanager
def killed_at(step: int, folder: Path) -> Iterator[None]:
    """Kill this process before its n-th operation on a file below the folder."""
    steps = [0]

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"} and str(folder) in str(arguments[0]):
            steps[0] += 1
            if steps[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    yield
