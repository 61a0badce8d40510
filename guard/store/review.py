"""The labelling batch: who holds which pick, and what people decided."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import Select, case, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict, NotFound
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.ledger import enter
from guard.store.opinions import OPINION, UNSETTLED, Opinions, asks, has_opinion, is_reviewer
from guard.store.pool import AUDIT, IMPORT, open_text
from guard.store.rows import Cycle, Label, Message, Pick, PickMark
from guard.store.states import CycleState, Deed, Mark, PickState
from guard.taxonomy import CATEGORIES, Category

UNDOABLE: Final = 10  # messages back, as long as they are in the open batch
_S = TypeVar("_S", bound=Select[Any])


@dataclass(frozen=True, slots=True)
class Held:
    """A pick leased to a reviewer, opened; `audit` when it came by the audit stream, whose labels must not be swayed.

    `category` is the verdict that let it in, `flagged` whether this reviewer flagged it.
    """

    pick_id: int
    cycle_id: int
    text: str
    reason: dict[str, Any]
    category: Category
    scores: dict[Category, float]
    model_version: str
    audit: bool
    flagged: bool
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """How far people are with the batch of the open cycle.

    Args:
        contested: Picks about which people differ.
        begun: Of those that wait, how many have an opinion and wait for another one.
        held: Picks that somebody has before them.
    """

    cycle_id: int
    state: CycleState
    strategy: str
    opened_at: datetime
    due_at: datetime
    size: int
    labelled: int
    unclear: int
    contested: int
    begun: int
    held: int

    @property
    def waiting(self) -> int:
        """Picks that lack opinions."""
        return self.size - self.labelled - self.unclear - self.contested


class Review:
    """Queries over picks and labels."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        clock: Callable[[], datetime],
        opinions: Opinions,
        *,
        lease_s: int,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._opinions = opinions
        self._lease = timedelta(seconds=lease_s)

    async def next(self, reviewer: str) -> Held | None:
        """Lease the next pick to a reviewer: the one they took last and still hold, else the first that nobody holds.

        What they have handed on or given their opinion on is for others.
        """
        async with self._database.write() as session:
            return await self._next(session, reviewer, self._clock())

    async def label(
        self, pick_id: int, *, reviewer: str, category: Category | None, idempotency_key: str | None = None
    ) -> int:
        """Record a reviewer's decision and return the label's id; the same idempotency key gives the same label.

        Args:
            category: None means "can't tell".

        Raises:
            NotFound: There is no such pick, or its message was erased.
            Conflict: It is decided already, or by them; held by someone else; the batch is closed; or the idempotency key
                stands for another label or one that was undone.
        """
        async with self._database.write() as session:
            return await self._label(session, pick_id, reviewer, category, idempotency_key)

    async def label_and_next(
        self, pick_id: int, *, reviewer: str, category: Category | None, idempotency_key: str
    ) -> Held | None:
        """Record a decision as `label` does and lease the next pick as `next` does, in one transaction: one wait for the disk.

        Raises:
            NotFound, Conflict: As `label` does; nothing is leased then.
        """
        async with self._database.write() as session:
            await self._label(session, pick_id, reviewer, category, idempotency_key)
            return await self._next(session, reviewer, self._clock())

    async def undo(self, reviewer: str) -> int:
        """Take back the reviewer's latest opinion in the open batch, hold its pick again, and return the pick's id.

        Again and again, as far back as the last `UNDOABLE` messages they decided about. Where the opinions of others
        settle it without theirs, or somebody else has it before them, it is not held.

        Raises:
            NotFound: There is nothing to undo.
            Conflict: An admin has settled it since, or the reviewer is one, who sees what the others said.
        """
        now = self._clock()
        async with self._database.write() as session:
            label = await session.scalar(_undoable(select(Label), reviewer).order_by(Label.id.desc()).limit(1))
            if label is None:
                raise NotFound(f"There is no decision of yours to undo among your last {UNDOABLE} of the open batch.")
            pick = await session.get_one(Pick, label.pick_id)
            cycle = await _open_cycle(session, pick.cycle_id)
            await _check_own(session, pick, reviewer)
            label.undone_at = now
            cycle.labels_spent -= 1
            await self._opinions.settle(session, [pick])
            if not _held_by_another(pick, reviewer, now) and await session.scalar(
                select(asks(reviewer)).where(Pick.id == pick.id)
            ):
                pick.leased_by, pick.leased_until = reviewer, now + self._lease
            enter(session, Deed.UNDONE, at=now, actor=reviewer, subject=f"pick {pick.id}", label=label.id)
            return pick.id

    async def undoable(self, reviewer: str) -> int:
        """Return how many decisions of the reviewer can still be undone."""
        async with self._database.read() as session:
            return int(await session.scalar(_undoable(select(func.count(Label.id)), reviewer)) or 0)

    async def left_to_others(self, reviewer: str) -> int:
        """Return how many picks of the open batch have the reviewer's opinion and are not settled."""
        query = _labelling(select(func.count(Pick.id))).where(Pick.state.in_(UNSETTLED), has_opinion(reviewer))
        async with self._database.read() as session:
            return int(await session.scalar(query) or 0)

    async def batch(self) -> Batch | None:
        """Return how far the latest cycle's batch is; None before the first cycle."""
        now = self._clock()
        async with self._database.read() as session:
            cycle = await session.scalar(
                select(Cycle).where(Cycle.strategy != IMPORT).order_by(Cycle.id.desc()).limit(1)
            )
            if cycle is None:
                return None
            begun = exists().where(Label.pick_id == Pick.id, OPINION).correlate(Pick)
            rows = await session.execute(
                select(
                    Pick.state,
                    func.count(),
                    func.count().filter(Pick.leased_until > now),
                    func.count().filter(begun),
                )
                .where(Pick.cycle_id == cycle.id)
                .group_by(Pick.state)
            )
            counts = {state: numbers for state, *numbers in rows}
        none = [0, 0, 0]
        return Batch(
            cycle_id=cycle.id,
            state=cycle.state,
            strategy=cycle.strategy,
            opened_at=cycle.opened_at,
            due_at=cycle.due_at,
            size=sum(number for number, *_ in counts.values()),
            labelled=counts.get(PickState.LABELLED, none)[0],
            unclear=counts.get(PickState.UNCLEAR, none)[0],
            contested=counts.get(PickState.CONTESTED, none)[0],
            begun=counts.get(PickState.WAITING, none)[2],
            held=sum(counts.get(state, none)[1] for state in UNSETTLED),
        )

    async def label_counts(self) -> dict[Category | None, int]:
        """Return how many picks are settled as each category (None: nobody can tell)."""
        settled = Pick.state.in_([PickState.LABELLED, PickState.UNCLEAR])
        async with self._database.read() as session:
            rows = await session.execute(select(Pick.category, func.count()).where(settled).group_by(Pick.category))
            return {category: number for category, number in rows}

    async def _next(self, session: AsyncSession, reviewer: str, now: datetime) -> Held | None:
        flagged = exists().where(
            PickMark.pick_id == Pick.id, PickMark.reviewer == reviewer, PickMark.mark == Mark.FLAGGED
        )
        mine = Pick.leased_by == reviewer
        held_until = case((mine & (Pick.leased_until > now), Pick.leased_until))
        found = (
            await session.execute(
                _labelling(select(Pick, Message, flagged))
                .join(Message, Message.id == Pick.message_id)
                .where(asks(reviewer), or_(Pick.leased_until.is_(None), Pick.leased_until <= now, mine))
                .order_by(held_until.desc().nulls_last(), Pick.position)
                .limit(1)
            )
        ).first()
        if found is None:
            return None
        pick, message, is_flagged = found
        pick.leased_by, pick.leased_until = reviewer, now + self._lease
        return Held(
            pick_id=pick.id,
            cycle_id=pick.cycle_id,
            text=open_text(self._keyring, message),
            reason=pick.reason,
            category=message.category,
            scores=dict(zip(CATEGORIES, message.scores, strict=True)),
            model_version=message.model_version,
            audit=message.reason == AUDIT,
            flagged=is_flagged,
            leased_until=pick.leased_until,
        )

    async def _label(
        self, session: AsyncSession, pick_id: int, reviewer: str, category: Category | None, idempotency_key: str | None
    ) -> int:
        now = self._clock()
        if idempotency_key is not None:
            known = await session.scalar(select(Label).where(Label.idempotency_key == idempotency_key))
            if known is not None:
                made = (known.pick_id, known.reviewer, known.category, known.adjudicates)
                if made != (pick_id, reviewer, category, False):
                    raise Conflict("This idempotency key was used for another label: send a new one.")
                if known.undone_at is not None:
                    raise Conflict("The label with this idempotency key was undone: send a new one to decide again.")
                return known.id
        pick, cycle = await undecided(session, pick_id, reviewer=reviewer, now=now)
        message = await session.get_one(Message, pick.message_id)
        label = Label(
            pick_id=pick_id,
            message_id=pick.message_id,
            reviewer=reviewer,
            category=category,
            decided_at=now,
            undone_at=None,
            idempotency_key=idempotency_key,
            scores_shown=message.reason != AUDIT,  # what `next` hands out is shown, but of an audit it is held back
        )
        session.add(label)
        pick.leased_by = pick.leased_until = None
        cycle.labels_spent += 1
        await self._opinions.settle(session, [pick])
        enter(
            session,
            Deed.LABELLED,
            at=now,
            actor=reviewer,
            subject=f"pick {pick_id}",
            label=label.id,
            category=category,
            scores_shown=label.scores_shown,
        )
        return label.id


async def undecided(session: AsyncSession, pick_id: int, *, reviewer: str, now: datetime) -> tuple[Pick, Cycle]:
    """Return a pick that waits for an opinion of this reviewer, and its cycle, within the caller's transaction.

    Raises:
        NotFound: There is no such pick, or its message was erased.
        Conflict: It is decided already, or by them; it asks for no more opinions; somebody else holds it; or the batch is
            closed.
    """
    pick = await session.get(Pick, pick_id)
    if pick is None:
        raise NotFound(f"There is no pick {pick_id}: its message may have been erased. Ask for the next one.")
    cycle = await _open_cycle(session, pick.cycle_id)
    if pick.state not in UNSETTLED or await session.scalar(select(has_opinion(reviewer)).where(Pick.id == pick_id)):
        raise Conflict(f"Pick {pick_id} is decided already: undo that label first.")
    if pick.state is PickState.CONTESTED and not await session.scalar(select(asks(reviewer)).where(Pick.id == pick_id)):
        raise Conflict(f"Pick {pick_id} asks for no further opinion: an admin settles it at /review/agreement.")
    if _held_by_another(pick, reviewer, now):
        raise Conflict(f"Pick {pick_id} is held by another reviewer until {pick.leased_until:%H:%M:%S} UTC.")
    return pick, cycle


async def _check_own(session: AsyncSession, pick: Pick, reviewer: str) -> None:
    """Make sure that an opinion is still its reviewer's to take back."""
    adjudged = exists().where(Label.pick_id == pick.id, Label.undone_at.is_(None), Label.adjudicates)
    if await session.scalar(select(adjudged)):
        raise Conflict(f"An admin has settled pick {pick.id} since: what you said about it stands.")
    if pick.state is PickState.CONTESTED and not await session.scalar(select(is_reviewer(reviewer))):
        raise Conflict(f"Pick {pick.id} is contested: settle it at /review/agreement.")


def _held_by_another(pick: Pick, reviewer: str, now: datetime) -> bool:
    return pick.leased_by != reviewer and pick.leased_until is not None and pick.leased_until > now


def _undoable(query: _S, reviewer: str) -> _S:
    """Return the reviewer's standing opinions on the messages they decided about last."""
    latest = (
        _labelling(select(Label.pick_id).join(Pick, Pick.id == Label.pick_id))
        .where(Label.reviewer == reviewer, ~Label.adjudicates)
        .group_by(Label.pick_id)
        .order_by(func.max(Label.id).desc())
        .limit(UNDOABLE)
        .subquery()
    )
    return query.join(latest, latest.c.pick_id == Label.pick_id).where(Label.reviewer == reviewer, OPINION)


def _labelling(query: _S) -> _S:
    return query.join(Cycle, Cycle.id == Pick.cycle_id).where(Cycle.state == CycleState.LABELLING)


async def _open_cycle(session: AsyncSession, cycle_id: int) -> Cycle:
    cycle = await session.get_one(Cycle, cycle_id)
    if cycle.state is not CycleState.LABELLING:
        raise Conflict(f"The batch of cycle {cycle_id} is closed: ask for the next message.")
    return cycle
