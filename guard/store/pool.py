"""The pool: unlabelled messages, deduplicated and bounded, each with the probability of its being there."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.rows import Erasure, Message, Sighting
from guard.store.states import MessageState
from guard.taxonomy import Category


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verdict on its way into the pool.

    Args:
        text: The normalised text.
        user: The caller's opaque user id, if any.
        reason: `uncertain` or `audit`.
        inclusion_probability: The probability with which it was let in, in (0, 1].
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


class Pool:
    """Queries over messages."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    async def add(self, arrivals: Sequence[Arrival], *, max_messages: int) -> Added:
        """Add verdicts in one transaction: a known text counts once more, a new one is sealed and kept if there is room.

        What an erased user sent before the erasure is dropped.
        """
        new = repeated = dropped = 0
        async with self._database.write() as session:
            room = max_messages - await _size(session)
            for arrival in arrivals:
                user_hash = self._keyring.user_hash(arrival.user) if arrival.user is not None else None
                if user_hash is not None and await _erased_since(session, user_hash, arrival.seen_at):
                    dropped += 1
                    continue
                fingerprint = self._keyring.fingerprint(arrival.text)
                message = await session.scalar(select(Message).where(Message.fingerprint == fingerprint))
                if message is None:
                    if room <= 0:
                        dropped += 1
                        continue
                    room -= 1
                    new += 1
                    message = self._message(arrival, fingerprint)
                    session.add(message)
                    await session.flush()
                else:
                    repeated += 1
                    message.seen_count += 1
                    message.last_seen_at = max(message.last_seen_at, arrival.seen_at)
                    message.inclusion_probability = max(message.inclusion_probability, arrival.inclusion_probability)
                if user_hash is None:
                    message.anonymous = True
                else:
                    await _sight(session, message.id, user_hash, arrival.seen_at)
        return Added(new, repeated, dropped)

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
                    for message_id, user_hash in await session.execute(seen):
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
        async with self._database.write() as session:
            await session.merge(Erasure(user_hash=user_hash, erased_at=self._clock()))
            ids = (await session.scalars(select(Sighting.message_id).where(Sighting.user_hash == user_hash))).all()
            await session.execute(delete(Sighting).where(Sighting.user_hash == user_hash))
            if not ids:
                return 0
            doomed = await session.execute(
                delete(Message).where(
                    Message.id.in_(ids), ~Message.anonymous, ~exists().where(Sighting.message_id == Message.id)
                )
            )
            return cast("CursorResult[Any]", doomed).rowcount

    async def expire(self, *, retention: timedelta, labelled_retention: timedelta) -> int:
        """Delete messages past their retention and return how many there were; what is being labelled stays."""
        now = self._clock()
        async with self._database.write() as session:
            doomed = await session.execute(
                delete(Message).where(
                    (
                        Message.state.in_([MessageState.POOLED, MessageState.UNCLEAR])
                        & (Message.last_seen_at < now - retention)
                    )
                    | ((Message.state == MessageState.LABELLED) & (Message.last_seen_at < now - labelled_retention))
                )
            )
            return cast("CursorResult[Any]", doomed).rowcount

    async def rotate(self, keyring: Keyring, *, batch: int) -> int:
        """Seal every message anew under the keyring's active key, a batch a transaction."""
        count = 0
        while True:
            async with self._database.write() as session:
                messages = (
                    await session.scalars(select(Message).where(Message.key_id != keyring.active_id).limit(batch))
                ).all()
                for message in messages:
                    text = open_text(keyring, message)
                    message.ciphertext = keyring.seal(text, owner=message.fingerprint)
                    message.key_id = keyring.active_id
            if not messages:
                return count
            count += len(messages)

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


async def _erased_since(session: AsyncSession, user_hash: str, seen_at: datetime) -> bool:
    erased_at = await session.scalar(select(Erasure.erased_at).where(Erasure.user_hash == user_hash))
    return erased_at is not None and erased_at >= seen_at


async def _sight(session: AsyncSession, message_id: int, user_hash: str, seen_at: datetime) -> None:
    sighting = await session.get(Sighting, (message_id, user_hash))
    if sighting is None:
        session.add(Sighting(message_id=message_id, user_hash=user_hash, seen_count=1, first_seen_at=seen_at))
        await session.flush()
    else:
        sighting.seen_count += 1
