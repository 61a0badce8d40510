"""The pool: unlabelled messages, deduplicated and bounded, each with the probability of its being there."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import BadConfiguration
from guard.store.database import Database
from guard.store.entries import record
from guard.store.keyring import Keyring
from guard.store.ledger import CLI, enter
from guard.store.rows import Erasure, Message, Report, Sighting
from guard.store.states import Deed, MessageState
from guard.taxonomy import Category

UNCERTAIN: Final = "uncertain"
AUDIT: Final = "audit"
SHADOW: Final = "shadow"  # the champion was sure of it, and a second model disagreed
FEEDBACK: Final = "feedback"  # somebody reported its verdict, and nothing else had brought it in
IMPORT: Final = "import"  # an operator's file brought it
UNSAMPLED: Final = (FEEDBACK, IMPORT)  # not drawn from the traffic: no estimate may rest on them
NO_PROBABILITY: Final = 0.0  # theirs; an estimate that forgot them would divide by it
_SAMPLED: Final = 2  # by the champion's own doubt or the audit; of other ways of coming in, the one with less gives way
_RANKS: Final = {SHADOW: 1, FEEDBACK: 0, IMPORT: 0}
_CHUNK: Final = 1000  # arrivals a query: both databases take some 32,000 parameters


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verdict on its way into the pool.

    Args:
        text: The normalised text.
        user: The caller's opaque user id, if any.
        reason: `UNCERTAIN`, `AUDIT`, `SHADOW`, or one of `UNSAMPLED`.
        inclusion_probability: The probability with which it was let in, in (0, 1]; `NO_PROBABILITY` of the unsampled.
        scores: Six probabilities in the order of `CATEGORIES`.
        uncertainty: Entropy / ln 6.
        seen_at: When it was classified.
    """

    text: str
    user: str | None
    reason: str
    inclusion_probability: float
    model_version: str
    category: Category
    scores: tuple[float, ...]
    uncertainty: float
    seen_at: datetime
    source: str = "classify"


@dataclass(frozen=True, slots=True)
class PooledText:
    """A pooled message as the learner reads it."""

    id: int
    text: str
    user_hashes: tuple[str, ...]
    inclusion_probability: float


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a list of arrivals."""

    new: int
    repeated: int
    dropped: int


# what an arrival is found by: its text's fingerprint and its user's hash
_Keyed = tuple[Arrival, bytes, str | None]


class Pool:
    """Queries over messages."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    async def add(self, arrivals: Sequence[Arrival], *, max_messages: int) -> Added:
        """Add verdicts in one transaction: a known text counts once more, a new one is sealed and kept if there is room.

        What an erased user sent before the erasure is dropped. A message keeps the highest probability it was let in
        with, until it is picked: from then on estimates rest on it.

        Raises:
            BadConfiguration: The keyring was rotated since it was read: what it sealed now, nobody could open.
        """
        async with self._database.write() as session:
            return await self.enter(session, arrivals, max_messages=max_messages)

    async def enter(self, session: AsyncSession, arrivals: Sequence[Arrival], *, max_messages: int) -> Added:
        """Add verdicts as `add` does, within the caller's transaction."""
        ring = self._keyring
        keyed = [(a, ring.fingerprint(a.text), None if a.user is None else ring.user_hash(a.user)) for a in arrivals]
        added = Added(0, 0, 0)
        latest = await session.scalar(select(Message.key_id).order_by(Message.id.desc()).limit(1))
        if latest is not None and not ring.holds(latest):
            raise BadConfiguration(f"The keyring was rotated to {latest} since this process read it: restart it.")
        room = max_messages - await _size(session)
        for first in range(0, len(keyed), _CHUNK):
            part = await self._add(session, keyed[first : first + _CHUNK], room - added.new)
            added = Added(added.new + part.new, added.repeated + part.repeated, added.dropped + part.dropped)
        return added

    async def check_keyring(self) -> None:
        """Make sure that the keyring is the one the texts were sealed and the fingerprints were made with.

        Raises:
            BadConfiguration: It is not.
        """
        async with self._database.read() as session:
            latest = await session.scalar(select(Message).order_by(Message.id.desc()).limit(1))
        if latest is not None and self._keyring.fingerprint(open_text(self._keyring, latest)) != latest.fingerprint:
            raise BadConfiguration("The keyring's index key is not the one this database was made with: restore it.")

    async def size(self) -> int:
        """Return how many messages wait to be picked."""
        async with self._database.read() as session:
            return await _size(session)

    async def counts(self) -> dict[MessageState, int]:
        """Return how many messages are in each state."""
        async with self._database.read() as session:
            rows = await session.execute(select(Message.state, func.count()).group_by(Message.state))
            found = {state: number for state, number in rows}
        return {state: found.get(state, 0) for state in MessageState}

    async def oldest(self) -> datetime | None:
        """Return when the oldest waiting message was first seen."""
        async with self._database.read() as session:
            oldest = select(func.min(Message.first_seen_at)).where(Message.state == MessageState.POOLED)
            return cast("datetime | None", await session.scalar(oldest))

    async def sources(self) -> list[tuple[str, str, int]]:
        """Return how many messages wait by where they came from and why they were kept, the most first."""
        number = func.count()
        query = (
            select(Message.source, Message.reason, number)
            .where(Message.state == MessageState.POOLED)
            .group_by(Message.source, Message.reason)
            .order_by(number.desc(), Message.source, Message.reason)
        )
        async with self._database.read() as session:
            return [(source, reason, count) for source, reason, count in await session.execute(query)]

    async def audits(self, *, after: datetime | None = None) -> dict[int, float]:
        """Return the waiting messages that came by the audit stream, by id with the probability of their being there.

        Args:
            after: Only those first seen later.
        """
        audited = select(Message.id, Message.inclusion_probability).where(
            Message.state == MessageState.POOLED, Message.reason == AUDIT
        )
        if after is not None:
            audited = audited.where(Message.first_seen_at > after)
        async with self._database.read() as session:
            return {message_id: probability for message_id, probability in await session.execute(audited)}

    async def unsampled(self) -> set[int]:
        """Return the ids of the waiting messages that were not drawn from the traffic."""
        waiting = select(Message.id).where(Message.state == MessageState.POOLED, Message.reason.in_(UNSAMPLED))
        async with self._database.read() as session:
            return set(await session.scalars(waiting))

    async def verdicts(
        self, *, until: datetime | None = None, after: datetime | None = None, limit: int
    ) -> list[tuple[Category, float]]:
        """Return category and uncertainty of the sampled messages that came last, picked ones too, newest first.

        Args:
            until: Those first seen then or before.
            after: Those first seen later.
            limit: How many.
        """
        sampled = Message.reason.not_in(UNSAMPLED)  # what people chose to send says nothing about the traffic
        query = select(Message.category, Message.uncertainty).where(sampled).order_by(Message.id.desc()).limit(limit)
        if until is not None:
            query = query.where(Message.first_seen_at <= until)
        if after is not None:  # nothing is seen last before it is seen first, and the index is on the last time
            query = query.where(Message.first_seen_at > after, Message.last_seen_at > after)
        async with self._database.read() as session:
            return [(category, uncertainty) for category, uncertainty in await session.execute(query)]

    async def texts(self, *, batch: int = 1000) -> AsyncIterator[list[PooledText]]:
        """Yield the waiting messages, opened, in batches by id."""
        last = 0
        while True:
            async with self._database.read() as session:
                messages = (
                    await session.scalars(
                        select(Message)
                        .where(Message.state == MessageState.POOLED, Message.id > last)
                        .order_by(Message.id)
                        .limit(batch)
                    )
                ).all()
                users: dict[int, list[str]] = {}
                if messages:
                    last = messages[-1].id
                    seen = select(Sighting.message_id, Sighting.user_hash).where(
                        Sighting.message_id.in_([m.id for m in messages])
                    )
                    for message_id, user_hash in await session.execute(seen.order_by(Sighting.user_hash)):
                        users.setdefault(message_id, []).append(user_hash)
            if not messages:
                return
            yield [
                PooledText(m.id, open_text(self._keyring, m), tuple(users.get(m.id, ())), m.inclusion_probability)
                for m in messages
            ]

    async def erase_user(self, user: str) -> int:
        """Delete what a user sent, with its picks, labels, variations and snapshots; return the number of messages.

        A text that someone else sent too stays as theirs. What the user sent before now and is still on its way into
        the pool is dropped when it arrives.
        """
        user_hash = self._keyring.user_hash(user)
        theirs = exists().where(Sighting.message_id == Message.id, Sighting.user_hash == user_hash)
        shared = exists().where(Sighting.message_id == Message.id, Sighting.user_hash != user_hash)
        async with self._database.write() as session:
            now = self._clock()
            await session.merge(Erasure(user_hash=user_hash, erased_at=now))
            doomed = await session.execute(delete(Message).where(theirs, ~shared, ~Message.anonymous))
            for row in (Sighting, Report):
                await session.execute(delete(row).where(row.user_hash == user_hash))
            count = cast("CursorResult[Any]", doomed).rowcount
            enter(session, Deed.USER_ERASED, at=now, actor=CLI, messages=count)
            return count

    async def expire(self, *, retention: timedelta, labelled_retention: timedelta) -> int:
        """Delete messages past their retention and return how many there were; what is being labelled stays.

        So go the marks of erased users that are older than any message can be.
        """
        now = self._clock()
        async with self._database.write() as session:
            await session.execute(delete(Erasure).where(Erasure.erased_at < now - max(retention, labelled_retention)))
            doomed = await session.execute(
                delete(Message).where(
                    (
                        Message.state.in_([MessageState.POOLED, MessageState.UNCLEAR, MessageState.CONTESTED])
                        & (Message.last_seen_at < now - retention)
                    )
                    | ((Message.state == MessageState.LABELLED) & (Message.last_seen_at < now - labelled_retention))
                )
            )
            return cast("CursorResult[Any]", doomed).rowcount

    async def rotate(self, keyring: Keyring, *, batch: int) -> int:
        """Seal every message anew under the keyring's active key, a batch a transaction.

        The newest first: by it a process that still has the old keyring sees that it must not seal any more.
        """
        count = 0
        while True:
            async with self._database.write() as session:
                old = select(Message).where(Message.key_id != keyring.active_id)
                messages = (await session.scalars(old.order_by(Message.id.desc()).limit(batch))).all()
                for message in messages:
                    text = open_text(keyring, message)
                    message.ciphertext = keyring.seal(text, owner=message.fingerprint)
                    message.key_id = keyring.active_id
            if not messages:
                return count
            count += len(messages)

    async def _add(self, session: AsyncSession, keyed: Sequence[_Keyed], room: int) -> Added:
        erased = await _erased(session, {user for _, _, user in keyed if user is not None})
        wanted = [k for k in keyed if k[2] not in erased or k[0].seen_at > erased[k[2]]]
        known = select(Message).where(Message.fingerprint.in_({fingerprint for _, fingerprint, _ in wanted}))
        messages = {message.fingerprint: message for message in await session.scalars(known)}
        before = {message.id for message in messages.values()}
        kept: list[_Keyed] = []
        new = 0
        for arrival, fingerprint, user in wanted:
            message = messages.get(fingerprint)
            if message is not None:
                _repeat(message, arrival)
            elif new < room:
                new += 1
                messages[fingerprint] = message = self._message(arrival, fingerprint)
                session.add(message)
            else:
                continue
            if user is None:
                message.anonymous = True
            kept.append((arrival, fingerprint, user))
        await session.flush()  # the new messages get their ids, in the order of their arrival
        entered = [(messages[f].id, a, a.reason == AUDIT) for a, f, _ in kept if a.reason in {UNCERTAIN, AUDIT}]
        await record(session, entered, known=before)
        await _sight(session, [(messages[f].id, user, a.seen_at) for a, f, user in kept if user is not None])
        return Added(new, len(kept) - new, len(keyed) - len(kept))

    def _message(self, arrival: Arrival, fingerprint: bytes) -> Message:
        return Message(
            fingerprint=fingerprint,
            ciphertext=self._keyring.seal(arrival.text, owner=fingerprint),
            key_id=self._keyring.active_id,
            source=arrival.source,
            reason=arrival.reason,
            inclusion_probability=arrival.inclusion_probability,
            model_version=arrival.model_version,
            category=arrival.category,
            scores=list(arrival.scores),
            uncertainty=arrival.uncertainty,
            seen_count=1,
            anonymous=False,
            first_seen_at=arrival.seen_at,
            last_seen_at=arrival.seen_at,
            state=MessageState.POOLED,
        )


def open_text(keyring: Keyring, message: Message) -> str:
    """Decrypt a message's text."""
    return keyring.open(message.ciphertext, key_id=message.key_id, owner=message.fingerprint)


async def move(session: AsyncSession, message_ids: Sequence[int], state: MessageState) -> None:
    """Put messages into a state, within the caller's transaction."""
    await session.execute(update(Message).where(Message.id.in_(message_ids)).values(state=state))


async def _size(session: AsyncSession) -> int:
    count = await session.scalar(select(func.count()).where(Message.state == MessageState.POOLED))
    return int(count or 0)


async def _erased(session: AsyncSession, users: set[str]) -> dict[str | None, datetime]:
    rows = await session.execute(select(Erasure.user_hash, Erasure.erased_at).where(Erasure.user_hash.in_(users)))
    return {user: erased_at for user, erased_at in rows}


def _repeat(message: Message, arrival: Arrival) -> None:
    message.last_seen_at = max(message.last_seen_at, arrival.seen_at)
    had, has = _RANKS.get(message.reason, _SAMPLED), _RANKS.get(arrival.reason, _SAMPLED)
    if has < had or arrival.reason == FEEDBACK:
        return  # it came by a better way: were that forgotten, the audit sample would lack just what models dispute
    message.seen_count += 1
    likelier = arrival.inclusion_probability > message.inclusion_probability
    if message.state is MessageState.POOLED and (has > had or likelier):
        message.inclusion_probability, message.reason = arrival.inclusion_probability, arrival.reason
        if had == _RANKS[FEEDBACK] < has:  # estimates ask whether the verdict that let it in was right
            message.model_version, message.category = arrival.model_version, arrival.category
            message.scores, message.uncertainty = list(arrival.scores), arrival.uncertainty


async def _sight(session: AsyncSession, sightings: Sequence[tuple[int, str, datetime]]) -> None:
    known = select(Sighting).where(
        Sighting.message_id.in_({message_id for message_id, _, _ in sightings}),
        Sighting.user_hash.in_({user for _, user, _ in sightings}),
    )
    rows = {(row.message_id, row.user_hash): row for row in await session.scalars(known)}
    for message_id, user, seen_at in sightings:
        row = rows.get((message_id, user))
        if row is None:
            rows[message_id, user] = Sighting(
                message_id=message_id, user_hash=user, seen_count=1, first_seen_at=seen_at
            )
        else:
            row.seen_count += 1
    session.add_all(rows.values())
    await session.flush()
