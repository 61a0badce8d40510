"""Pairs of a labelled message and an LLM's text, which people check: contrasts and accepted variations, decided and undone.

`contrasts` proposes the first and `variations` records the others; what a verdict means for training is in
`variations.freeze`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict, NotFound
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.ledger import enter
from guard.store.pool import open_text
from guard.store.rows import Contrast, Label, Message, SnapshotItem, Variation
from guard.store.states import ContrastState, Deed, PairKind, PairVerdict
from guard.store.variations import open_sealed
from guard.taxonomy import Category

UNDOABLE: Final = 10  # decisions back
_STATES: Final = {
    None: ContrastState.PROPOSED,
    PairVerdict.FLIPS: ContrastState.CONFIRMED,
    PairVerdict.HOLDS: ContrastState.REJECTED,
    PairVerdict.UNCLEAR: ContrastState.UNCLEAR,
}
_VERDICTS: Final = {state: verdict for verdict, state in _STATES.items()}
_DEEDS: Final = {PairKind.CONTRAST: Deed.CONTRAST_DECIDED, PairKind.VARIATION: Deed.VARIATION_DECIDED}


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair leased to a reviewer, opened: the message with its label, and the LLM's text with the one it should have.

    A variation should have the message's own, a contrast another one.
    """

    kind: PairKind
    id: int
    cycle_id: int
    seed: str
    seed_category: Category
    text: str
    category: Category
    leased_until: datetime


@dataclass(slots=True)
class Stratum:
    """How many variations of a category a cycle has whose label still stands, and what people said of them."""

    category: Category
    size: int = 0
    holds: int = 0
    flips: int = 0
    unclear: int = 0

    @property
    def checked(self) -> int:
        """How many of them people have decided about."""
        return self.holds + self.flips + self.unclear


class Pairs:
    """Queries over what people check."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime], *, lease_s: int) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._lease = timedelta(seconds=lease_s)

    async def next(self, reviewer: str) -> Pair | None:
        """Lease the next pair to a reviewer: the one they took last and still hold, else the first that nobody holds.

        Contrasts come first, oldest first: nothing of them is trained on before. Then come variations whose label stands,
        by their fingerprints. These are hashes under a secret key, so the order is uniformly random, independent of the
        texts and the same for all, and nobody who sends or writes a text can bring it about that it is checked or not.
        What was checked is therefore a simple random sample of a cycle's variations at any time, but for the one that
        each reviewer has before them: a pair that is left undecided comes first again.
        """
        async with self._database.write() as session:
            return await self._next(session, reviewer, self._clock())

    async def decide(self, kind: PairKind, pair_id: int, *, verdict: PairVerdict, reviewer: str) -> Pair | None:
        """Record a person's verdict with who gave it and when, and lease the next pair as `next` does, in one transaction.

        The same verdict of the same reviewer again is the same decision.

        Raises:
            NotFound: There is no such pair, or its message was erased.
            Conflict: It is decided already, or held by someone else.
        """
        now = self._clock()
        async with self._database.write() as session:
            row = await _find(session, kind, pair_id)
            given = _verdict(row)
            if given is None:
                if row.leased_by != reviewer and row.leased_until is not None and row.leased_until > now:
                    held_until = f"{row.leased_until:%H:%M:%S} UTC"
                    raise Conflict(f"This {kind} ({pair_id}) is held by another reviewer until {held_until}.")
                _set(row, verdict)
                row.reviewer, row.decided_at = reviewer, now
                row.leased_by = row.leased_until = None
                enter(session, _DEEDS[kind], at=now, actor=reviewer, subject=f"{kind} {pair_id}", verdict=verdict)
            elif (given, row.reviewer) != (verdict, reviewer):
                raise Conflict(f"This {kind} ({pair_id}) is decided already: whoever decided can undo it.")
            return await self._next(session, reviewer, now)

    async def undo(self, reviewer: str) -> None:
        """Take back the reviewer's latest verdict and hold its pair again; again and again, up to `UNDOABLE` pairs back.

        Raises:
            NotFound: There is nothing to undo.
            Conflict: It is a contrast that a data set holds: a model was trained on it.
        """
        now = self._clock()
        async with self._database.write() as session:
            row = next((row for row in await _latest(session, reviewer) if _verdict(row) is not None), None)
            if row is None:
                raise NotFound(f"There is no verdict of yours to undo among your last {UNDOABLE}.")
            kind = _kind(row)
            if kind is PairKind.CONTRAST:
                frozen = select(SnapshotItem.cycle_id).where(SnapshotItem.contrast_id == row.id).limit(1)
                cycle_id = await session.scalar(frozen)
                if cycle_id is not None:
                    raise Conflict(
                        f"Your latest verdict, on contrast {row.id}, stands: the data set of cycle {cycle_id} holds it, "
                        "and a model may have been trained on that."
                    )
            _set(row, None)
            row.leased_by, row.leased_until = reviewer, now + self._lease
            enter(session, Deed.UNDONE, at=now, actor=reviewer, subject=f"{kind} {row.id}")

    async def undoable(self, reviewer: str) -> int:
        """Return how many of the reviewer's latest `UNDOABLE` verdicts stand."""
        async with self._database.read() as session:
            return sum(_verdict(row) is not None for row in await _latest(session, reviewer))

    async def waiting(self) -> int:
        """Return how many contrasts wait for a verdict; variations are checked as time allows, so none of them waits."""
        query = select(func.count()).select_from(Contrast).where(Contrast.state == ContrastState.PROPOSED)
        async with self._database.read() as session:
            return int(await session.scalar(query) or 0)

    async def strata(self) -> list[Stratum]:
        """Return the variations whose label stands, and what people said of them, by cycle and category."""
        query = (
            select(Variation.cycle_id, Variation.category, Variation.verdict, func.count())
            .where(_stands())
            .group_by(Variation.cycle_id, Variation.category, Variation.verdict)
            .order_by(Variation.cycle_id)
        )
        found: dict[tuple[int, Category], Stratum] = {}
        async with self._database.read() as session:
            for cycle_id, category, verdict, number in await session.execute(query):
                stratum = found.setdefault((cycle_id, category), Stratum(category))
                stratum.size += number
                if verdict is not None:
                    setattr(stratum, verdict, number)
        return list(found.values())

    async def _next(self, session: AsyncSession, reviewer: str, now: datetime) -> Pair | None:
        found: list[tuple[Any, Message]] = []
        for row, waiting in ((Contrast, _proposed()), (Variation, _unchecked())):
            mine = waiting.where(row.leased_by == reviewer, row.leased_until > now)
            found += (await session.execute(mine)).tuples().all()
        found.sort(key=lambda pair: pair[0].leased_until, reverse=True)
        for row, waiting in ((Contrast, _proposed()), (Variation, _unchecked())):
            if not found:
                free = waiting.where(or_(row.leased_until.is_(None), row.leased_until <= now)).limit(1)
                found += (await session.execute(free)).tuples().all()
        if not found:
            return None
        row, message = found[0]
        row.leased_by, row.leased_until = reviewer, now + self._lease
        return Pair(
            kind=_kind(row),
            id=row.id,
            cycle_id=row.cycle_id,
            seed=open_text(self._keyring, message),
            seed_category=row.seed_category if isinstance(row, Contrast) else row.category,
            text=open_sealed(self._keyring, row),
            category=row.category,
            leased_until=row.leased_until,
        )


async def _find(session: AsyncSession, kind: PairKind, pair_id: int) -> Contrast | Variation:
    found: Contrast | Variation | None
    if kind is PairKind.CONTRAST:
        found = await session.get(Contrast, pair_id)
    else:
        found = await session.get(Variation, pair_id)
    if found is None:
        raise NotFound(f"There is no {kind} {pair_id}: its message may have been erased. Ask for the next one.")
    return found


def _proposed() -> Select[tuple[Any, Message]]:
    """Return the contrasts that wait for a person, oldest first."""
    return (
        select(Contrast, Message)
        .join(Message, Message.id == Contrast.message_id)
        .where(Contrast.state == ContrastState.PROPOSED)
        .order_by(Contrast.id)
    )


def _unchecked() -> Select[tuple[Any, Message]]:
    """Return the variations that nobody has decided about, in the order in which they are offered."""
    return (
        select(Variation, Message)
        .join(Message, Message.id == Variation.message_id)
        .where(Variation.verdict.is_(None), _stands())
        .order_by(Variation.fingerprint)
    )


def _stands() -> ColumnElement[bool]:
    """Return whether the label that a variation was written for is its message's latest; others are not trained on."""
    latest = (
        select(Label.category)
        .where(Label.message_id == Variation.message_id, Label.undone_at.is_(None), Label.category.is_not(None))
        .order_by(Label.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return latest == Variation.category


async def _latest(session: AsyncSession, reviewer: str) -> list[Contrast | Variation]:
    """Return the pairs that a reviewer decided about last, latest first, undone ones too: they do not let older ones in."""
    rows: list[Contrast | Variation] = []
    for row, order in ((Variation, Variation.fingerprint), (Contrast, Contrast.id)):
        query = select(row).where(row.reviewer == reviewer).order_by(row.decided_at.desc(), order.desc())
        rows += await session.scalars(query.limit(UNDOABLE))
    return sorted(rows, key=_decided_at, reverse=True)[:UNDOABLE]


def _decided_at(row: Contrast | Variation) -> datetime:
    assert row.decided_at is not None  # noqa: S101 - it has a reviewer
    return row.decided_at


def _kind(row: Contrast | Variation) -> PairKind:
    return PairKind.CONTRAST if isinstance(row, Contrast) else PairKind.VARIATION


def _verdict(row: Contrast | Variation) -> PairVerdict | None:
    return _VERDICTS[row.state] if isinstance(row, Contrast) else row.verdict


def _set(row: Contrast | Variation, verdict: PairVerdict | None) -> None:
    if isinstance(row, Contrast):
        row.state = _STATES[verdict]
    else:
        row.verdict = verdict
