"""Messages and their labels out of the store and into one: whole, in order, and once."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import BadRecord
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.opinions import Opinions
from guard.store.pool import IMPORT, NO_PROBABILITY, open_text
from guard.store.rows import Cycle, Erasure, Label, Message, Pick, Sighting
from guard.store.states import CycleState, MessageState, PickState
from guard.taxonomy import CATEGORIES, Category

_REVIEWER_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class GivenLabel:
    """A person's opinion, or a decision that `adjudicates` between several; a `category` of None means "can't tell"."""

    category: Category | None
    reviewer: str | None = None
    decided_at: datetime | None = None
    adjudicates: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a version thought of a text: six probabilities in the order of `CATEGORIES`."""

    model_version: str
    category: Category
    scores: tuple[float, ...]
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Record:
    """A message with its labels, on its way out or in.

    Args:
        text: None where the message is named by its id alone.
        user_hashes: Of those who sent it, by this keyring: only where it is the same are they found by an erasure.
        labels: Standing ones, oldest first.
    """

    id: int | None
    text: str | None
    verdict: Verdict | None = None
    state: str | None = None
    reason: str | None = None
    first_seen_at: datetime | None = None
    last_seen_at: datetime | None = None
    user_hashes: tuple[str, ...] = ()
    anonymous: bool = True
    labels: tuple[GivenLabel, ...] = ()


@dataclass(slots=True)
class Tally:
    """What became of a file's records."""

    messages: int = 0
    known: int = 0
    labels: int = 0
    labels_known: int = 0
    expired: int = 0


Judge = Callable[[str], Awaitable[Verdict]]


class Transfer:
    """Queries over whole messages."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._opinions = opinions

    async def count(self, *, labelled: bool = False) -> int:
        """Return how many messages `records` gives."""
        query = select(func.count()).select_from(Message)
        if labelled:
            query = query.where(Message.id.in_(_standing()))
        async with self._database.read() as session:
            return int(await session.scalar(query) or 0)

    async def records(self, *, labelled: bool = False, batch: int = 500) -> AsyncIterator[list[Record]]:
        """Yield messages, opened, in batches by id; with `labelled`, only those that have a label."""
        last = 0
        while True:
            query = select(Message).where(Message.id > last).order_by(Message.id).limit(batch)
            if labelled:
                query = query.where(Message.id.in_(_standing()))
            async with self._database.read() as session:
                messages = (await session.scalars(query)).all()
                if not messages:
                    return
                last = messages[-1].id
                ids = [message.id for message in messages]
                users: dict[int, list[str]] = {}
                for sighting in await session.scalars(select(Sighting).where(Sighting.message_id.in_(ids))):
                    users.setdefault(sighting.message_id, []).append(sighting.user_hash)
                labels: dict[int, list[GivenLabel]] = {}
                given = select(Label).where(Label.message_id.in_(ids), Label.undone_at.is_(None)).order_by(Label.id)
                for label in await session.scalars(given):
                    decided = GivenLabel(label.category, label.reviewer, label.decided_at, label.adjudicates)
                    labels.setdefault(label.message_id, []).append(decided)
            yield [
                Record(
                    id=message.id,
                    text=open_text(self._keyring, message),
                    verdict=Verdict(
                        message.model_version, message.category, tuple(message.scores), message.uncertainty
                    ),
                    state=message.state.value,
                    reason=message.reason,
                    first_seen_at=message.first_seen_at,
                    last_seen_at=message.last_seen_at,
                    user_hashes=tuple(sorted(users.get(message.id, ()))),
                    anonymous=message.anonymous,
                    labels=tuple(labels.get(message.id, ())),
                )
                for message in messages
            ]

    async def add(
        self,
        records: Iterable[tuple[int, Record | BadRecord]],
        *,
        judge: Judge,
        retention: timedelta,
        labelled_retention: timedelta,
        max_messages: int,
        complain: Callable[[int, str], None],
        keep: bool,
        told: Callable[[], None] = lambda: None,
    ) -> Tally:
        """Add records in one transaction: all of them, or none where one cannot be taken or `keep` is false.

        A known text stays the message it is, and a label that is there or was there already is passed over, so that a file
        may be imported again. Of one person's labels of a message the last counts; where people differ it is contested. What an erased user sent before the erasure, and what is past its retention, does not come back.

        Args:
            records: With their numbers in the file; their texts are normalised. What is none comes as its complaint.
            judge: Gives a verdict on a new text that has none with it.
            max_messages: How many may wait in the pool.
            complain: Told the number of each record that cannot be taken, and why.
            keep: Whether to commit.
            told: Called after each record.
        """
        tally, bad = Tally(), False
        limits = (retention, labelled_retention)
        async with self._database.write() as session:
            batch = _Batch(session, self._keyring, self._opinions, judge, self._clock(), limits, max_messages, tally)
            await batch.begin()
            for number, record in records:
                try:
                    await batch.take(record)
                except BadRecord as error:
                    bad = True
                    complain(number, str(error))
                told()
            if bad or not keep:
                await session.rollback()
        return tally


class _Batch:
    """An import under way, within one transaction."""

    def __init__(
        self,
        session: AsyncSession,
        keyring: Keyring,
        opinions: Opinions,
        judge: Judge,
        now: datetime,
        limits: Sequence[timedelta],
        max_messages: int,
        tally: Tally,
    ) -> None:
        self._session = session
        self._keyring = keyring
        self._opinions = opinions
        self._judge = judge
        self._now = now
        self._retention, self._labelled_retention = limits
        self._max_messages = max_messages
        self._tally = tally
        self._cycle: Cycle | None = None
        self._pooled = 0

    async def begin(self) -> None:
        waiting = select(func.count()).where(Message.state == MessageState.POOLED)
        self._pooled = int(await self._session.scalar(waiting) or 0)

    async def take(self, record: Record | BadRecord) -> None:
        if isinstance(record, BadRecord):
            raise record
        message = await self._known(record)
        if message is None:
            message = await self._new(record, str(record.text))
            if message is None:
                return
        else:
            self._tally.known += 1
        for label in record.labels:
            await self._label(message, label)
        await self._session.flush()
        self._session.expunge_all()  # a file of a million rows is not to be in memory
        self._cycle = self._cycle and await self._session.get(Cycle, self._cycle.id)

    async def _known(self, record: Record) -> Message | None:
        if record.text is None:
            message = await self._session.get(Message, record.id)
            if message is None:
                raise BadRecord(f"there is no message {record.id}, and the row has no text")
            return message
        fingerprint = self._keyring.fingerprint(record.text)
        found: Message | None = await self._session.scalar(select(Message).where(Message.fingerprint == fingerprint))
        return found

    async def _new(self, record: Record, text: str) -> Message | None:
        first = min(record.first_seen_at or self._now, self._now)
        last = min(record.last_seen_at or first, self._now)
        limit = self._labelled_retention if any(label.category for label in record.labels) else self._retention
        if last < self._now - limit:
            self._tally.expired += 1
            return None
        erased = select(Erasure.user_hash).where(Erasure.user_hash.in_(record.user_hashes), Erasure.erased_at >= first)
        gone = set(await self._session.scalars(erased)) if record.user_hashes else set()
        users = [user for user in record.user_hashes if user not in gone]
        if gone and not users and not record.anonymous:
            self._tally.expired += 1
            return None
        if not record.labels and self._pooled >= self._max_messages:
            raise BadRecord(f"the pool is full at {self._max_messages} messages (GUARD_POOL_MAX_MESSAGES)")
        self._pooled += not record.labels
        verdict = record.verdict or await self._judge(text)
        fingerprint = self._keyring.fingerprint(text)
        message = Message(
            fingerprint=fingerprint,
            ciphertext=self._keyring.seal(text, owner=fingerprint),
            key_id=self._keyring.active_id,
            source=IMPORT,
            reason=IMPORT,
            inclusion_probability=NO_PROBABILITY,
            model_version=verdict.model_version,
            category=verdict.category,
            scores=list(verdict.scores),
            uncertainty=verdict.uncertainty,
            seen_count=1,
            anonymous=record.anonymous or not users,
            first_seen_at=first,
            last_seen_at=last,
            state=MessageState.POOLED,
        )
        self._session.add(message)
        await self._session.flush()
        self._session.add_all(
            Sighting(message_id=message.id, user_hash=user, seen_count=1, first_seen_at=first) for user in users
        )
        self._tally.messages += 1
        return message

    async def _label(self, message: Message, given: GivenLabel) -> None:
        reviewer = (given.reviewer or IMPORT)[:_REVIEWER_CHARS]
        theirs = select(Label).where(Label.message_id == message.id, Label.reviewer == reviewer)
        theirs = theirs.where(Label.adjudicates == given.adjudicates)
        for label in await self._session.scalars(theirs):  # what was taken back does not come again either
            if label.category is given.category and given.decided_at in {None, label.decided_at}:
                self._tally.labels_known += 1
                return
        if message.state is MessageState.PICKED:
            raise BadRecord(f"message {message.id} is being labelled in the open batch: import it when that is closed")
        cycle = self._cycle or await self._open()
        pick = await self._session.scalar(select(Pick).where(Pick.cycle_id == cycle.id, Pick.message_id == message.id))
        if pick is None:
            pick = Pick(
                cycle_id=cycle.id,
                message_id=message.id,
                position=self._tally.labels,
                reason={"strategy": IMPORT},
                inclusion_probability=None,
                state=PickState.WAITING,
            )
            self._session.add(pick)
            await self._session.flush()
        before = update(Label).where(
            Label.pick_id == pick.id,
            Label.reviewer == reviewer,
            Label.adjudicates == given.adjudicates,
            Label.undone_at.is_(None),
        )
        await self._session.execute(before.values(undone_at=self._now))  # of one person the latest counts
        self._session.add(
            Label(
                pick_id=pick.id,
                message_id=message.id,
                reviewer=reviewer,
                category=given.category,
                decided_at=given.decided_at or self._now,
                undone_at=None,
                idempotency_key=None,
                adjudicates=given.adjudicates,
            )
        )
        await self._opinions.settle(self._session, [pick], closed=True)
        self._tally.labels += 1

    async def _open(self) -> Cycle:
        """Make the closed cycle that this file's labels belong to; it costs nothing of the labelling budget."""
        at = self._now.isoformat()
        self._cycle = Cycle(
            state=CycleState.HELD,
            strategy=IMPORT,
            seed=0,
            batch_size=0,
            labels_spent=0,
            champion="",
            challenger=None,
            opened_at=self._now,
            due_at=self._now,
            closed_at=self._now,
            frozen_at=None,
            timeline=[{"stage": CycleState.HELD, "started_at": at, "ended_at": at}],
            figures={},
            reasons=["Labels from a file."],
        )
        self._session.add(self._cycle)
        await self._session.flush()
        return self._cycle


def _standing() -> Select[tuple[int]]:
    return select(Label.message_id).where(Label.undone_at.is_(None))


def check_verdict(scores: Sequence[float]) -> None:
    """Make sure that scores are six probabilities.

    Raises:
        BadRecord: They are not.
    """
    if len(scores) != len(CATEGORIES) or not all(0 <= s <= 1 for s in scores) or abs(sum(scores) - 1) > 0.01:  # noqa: PLR2004 - rounding
        raise BadRecord(f"the scores are not {len(CATEGORIES)} probabilities that sum to 1")
