"""What people differ about: the contested picks, an admin's decision between them, and how alike people label."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Select, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict, NotFound
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.ledger import enter
from guard.store.opinions import OPINION, Opinions, asked_twice
from guard.store.pool import AUDIT, IMPORT, open_text
from guard.store.rows import Cycle, Doubt, Label, Message, Pick
from guard.store.states import CycleState, Deed, PickState
from guard.taxonomy import Category

UNDOABLE: Final = 10  # decisions back
_LATEST: Final = 1000  # messages that figures rest on: how people label now, not years ago
_S = TypeVar("_S", bound=Select[Any])


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody said of a message, and when; a `category` of None means "can't tell"."""

    reviewer: str
    category: Category | None
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Contested:
    """A message about which people differ, opened.

    Args:
        verdict: The category that let it in.
        audit: Whether it came by the audit stream.
        open: Whether its batch is open still.
        asked: Whether a third reviewer is asked meanwhile.
        opinions: In the order in which they were given.
    """

    pick_id: int
    cycle_id: int
    text: str
    verdict: Category
    audit: bool
    open: bool
    asked: bool
    opinions: list[Opinion]


@dataclass(frozen=True, slots=True)
class Doubled:
    """A message that two people were asked about from the outset, and their opinions, the first two.

    Args:
        settled: Whether it is settled; then `category` is what it is settled as.
    """

    opinions: tuple[Opinion, Opinion]
    settled: bool
    category: Category | None


class Conflicts:
    """Queries over contested picks."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._opinions = opinions

    async def count(self, *, open_too: bool = True) -> int:
        """Return how many picks are contested; without `open_too` only those of closed batches."""
        async with self._database.read() as session:
            return int(await session.scalar(_contested(select(func.count(Pick.id)), open_too=open_too)) or 0)

    async def contested(self, limit: int, *, open_too: bool = True) -> list[Contested]:
        """Return contested picks, oldest first; without `open_too` only those of closed batches."""
        query = _contested(select(Pick, Message, Cycle.state), open_too=open_too).order_by(Pick.id).limit(limit)
        async with self._database.read() as session:
            rows = (await session.execute(query.join(Message, Message.id == Pick.message_id))).all()
            opinions: dict[int, list[Opinion]] = {pick.id: [] for pick, _, _ in rows}
            given = select(Label).where(Label.pick_id.in_(opinions), OPINION).order_by(Label.id)
            for label in await session.scalars(given):
                opinions[label.pick_id].append(Opinion(label.reviewer, label.category, label.decided_at))
        return [
            Contested(
                pick_id=pick.id,
                cycle_id=pick.cycle_id,
                text=open_text(self._keyring, message),
                verdict=message.category,
                audit=message.reason == AUDIT,
                open=state is CycleState.LABELLING,
                asked=state is CycleState.LABELLING and pick.wanted > len(opinions[pick.id]),
                opinions=opinions[pick.id],
            )
            for pick, message, state in rows
        ]

    async def adjudicate(
        self, pick_id: int, *, adjudicator: str, category: Category | None, idempotency_key: str
    ) -> int:
        """Settle a contested pick, whatever people said, and return the label's id; its batch may be closed.

        Args:
            category: None means that nobody can tell.

        Raises:
            NotFound: There is no such pick, or its message was erased.
            Conflict: It is not contested, or the idempotency key stands for another decision or one that was undone.
        """
        now = self._clock()
        async with self._database.write() as session:
            known = await session.scalar(select(Label).where(Label.idempotency_key == idempotency_key))
            if known is not None:
                made = (known.pick_id, known.reviewer, known.category, known.adjudicates, known.undone_at)
                if made != (pick_id, adjudicator, category, True, None):
                    raise Conflict("This idempotency key was used for another decision: load the page again.")
                return known.id
            pick = await session.get(Pick, pick_id)
            if pick is None:
                raise NotFound(f"There is no pick {pick_id}: its message may have been erased. Load the page again.")
            if pick.state is not PickState.CONTESTED:
                raise Conflict(f"Pick {pick_id} is not contested any more: it is {pick.state}.")
            label = Label(
                pick_id=pick_id,
                message_id=pick.message_id,
                reviewer=adjudicator,
                category=category,
                decided_at=now,
                undone_at=None,
                idempotency_key=idempotency_key,
                scores_shown=False,
                adjudicates=True,
            )
            session.add(label)
            await self._settle(session, pick, spent=1)
            pick.leased_by = pick.leased_until = None
            subject = f"pick {pick_id}"
            enter(
                session, Deed.ADJUDICATED, at=now, actor=adjudicator, subject=subject, label=label.id, category=category
            )
            return label.id

    async def undo(self, adjudicator: str) -> int:
        """Take back the adjudicator's latest decision and return its pick's id; the pick is contested again.

        Again and again, up to `UNDOABLE` decisions back, until a data set is frozen: from then on it is trained on.

        Raises:
            NotFound: There is nothing to undo.
        """
        now = self._clock()
        async with self._database.write() as session:
            latest = (await session.scalars(_undoable(adjudicator))).first()
            if latest is None:
                raise NotFound("There is no decision of yours to undo since the last data set was frozen.")
            latest.undone_at = now
            pick = await session.get_one(Pick, latest.pick_id)
            await self._settle(session, pick, spent=-1)
            enter(session, Deed.UNDONE, at=now, actor=adjudicator, subject=f"pick {pick.id}", label=latest.id)
            return pick.id

    async def undoable(self, adjudicator: str) -> int:
        """Return how many decisions of the adjudicator can be taken back."""
        async with self._database.read() as session:
            return len((await session.scalars(_undoable(adjudicator))).all())

    async def doubled(self) -> list[Doubled]:
        """Return the latest messages that two people labelled because two were asked, newest first.

        A third opinion, or a second one that the first called for, is given about messages that are harder than others,
        or likelier of some category: how people label on the whole cannot be read from it.
        """
        given = select(func.count(Label.id)).where(Label.pick_id == Pick.id, OPINION).correlate(Pick).scalar_subquery()
        query = (
            select(Pick.id, Pick.state, Pick.category)
            .join(Message, Message.id == Pick.message_id)
            .join(Cycle, Cycle.id == Pick.cycle_id)
            .where(asked_twice(), given > 1, Cycle.strategy != IMPORT)
            .order_by(Pick.id.desc())
            .limit(_LATEST)
        )
        async with self._database.read() as session:
            picks = (await session.execute(query)).all()
            opinions: dict[int, list[Opinion]] = {pick_id: [] for pick_id, _, _ in picks}
            said = select(Label.pick_id, Label.reviewer, Label.category, Label.decided_at)
            for pick_id, *opinion in await session.execute(
                said.where(Label.pick_id.in_(opinions), OPINION).order_by(Label.id)
            ):
                opinions[pick_id].append(Opinion(*opinion))
        settled = {PickState.LABELLED, PickState.UNCLEAR}
        return [
            Doubled((opinions[pick_id][0], opinions[pick_id][1]), state in settled, category)
            for pick_id, state, category in picks
        ]

    async def _settle(self, session: AsyncSession, pick: Pick, *, spent: int) -> None:
        cycle = await session.get_one(Cycle, pick.cycle_id)
        cycle.labels_spent += spent
        await self._opinions.settle(session, [pick], closed=cycle.state is not CycleState.LABELLING)


def _contested(query: _S, *, open_too: bool) -> _S:
    query = query.join(Cycle, Cycle.id == Pick.cycle_id).where(Pick.state == PickState.CONTESTED)
    return query if open_too else query.where(Cycle.state != CycleState.LABELLING)


def _undoable(adjudicator: str) -> Select[tuple[Label]]:
    second_look = exists().where(Doubt.label_id == Label.id)
    latest = select(Label.id).where(Label.reviewer == adjudicator, Label.adjudicates, ~second_look)
    frozen = exists().where(Cycle.frozen_at >= Label.decided_at)
    return (
        select(Label)
        .where(Label.id.in_(latest.order_by(Label.id.desc()).limit(UNDOABLE)), Label.undone_at.is_(None), ~frozen)
        .order_by(Label.id.desc())
    )
