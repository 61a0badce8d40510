"""API keys: made once, shown once, stored as digests."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError

from guard.errors import Conflict, InputError, NotFound
from guard.store.database import Database
from guard.store.ledger import CLI, enter
from guard.store.opinions import Opinions
from guard.store.rows import Key, Reviewer
from guard.store.states import Deed, Role

PREFIX: Final = "lg_"
NAME_CHARS: Final = 64


def digest(secret: str) -> bytes:
    """Return the digest under which a key is stored: plain SHA-256, since the key itself is 32 random bytes."""
    return hashlib.sha256(secret.encode()).digest()


class Keys:
    """Queries over API keys."""

    def __init__(self, database: Database, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._clock = clock
        self._opinions = opinions

    async def create(self, name: str, role: Role) -> str:
        """Make a key and return it; it cannot be shown again.

        Raises:
            InputError: The name is empty, too long or not printable.
            Conflict: The name is taken, by a key or by a reviewer's account, perhaps a revoked one.
        """
        if not name.strip() or len(name) > NAME_CHARS or not name.isprintable():
            raise InputError(f"A key's name has 1 to {NAME_CHARS} printable characters.")
        secret, now = PREFIX + secrets.token_urlsafe(32), self._clock()
        try:
            async with self._database.write() as session:
                if await session.scalar(select(exists().where(Reviewer.name == name))):
                    raise Conflict(f"There is a reviewer named {name!r} already: choose another name.")
                session.add(Key(name=name, role=role, digest=digest(secret), created_at=now, revoked_at=None))
                enter(session, Deed.KEY_CREATED, at=now, actor=CLI, subject=f"key {name}", role=role.value)
        except IntegrityError:
            raise Conflict(f"There is a key named {name!r} already: choose another name.") from None
        return secret

    async def all(self) -> Sequence[Key]:
        """Return every key, revoked ones included, by name."""
        async with self._database.read() as session:
            return (await session.scalars(select(Key).order_by(Key.name))).all()

    async def revoke(self, name: str) -> None:
        """Revoke a key; no message waits for its holder's opinion any more.

        Raises:
            NotFound: There is no such key in force.
        """
        async with self._database.write() as session:
            key = await session.scalar(select(Key).where(Key.name == name, Key.revoked_at.is_(None)))
            if key is None:
                raise NotFound(f"There is no key in force named {name!r}; `guard keys list` shows them.")
            key.revoked_at = self._clock()
            await self._opinions.settle_open(session)
            enter(session, Deed.KEY_REVOKED, at=key.revoked_at, actor=CLI, subject=f"key {name}")
