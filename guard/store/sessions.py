"""Who is logged in at the desk, and how often somebody tried to: tokens and addresses as digests."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select, update

from guard.errors import Throttled
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.keys import digest
from guard.store.ledger import enter
from guard.store.rows import DeskSession, LoginAttempt, Reviewer
from guard.store.states import Deed, Role

WINDOW: Final = timedelta(minutes=15)
# Tries within the window. A name has many, or anybody could lock its owner out; from one address it has few.
LIMITS: Final[Mapping[str, int]] = {"name and address": 5, "address": 20, "name": 50}
_TOUCHES: Final = 20  # writes within an idle time: a session ends at most this part of it too early


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that is in force, and whose it is."""

    id: int
    reviewer: str
    role: Role
    hard_texts: int


class Sessions:
    """Queries over sessions and attempts to log in.

    Args:
        database: Where the rows are.
        keyring: Makes the keyed hashes of names and addresses.
        clock: Tells the time.
        idle_s: Seconds without a request after which a session ends.
        max_s: Seconds after which it ends in any case.
    """

    def __init__(
        self, database: Database, keyring: Keyring, clock: Callable[[], datetime], *, idle_s: int, max_s: int
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._idle = timedelta(seconds=idle_s)
        self._max = timedelta(seconds=max_s)

    async def attempt(self, name: str, address: str) -> None:
        """Count an attempt to log in, before its password is looked at; `open` takes it back.

        What is older than the window or than any session goes.

        Raises:
            Throttled: There were too many.
        """
        now = self._clock()
        subjects = self._subjects(name, address)
        async with self._database.write() as session:
            await session.execute(delete(LoginAttempt).where(LoginAttempt.tried_at <= now - WINDOW))
            await session.execute(
                delete(DeskSession).where(
                    (DeskSession.opened_at <= now - self._max) | (DeskSession.seen_at <= now - self._idle)
                )
            )
            for kind, subject in subjects.items():
                number, first = (
                    await session.execute(
                        select(func.count(), func.min(LoginAttempt.tried_at)).where(LoginAttempt.subject == subject)
                    )
                ).one()
                if number >= LIMITS[kind]:
                    wait_s = max(1, round((first + WINDOW - now).total_seconds()))
                    raise Throttled(
                        f"Too many attempts to log in: wait {-(-wait_s // 60)} minutes, or ask for another password.",
                        retry_after_s=wait_s,
                    )
            session.add_all(LoginAttempt(subject=subject, tried_at=now) for subject in subjects.values())

    async def refused(self, name: str | None) -> None:
        """Enter a refused login in the ledger; `name` only if there is such an account, for it may be a password."""
        async with self._database.write() as session:
            enter(session, Deed.LOGIN_REFUSED, at=self._clock(), actor=name or "")

    async def open(self, reviewer: Reviewer, *, address: str, replaces: str | None) -> str:
        """Log a reviewer in and return the token of a new session, which cannot be shown again.

        Args:
            address: From where; what was counted against it and this name is forgotten.
            replaces: The token that came with the request: that session ends.
        """
        now = self._clock()
        token = secrets.token_urlsafe(32)
        subjects = self._subjects(reviewer.name, address)
        async with self._database.write() as session:
            if replaces is not None:
                await session.execute(delete(DeskSession).where(DeskSession.digest == digest(replaces)))
            await session.execute(delete(LoginAttempt).where(LoginAttempt.subject == subjects.pop("name and address")))
            for (
                subject
            ) in subjects.values():  # the latest is this one: who may enter must not wear out the others' share
                latest = select(func.max(LoginAttempt.id)).where(LoginAttempt.subject == subject).scalar_subquery()
                await session.execute(delete(LoginAttempt).where(LoginAttempt.id == latest))
            session.add(
                DeskSession(digest=digest(token), reviewer_id=reviewer.id, opened_at=now, seen_at=now, hard_texts=0)
            )
            enter(session, Deed.LOGGED_IN, at=now, actor=reviewer.name)
        return token

    async def find(self, token: str) -> OpenSession | None:
        """Return the session of a token, if it is in force, and note that it is in use."""
        now = self._clock()
        async with self._database.read() as session:
            found = (
                await session.execute(
                    select(DeskSession, Reviewer)
                    .join(Reviewer, Reviewer.id == DeskSession.reviewer_id)
                    .where(
                        DeskSession.digest == digest(token),
                        DeskSession.opened_at > now - self._max,
                        DeskSession.seen_at > now - self._idle,
                        Reviewer.revoked_at.is_(None),
                    )
                )
            ).first()
        if found is None:
            return None
        row, reviewer = found
        if now - row.seen_at >= self._idle / _TOUCHES:
            async with self._database.write() as session:
                await session.execute(update(DeskSession).where(DeskSession.id == row.id).values(seen_at=now))
        return OpenSession(row.id, reviewer.name, reviewer.role, row.hard_texts)

    async def count_hard_text(self, session_id: int) -> int:
        """Count a distressing text that was decided in a session, and return how many there were."""
        async with self._database.write() as session:
            row = await session.get(DeskSession, session_id)
            if row is None:  # it has just ended
                return 0
            row.hard_texts += 1
            return row.hard_texts

    async def end(self, open_session: OpenSession) -> None:
        """Log out."""
        async with self._database.write() as session:
            await session.execute(delete(DeskSession).where(DeskSession.id == open_session.id))
            enter(session, Deed.LOGGED_OUT, at=self._clock(), actor=open_session.reviewer)

    def _subjects(self, name: str, address: str) -> dict[str, bytes]:
        named = {"name and address": f"{name}\x00{address}", "address": address, "name": name}
        return {kind: self._keyring.subject(kind, value) for kind, value in named.items()}
