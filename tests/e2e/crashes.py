"""A guard whose processes are killed again and again while reviewers label at its desk, and what is found afterwards.

A reviewer sends what was not acknowledged again, the same form with the same key, until it is. At the end every
acknowledged label must stand exactly once, with exactly one line in the ledger. `benchmarks.crashes` does it 200 times.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from sqlalchemy import select

from guard.passwords import hash_password
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.cycles import Picked
from guard.store.rows import Label, LedgerLine
from guard.store.states import Deed, Role
from guard.taxonomy import CATEGORIES
from tests.e2e.reviewers import PASSWORD, DeskReviewer
from tests.guard.store.scenes import add, arrival, learner, open_cycle, pooled
from tests.served import ServedGuard

REVIEWERS: Final = 3
PER_LIFE: Final = 40  # messages a life, more than reviewers get through in it
LONGEST_S: Final = 0.25  # from a life's first acknowledged label to its end
_PATIENCE_S: Final = 1800.0  # for the guard to start, and for that label: a machine may be busy
_RETRY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A label that a reviewer was told is recorded; `again_at` is when it was first sent again, None if it was not."""

    pick_id: int
    key: str
    category: str
    reviewer: str
    again_at: datetime | None


@dataclass
class Labelling:
    """What reviewers were told, over all lives of a guard."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    over: bool = False

    async def work(self, reviewer: DeskReviewer) -> None:
        """Label until it is over, whatever becomes of the guard."""
        while not self.over:
            form = reviewer.form
            if "pick_id" not in form:
                await self._look(reviewer)
                continue
            form["category"] = CATEGORIES[int(form["pick_id"]) % len(CATEGORIES)]
            await self._send(reviewer, form)

    async def _send(self, reviewer: DeskReviewer, form: dict[str, str]) -> None:
        again_at: datetime | None = None
        while True:
            try:
                answer = await reviewer.send(form)
            except httpx.TransportError:
                again_at = again_at or datetime.now(UTC)
                await asyncio.sleep(_RETRY_S)
                continue
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                await asyncio.sleep(_RETRY_S)
                continue
            if answer.status_code == httpx.codes.OK:
                told = Acknowledged(int(form["pick_id"]), form["key"], form["category"], reviewer.name, again_at)
                self.acknowledged.append(told)
            else:
                self.refused[answer.status_code] += 1
            return

    async def _look(self, reviewer: DeskReviewer) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await reviewer.look()
        await asyncio.sleep(_RETRY_S)


async def prepare(settings: GuardSettings, kills: int) -> None:
    """Make the accounts and a batch that lasts for so many lives."""
    async with open_store(settings, create_keyring=True) as store:
        for name in _names():
            await store.reviewers.add(name, Role.REVIEWER, hash_password(PASSWORD, name=name))
        await add(store, *(arrival(f"message {number}") for number in range(PER_LIFE * (kills + 1))))
        cycle = await open_cycle(store, await learner(store))
        picks = [Picked(message.id, {"strategy": "random"}, 1.0) for message in await pooled(store)]
        await store.cycles.fill(cycle.id, picks, fence=1, figures={})


async def kill_while_labelling(guard: ServedGuard, *, kills: int, seed: int) -> dict[str, Any]:
    """Kill a running guard's process group so often at seeded moments, start it again each time, and return what is found.

    A moment comes after the first label that is acknowledged in a life, so that no life is without one.

    Raises:
        TimeoutError: A life brought no label.
    """
    moments = random.Random(seed)
    labelling = Labelling()
    async with contextlib.AsyncExitStack() as stack:
        reviewers = [await stack.enter_async_context(DeskReviewer(guard.base_url, name)) for name in _names()]
        work = [asyncio.create_task(labelling.work(reviewer)) for reviewer in reviewers]
        for _ in range(kills):
            await _until_one_more(labelling)
            await asyncio.sleep(moments.uniform(0, LONGEST_S))
            os.killpg(guard.process.pid, signal.SIGKILL)
            await asyncio.to_thread(guard.stop)
            await asyncio.to_thread(guard.start, timeout_s=_PATIENCE_S)
        await _until_one_more(labelling)
        labelling.over = True
        await asyncio.gather(*work)
    async with open_store(_settings(guard)) as store:
        return await _found(store, labelling, kills)


async def _until_one_more(labelling: Labelling) -> None:
    seen, until = len(labelling.acknowledged), time.monotonic() + _PATIENCE_S
    while len(labelling.acknowledged) == seen:
        if time.monotonic() > until:
            raise TimeoutError(f"no label was acknowledged within {_PATIENCE_S:.0f} s")
        await asyncio.sleep(0.001)


async def _found(store: Store, labelling: Labelling, kills: int) -> dict[str, Any]:
    """Compare what was acknowledged with what is in the store."""
    async with store.database.read() as session:
        labels = (await session.scalars(select(Label))).all()
        lines = (await session.scalars(select(LedgerLine).where(LedgerLine.deed == Deed.LABELLED))).all()
    by_key: dict[str | None, list[Label]] = {}
    for label in labels:
        by_key.setdefault(label.idempotency_key, []).append(label)
    entered = Counter(line.detail["label"] for line in lines)
    standing = Counter((label.pick_id, label.reviewer) for label in labels if label.undone_at is None)
    told = {a.key: a for a in labelling.acknowledged}
    stored = {key: by_key[key] for key in told if key in by_key}
    changed = sum(_said(label) != _told(told[key]) for key, (label, *_) in stored.items())
    return {
        "kills": kills,
        "acknowledged": len(told),
        "lost": len(told) - len(stored),
        "twice": sum(len(found) > 1 for found in stored.values()) + sum(n > 1 for n in standing.values()),
        "changed": changed,
        "labels_without_one_line": sum(entered[label.id] != 1 for label in labels),
        "lines_without_label": len(entered.keys() - {label.id for label in labels}),
        "labels": len(labels),
        "sent_again": sum(a.again_at is not None for a in told.values()),
        "recorded_but_unanswered": sum(_was_there(told[key], found[0]) for key, found in stored.items()),
        "refused": dict(labelling.refused),
    }


def _was_there(told: Acknowledged, label: Label) -> bool:
    """Return whether a label that was sent again had been recorded before: only its answer was lost."""
    return told.again_at is not None and label.decided_at < told.again_at


def _said(label: Label) -> tuple[int, str, str | None]:
    return label.pick_id, label.reviewer, label.category


def _told(a: Acknowledged) -> tuple[int, str, str | None]:
    return a.pick_id, a.reviewer, a.category


def _settings(guard: ServedGuard) -> GuardSettings:
    url = guard.environment.get("GUARD_DATABASE_URL")
    return GuardSettings(data_dir=guard.data_dir, exports_dir=guard.exports.folder, database_url=url)


def _names() -> list[str]:
    return [f"reviewer-{number}" for number in range(REVIEWERS)]
