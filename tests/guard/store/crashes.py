"""Reviewers that are killed while they label: what they were told is on disk must be there, once.

A reviewer writes into its ledger, synced, what it is about to send and what was acknowledged, as a client would know it.
Killed and started again it first sends what was not acknowledged, with the same idempotency key.
"""

import asyncio
import os
import random
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from guard.errors import StoreUnavailable
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.taxonomy import CATEGORIES
from tests.guard import processes


@dataclass(frozen=True, slots=True)
class Entry:
    """What a reviewer knows of one label: `label_id` is None as long as it was not acknowledged."""

    pick_id: int
    key: str
    label_id: int | None


class Ledger:
    """What reviewers sent and what was acknowledged, in the order in which it happened."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, entry: Entry) -> None:
        """Append an entry and sync it."""
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{entry.pick_id} {entry.key} {entry.label_id or '-'}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[Entry]:
        """Return all entries; a line that a kill cut short was never acted upon."""
        if not self._file.exists():
            return []
        lines = self._file.read_text().split("\n")[:-1]
        fields = [line.split() for line in lines]
        return [Entry(int(pick), key, None if label == "-" else int(label)) for pick, key, label in fields]

    def acknowledged(self) -> list[Entry]:
        """Return the acknowledged entries."""
        return [entry for entry in self.read() if entry.label_id is not None]


def review(settings: GuardSettings, reviewer: str, ledger: Path) -> None:
    """Label until nothing is left, in a process of its own."""
    asyncio.run(_review(settings, reviewer, Ledger(ledger)))


async def _review(settings: GuardSettings, reviewer: str, ledger: Ledger) -> None:
    async with open_store(settings) as store:
        entries = ledger.read()
        if entries and entries[-1].label_id is None:
            await _send(store, reviewer, ledger, entries[-1])
        while (held := await store.review.next(reviewer)) is not None:
            entry = Entry(held.pick_id, uuid4().hex, None)
            ledger.write(entry)
            await _send(store, reviewer, ledger, entry)


async def _send(store: Store, reviewer: str, ledger: Ledger, entry: Entry) -> None:
    category = CATEGORIES[entry.pick_id % len(CATEGORIES)]
    label_id = await store.review.label(entry.pick_id, reviewer=reviewer, category=category, idempotency_key=entry.key)
    ledger.write(Entry(entry.pick_id, entry.key, label_id))


def kill_while_labelling(
    settings: GuardSettings, ledger: Path, *, rounds: int, seed: int, longest_s: float = 0.3
) -> int:
    """Start a reviewer again and again and kill it at seeded times after its first line; return how often it was at work."""
    rng = random.Random(seed)
    killed = 0
    for _ in range(rounds):
        lines = len(Ledger(ledger).read())
        reviewer = processes.start(review, settings, "ann", ledger)
        while reviewer.is_alive() and len(Ledger(ledger).read()) == lines:
            reviewer.join(0.005)
        reviewer.join(rng.uniform(0, longest_s))
        killed += reviewer.is_alive()
        reviewer.kill()
        reviewer.join()
    return killed


async def label_through_outages(
    settings: GuardSettings, reviewer: str, ledger: Ledger, *, labelled: asyncio.Semaphore, outage: asyncio.Event
) -> None:
    """Label until nothing is left, trying again whenever the store is unavailable.

    Args:
        settings: Where the store is.
        reviewer: Who labels.
        ledger: Where it writes down what it does.
        labelled: Released once for each acknowledged label.
        outage: Set when the store was unavailable.
    """
    async with open_store(settings) as store:
        entry: Entry | None = None
        while True:
            try:
                if entry is None:
                    held = await store.review.next(reviewer)
                    if held is None:
                        return
                    entry = Entry(held.pick_id, uuid4().hex, None)
                    ledger.write(entry)
                await _send(store, reviewer, ledger, entry)
                entry = None
                labelled.release()
            except StoreUnavailable:
                outage.set()
                await asyncio.sleep(0)
