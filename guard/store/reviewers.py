"""Reviewers' accounts: a name, a role, and the hash of a password that `guard.passwords` makes."""

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Select, delete, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict, InputError, NotFound
from guard.store.database import Database
from guard.store.keys import NAME_CHARS
from guard.store.ledger import CLI, enter
from guard.store.opinions import Opinions
from guard.store.rows import DeskSession, Key, Reviewer
from guard.store.states import Deed, Role


class Reviewers:
    """Queries over accounts."""

    def __init__(self, database: Database, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._clock = clock
        self._opinions = opinions

    async def add(self, name: str, role: Role, password_hash: str) -> None:
        """Make an account.

        Raises:
            InputError: The name is empty, too long or not printable.
            Conflict: The name is taken, by an account or by a key, perhaps a revoked one.
        """
        if name != name.strip() or not 0 < len(name) <= NAME_CHARS or not name.isprintable():
            raise InputError(f"A reviewer's name has 1 to {NAME_CHARS} printable characters and no blank at its ends.")
        now = self._clock()
        taken = Conflict(f"There is a reviewer or a key named {name!r} already: choose another name.")
        try:
            async with self._database.write() as session:
                # labels tell their reviewer by name alone: it must not stand for two callers
                if await session.scalar(select(exists().where(Key.name == name))):
                    raise taken
                session.add(
                    Reviewer(name=name, role=role, password_hash=password_hash, created_at=now, revoked_at=None)
                )
                enter(session, Deed.REVIEWER_ADDED, at=now, actor=CLI, subject=f"reviewer {name}", role=role.value)
        except IntegrityError:
            raise taken from None

    async def all(self) -> Sequence[Reviewer]:
        """Return every account, revoked ones included, by name."""
        async with self._database.read() as session:
            return (await session.scalars(select(Reviewer).order_by(Reviewer.name))).all()

    async def any(self) -> bool:
        """Return whether there is an account, be it a revoked one."""
        async with self._database.read() as session:
            return bool(await session.scalar(select(exists().where(Reviewer.id > 0))))

    async def find(self, name: str) -> Reviewer | None:
        """Return the account in force of a name."""
        async with self._database.read() as session:
            found: Reviewer | None = await session.scalar(_in_force(name))
            return found

    async def revoke(self, name: str) -> None:
        """Revoke an account and end its sessions; no message waits for their opinion any more.

        Raises:
            NotFound: There is no such account in force.
        """
        now = self._clock()
        async with self._database.write() as session:
            reviewer = await self._require(session, name)
            reviewer.revoked_at = now
            await session.execute(delete(DeskSession).where(DeskSession.reviewer_id == reviewer.id))
            await self._opinions.settle_open(session)
            enter(session, Deed.REVIEWER_REVOKED, at=now, actor=CLI, subject=f"reviewer {name}")

    async def set_password(self, name: str, password_hash: str) -> None:
        """Give an account another password and end its sessions.

        Raises:
            NotFound: There is no such account in force.
        """
        async with self._database.write() as session:
            reviewer = await self._require(session, name)
            reviewer.password_hash = password_hash
            await session.execute(delete(DeskSession).where(DeskSession.reviewer_id == reviewer.id))
            enter(session, Deed.PASSWORD_SET, at=self._clock(), actor=CLI, subject=f"reviewer {name}")

    async def _require(self, session: AsyncSession, name: str) -> Reviewer:
        reviewer: Reviewer | None = await session.scalar(_in_force(name))
        if reviewer is None:
            raise NotFound(f"There is no reviewer in force named {name!r}; `guard reviewers list` shows them.")
        return reviewer


def _in_force(name: str) -> Select[tuple[Reviewer]]:
    return select(Reviewer).where(Reviewer.name == name, Reviewer.revoked_at.is_(None))
