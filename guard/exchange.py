"""Messages and labels between a file and the store, with a bar on a terminal; `guard.records` knows the files."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Self, TextIO

from rich.console import Console
from rich.progress import Progress

from guard.check import champion
from guard.engine import Engine
from guard.errors import BadRecord
from guard.records import WRITERS, Format, Numbered, read
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.transfer import Record, Tally, Verdict
from guard.text import normalise


async def export(store: Store, kind: Format, stream: TextIO, *, labelled: bool) -> int:
    """Write every message with its labels to a stream, or only the labelled ones, and return how many there were."""
    number = 0
    writer = WRITERS[kind](stream)
    total = await store.transfer.count(labelled=labelled)
    with _bar("Exporting", total, hidden=stream.isatty()) as advance:
        async for batch in store.transfer.records(labelled=labelled):
            for record in batch:
                writer.add(record)
            number += len(batch)
            advance(len(batch))
    writer.end()
    stream.flush()
    return number


async def bring(
    store: Store,
    settings: GuardSettings,
    kind: Format,
    stream: TextIO,
    *,
    complain: Callable[[int, str], None],
    keep: bool,
) -> Tally:
    """Add a stream's messages and labels to the store: all, or none where one cannot be taken or `keep` is false.

    Args:
        complain: Told the number of each message that cannot be taken, and why; never its text.
        keep: Whether to commit.

    Raises:
        NoModel: A text has no verdict with it, and there is no champion to give one.
    """
    records = (_normalised(number, record, settings.max_text_chars) for number, record in read(kind, stream))
    with _Champion(settings) as judge, _bar("Importing", None, hidden=False) as advance:
        return await store.transfer.add(
            records,
            judge=judge,
            retention=timedelta(days=settings.retention_days),
            labelled_retention=timedelta(days=settings.labelled_retention_days),
            max_messages=settings.pool_max_messages,
            complain=complain,
            keep=keep,
            told=lambda: advance(1),
        )


class _Champion:
    """Judges texts in this process; loaded for the first of them."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def __call__(self, text: str) -> Verdict:
        """Return the champion's verdict on a normalised text.

        Raises:
            NoModel: There is no champion.
        """
        if self._engine is None:
            self._engine = self._stack.enter_context(champion(self._settings))
        judged = await self._engine.classify([text])
        (verdict,) = judged.verdicts
        return Verdict(judged.model_version, verdict.category, verdict.scores, verdict.uncertainty)


def _normalised(number: int, record: Record | BadRecord, limit: int) -> Numbered:
    if isinstance(record, BadRecord) or record.text is None:
        return number, record
    if len(record.text) > limit:
        return number, BadRecord(f"the text is longer than {limit} characters (GUARD_MAX_TEXT_CHARS)")
    text = normalise(record.text)
    return number, replace(record, text=text) if text else BadRecord("the text holds no visible character")


@contextmanager
def _bar(what: str, total: int | None, *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """Yield what moves a bar on standard error; there is none where it would be torn, or nobody sees it."""
    if hidden or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.advance(task, number)
