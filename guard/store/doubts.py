"""Labels that models disagree with which never saw them: raised by the learner, settled by whoever looks again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Select, and_, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict, NotFound
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.lease import LEARNER, check_fence
from guard.store.ledger import enter
from guard.store.opinions import Opinions, reviewers
from guard.store.pool import open_text
from guard.store.rows import Cycle, Doubt, Label, Message, Pick, PickMark
from guard.store.states import CycleState, Deed, Mark
from guard.taxonomy import Category

UNDOABLE: Final = 10  # second looks back
_S = TypeVar("_S", bound=Select[Any])


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A label that may be wrong.

    Args:
        message_id: The message.
        category: What it is labelled as.
        opinion: What models that never saw the label take the message for, with this mean probability.
    """

    message_id: int
    category: Category
    opinion: Category
    probability: float


@dataclass(frozen=True, slots=True)
class Doubted:
    """A label to look at again, with its message, opened; `verdict` is the category that let the message in."""

    pick_id: int
    text: str
    category: Category
    opinion: Category
    probability: float
    verdict: Category


class Doubts:
    """Queries over doubts."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._opinions = opinions

    async def suspect(self, cycle_id: int, suspicions: Sequence[Suspicion], *, most: int, fence: int) -> int:
        """Have people look again at labels, and return at how many.

        Passed over are labels that were doubted or adjudicated before, or have changed since the data set was frozen.

        Args:
            cycle_id: The cycle whose training suspects them.
            suspicions: The likeliest errors first.
            most: How many of them are taken.
            fence: The learner's.

        Raises:
            Conflict: The lease was lost.
        """
        now = self._clock()
        async with self._database.write() as session:
            await check_fence(session, LEARNER, fence)
            ids = [suspicion.message_id for suspicion in suspicions]
            looked_at = set(await session.scalars(select(Doubt.message_id).where(Doubt.message_id.in_(ids))))
            adjudged = select(Label.message_id).where(Label.adjudicates, Label.undone_at.is_(None))
            looked_at.update(await session.scalars(adjudged.where(Label.message_id.in_(ids))))
            picks = select(Pick).where(Pick.message_id.in_(ids), Pick.category.is_not(None)).order_by(Pick.id)
            latest = {pick.message_id: pick for pick in await session.scalars(picks)}
            doubts = [
                Doubt(
                    pick_id=latest[one.message_id].id,
                    message_id=one.message_id,
                    cycle_id=cycle_id,
                    category=one.category,
                    opinion=one.opinion,
                    probability=one.probability,
                    raised_at=now,
                    settled_at=None,
                    reviewer=None,
                    label_id=None,
                )
                for one in suspicions
                if one.message_id not in looked_at
                and one.message_id in latest
                and latest[one.message_id].category is one.category
            ][:most]
            session.add_all(doubts)
            return len(doubts)

    async def waiting(self, reviewer: str, limit: int = 1) -> list[Doubted]:
        """Return labels that wait for a second look of this reviewer's, in the order in which they were doubted."""
        query = _for(select(Doubt, Message).join(Message, Message.id == Doubt.message_id), reviewer)
        async with self._database.read() as session:
            rows = await session.execute(query.order_by(Doubt.id).limit(limit))
            return [
                Doubted(
                    pick_id=doubt.pick_id,
                    text=open_text(self._keyring, message),
                    category=doubt.category,
                    opinion=doubt.opinion,
                    probability=doubt.probability,
                    verdict=message.category,
                )
                for doubt, message in rows
            ]

    async def count(self, reviewer: str | None = None) -> int:
        """Return how many labels wait for a second look, of this reviewer's or of anybody's."""
        query = select(func.count(Doubt.id))
        query = _waiting(query) if reviewer is None else _for(query, reviewer)
        async with self._database.read() as session:
            return int(await session.scalar(query) or 0)

    async def settle(self, pick_id: int, *, reviewer: str, category: Category | None) -> None:
        """Keep a doubted label, or put another in its place; the same decision of the same reviewer again is one.

        Args:
            category: None means "can't tell"; then the label stays as it is.

        Raises:
            NotFound: There is no such doubt, or its message was erased.
            Conflict: It is settled already, or the label is this reviewer's own and others can look at it.
        """
        now = self._clock()
        async with self._database.write() as session:
            doubt = await _doubt(session, pick_id)
            if doubt.settled_at is not None and doubt.reviewer == reviewer:
                said = None if doubt.label_id is None else (await session.get_one(Label, doubt.label_id)).category
                if said is category:
                    return
            await _check_for(session, doubt, reviewer)
            doubt.settled_at, doubt.reviewer = now, reviewer
            pick = await session.get_one(Pick, pick_id)
            if category is not None:
                label = Label(
                    pick_id=pick_id,
                    message_id=doubt.message_id,
                    reviewer=reviewer,
                    category=category,
                    decided_at=now,
                    undone_at=None,
                    idempotency_key=None,
                    scores_shown=True,
                    adjudicates=True,
                )
                session.add(label)
                await session.flush()
                doubt.label_id = label.id
            await self._settle(session, pick, spent=1)
            before = doubt.category
            subject = f"pick {pick_id}"
            enter(
                session, Deed.DOUBT_SETTLED, at=now, actor=reviewer, subject=subject, category=category, before=before
            )

    async def hand_on(self, pick_id: int, reviewer: str) -> None:
        """Leave a second look to others: this reviewer is not asked again, and need not say why.

        Raises:
            NotFound: There is no such doubt, or its message was erased.
            Conflict: It is settled already, or not this reviewer's to look at.
        """
        now = self._clock()
        async with self._database.write() as session:
            await _check_for(session, await _doubt(session, pick_id), reviewer)
            await session.merge(PickMark(pick_id=pick_id, reviewer=reviewer, mark=Mark.HANDED_ON, marked_at=now))
            enter(session, Deed.HANDED_ON, at=now, actor=reviewer, subject=f"pick {pick_id}")

    async def undo(self, reviewer: str) -> int:
        """Take back the reviewer's latest second look and return its pick's id; it waits again.

        Again and again, up to `UNDOABLE` back, until a data set is frozen: from then on it is trained on.

        Raises:
            NotFound: There is nothing to undo.
        """
        now = self._clock()
        async with self._database.write() as session:
            doubt = (await session.scalars(_undoable(reviewer))).first()
            if doubt is None:
                raise NotFound("There is no second look of yours to undo since the last data set was frozen.")
            if doubt.label_id is not None:
                (await session.get_one(Label, doubt.label_id)).undone_at = now
            doubt.settled_at = doubt.reviewer = doubt.label_id = None
            await self._settle(session, await session.get_one(Pick, doubt.pick_id), spent=-1)
            enter(session, Deed.UNDONE, at=now, actor=reviewer, subject=f"pick {doubt.pick_id}")
            return doubt.pick_id

    async def undoable(self, reviewer: str) -> int:
        """Return how many second looks of the reviewer can be taken back."""
        async with self._database.read() as session:
            return len((await session.scalars(_undoable(reviewer))).all())

    async def _settle(self, session: AsyncSession, pick: Pick, *, spent: int) -> None:
        cycle = await session.get_one(Cycle, pick.cycle_id)
        cycle.labels_spent += spent
        await self._opinions.settle(session, [pick], closed=cycle.state is not CycleState.LABELLING)


async def _doubt(session: AsyncSession, pick_id: int) -> Doubt:
    doubt: Doubt | None = await session.scalar(select(Doubt).where(Doubt.pick_id == pick_id))
    if doubt is None:
        raise NotFound(f"Nobody doubts the label of pick {pick_id}: its message may have been erased.")
    return doubt


async def _check_for(session: AsyncSession, doubt: Doubt, reviewer: str) -> None:
    if await session.scalar(_for(select(Doubt.id), reviewer).where(Doubt.id == doubt.id)) is None:
        raise Conflict(f"Pick {doubt.pick_id} was looked at again already, or the label is yours: take the next one.")


def _waiting(query: _S) -> _S:
    """Return what nobody has looked at again, and whose label is still the one that was doubted."""
    return query.join(Pick, Pick.id == Doubt.pick_id).where(Doubt.settled_at.is_(None), Pick.category == Doubt.category)


def _for(query: _S, reviewer: str) -> _S:
    """Return what this reviewer may look at: nobody judges their own label while there is somebody else to do it."""
    there = reviewers().subquery()
    others = exists().where(~_labelled(there.c.name), ~_passed(there.c.name)).select_from(there)
    return _waiting(query).where(~_passed(reviewer), ~and_(_labelled(reviewer), others))


def _labelled(name: Any) -> ColumnElement[bool]:
    return exists().where(Label.pick_id == Doubt.pick_id, Label.reviewer == name, Label.undone_at.is_(None))


def _passed(name: Any) -> ColumnElement[bool]:
    return exists().where(PickMark.pick_id == Doubt.pick_id, PickMark.reviewer == name, PickMark.mark == Mark.HANDED_ON)


def _undoable(reviewer: str) -> Select[tuple[Doubt]]:
    latest = select(Doubt.id).where(Doubt.reviewer == reviewer).order_by(Doubt.settled_at.desc(), Doubt.id.desc())
    frozen = exists().where(Cycle.frozen_at >= Doubt.settled_at)
    return (
        select(Doubt)
        .where(Doubt.id.in_(latest.limit(UNDOABLE)), ~frozen)
        .order_by(Doubt.settled_at.desc(), Doubt.id.desc())
    )
