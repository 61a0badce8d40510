"""Processes that may be killed: forked from a clean one with everything imported, so that each starts in milliseconds."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
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
