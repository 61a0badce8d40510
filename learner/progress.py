"""How far a long stage is: `(stage, done, total)` comes in; a bar on a terminal, plain lines elsewhere, goes out."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int], None]

LINE_EVERY_S: Final = 5.0  # a log of a long stage stays readable


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""


@contextmanager
def shown(stream: TextIO) -> Iterator[Progress]:
    """Yield a progress that may be called from any thread and shows itself on a stream."""
    console = Console(file=stream)
    if not console.is_terminal:
        yield _Lines(stream, time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console) as bars:
        yield _Bar(bars)


class _Bar:
    """One bar a stage; a stage that starts anew gets a new one."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)
        if done >= total:
            del self._tasks[stage]


class _Lines:
    """A line when a stage begins, when it ends, and every few seconds between."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._stage = ""
        self._said_at = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        if stage == self._stage and done < total and now - self._said_at < LINE_EVERY_S:
            return
        self._stage, self._said_at = stage, now
        self._stream.write(f"{stage} {done}/{total}\n")
        self._stream.flush()
