"""Reports that a verdict was wrong: each brings its message into the pool, and none is a label."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import NoRoom, NotFound, Throttled
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.pool import AUDIT, UNCERTAIN, Arrival, Pool
from guard.store.rows import Message, Pick, Report
from guard.store.states import MessageState, ReportSource
from guard.taxonomy import Category

WINDOW: Final = timedelta(days=1)  # what the caps count
UNKNOWN: Final = "unknown"  # in a reason, for reports that do not say what it should have been
_FULL_S: Final = 3600  # the pool has room again when a batch is picked or messages expire: not within minutes
_NOT_AUDIT: Final = Message.reason != AUDIT


@dataclass(frozen=True, slots=True)
class Caps:
    """How many reports a day are taken about one user's messages and with one key, and how much the pool holds."""

    per_user: int
    per_key: int
    pool_messages: int


@dataclass(slots=True)
class Reported:
    """A waiting message that was reported.

    Args:
        inclusion_probability: That of its being in the pool; None where nothing but the report brought it in.
        opinions: How many reports said which category, None for those that could not say.
        sources: How many reports came from chatbots, how many from people.
    """

    inclusion_probability: float | None
    opinions: Counter[Category | None] = field(default_factory=Counter)
    sources: Counter[ReportSource] = field(default_factory=Counter)

    def reason(self) -> dict[str, Any]:
        """Return what a reviewer is told of the reports."""
        return {
            "should_be": {category or UNKNOWN: number for category, number in sorted(self.opinions.items(), key=str)},
            "reported_by": {source.value: number for source, number in sorted(self.sources.items())},
        }


class Reports:
    """Queries over reports."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime], pool: Pool) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._pool = pool

    async def add(
        self,
        arrival: Arrival,
        *,
        answer: bytes,
        category: Category | None,
        source: ReportSource,
        key_name: str,
        caps: Caps,
    ) -> tuple[int, bool]:
        """Record a report with its message, in one transaction; return its id, and whether it is a new one.

        The same answer reported again is the same report: what was said last stands, and the caps do not count it.

        Args:
            arrival: The message with the verdict that is called wrong, by the reason `FEEDBACK`.
            answer: Stands for the verdict that is reported.
            category: What it should have been; None: not said.
            key_name: Of the caller.

        Raises:
            Throttled: The user or the key has had its reports of the day.
            NoRoom: The pool is full.
            NotFound: The user was erased since.
        """
        user_hash = None if arrival.user is None else self._keyring.user_hash(arrival.user)
        async with self._database.write() as session:
            known: Report | None = await session.scalar(select(Report).where(Report.answer == answer))
            if known is not None:
                known.category, known.source = category, source
                return known.id, False
            if user_hash is not None:
                await self._check(session, Report.user_hash == user_hash, caps.per_user, "about this user's messages")
            await self._check(session, Report.key_name == key_name, caps.per_key, "with this key")
            added = await self._pool.enter(session, [arrival], max_messages=caps.pool_messages)
            message_id = await session.scalar(
                select(Message.id).where(Message.fingerprint == self._keyring.fingerprint(arrival.text))
            )
            if added.dropped and message_id is None and await self._full(session, caps.pool_messages):
                raise NoRoom(
                    "The pool is full: send the report again when a batch was labelled.", retry_after_s=_FULL_S
                )
            if added.dropped or message_id is None:
                raise NotFound("This user was erased after the answer was given: there is nothing to report any more.")
            report = Report(
                message_id=message_id,
                answer=answer,
                user_hash=user_hash,
                key_name=key_name,
                source=source,
                model_version=arrival.model_version,
                verdict=arrival.category,
                category=category,
                reported_at=self._clock(),
            )
            session.add(report)
            await session.flush()
            return report.id, True

    async def waiting(self) -> dict[int, Reported]:
        """Return the waiting messages that were reported, by id, but for those of the audit stream.

        These have their own draw: were reports to choose among them, the audit would see too many errors, and without
        them too few.
        """
        query = (
            select(Message.id, Message.reason, Message.inclusion_probability, Report.category, Report.source)
            .join(Report, Report.message_id == Message.id)
            .where(Message.state == MessageState.POOLED, _NOT_AUDIT)
            .order_by(Message.id, Report.id)
        )
        found: dict[int, Reported] = {}
        async with self._database.read() as session:
            for message_id, reason, probability, category, source in await session.execute(query):
                reported = found.setdefault(message_id, Reported(probability if reason == UNCERTAIN else None))
                reported.opinions[category] += 1
                reported.sources[source] += 1
        return found

    async def opinions(self, pick_id: int) -> dict[str, int]:
        """Return how many reports of a pick that came by them said which category, `UNKNOWN` for those that could not say."""
        query = select(Pick.reason).join(Message, Message.id == Pick.message_id).where(Pick.id == pick_id, _NOT_AUDIT)
        async with self._database.read() as session:
            reason: dict[str, Any] = await session.scalar(query) or {}
        opinions: dict[str, int] = reason.get("should_be", {})
        return opinions

    async def _check(self, session: AsyncSession, whose: ColumnElement[bool], cap: int, what: str) -> None:
        now = self._clock()
        query = select(func.count(), func.min(Report.reported_at)).where(whose, Report.reported_at > now - WINDOW)
        count, first = (await session.execute(query)).one()
        if count >= cap:
            again_s = (first + WINDOW - now).total_seconds() if first is not None else WINDOW.total_seconds()
            raise Throttled(
                f"{cap} reports a day are taken {what}: send further ones later.", retry_after_s=1 + int(again_s)
            )

    async def _full(self, session: AsyncSession, limit: int) -> bool:
        query = select(func.count()).where(Message.state == MessageState.POOLED)
        return int(await session.scalar(query) or 0) >= limit
