"""Leases: one holder at a time, with a fence that grows so that a holder who slept too long is refused."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict
from guard.store.database import Database
from guard.store.rows import Lease

LEARNER: Final = "learner"


class Leases:
    """Queries over leases."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def acquire(self, name: str, holder: str, *, ttl: timedelta) -> int | None:
        """Take a lease that is free, expired or one's own, and return its fence; None when someone else holds it.

        Args:
            name: What the lease is about.
            holder: Names one process, and no later one.
            ttl: How long it holds unless renewed.
        """
        now = self._clock()
        async with self._database.write() as session:
            lease = await session.get(Lease, name)
            if lease is None:
                lease = Lease(name=name, holder=holder, fence=1, expires_at=now + ttl)
                session.add(lease)
            elif lease.expires_at <= now:
                lease.holder, lease.fence, lease.expires_at = holder, lease.fence + 1, now + ttl
            elif lease.holder == holder:
                lease.expires_at = now + ttl
            else:
                return None
            return lease.fence

    async def renew(self, name: str, *, fence: int, ttl: timedelta) -> bool:
        """Prolong a lease; False when it was lost."""
        async with self._database.write() as session:
            lease = await session.get(Lease, name)
            if lease is None or lease.fence != fence:
                return False
            lease.expires_at = self._clock() + ttl
            return True

    async def release(self, name: str, *, fence: int) -> None:
        """Give a lease back, so that the next holder need not wait for it to expire."""
        async with self._database.write() as session:
            lease = await session.get(Lease, name)
            if lease is not None and lease.fence == fence:
                lease.expires_at = self._clock()

    async def expires_at(self, name: str) -> datetime | None:
        """Return when the lease expires or expired; None when nobody ever held it."""
        async with self._database.read() as session:
            expires_at: datetime | None = await session.scalar(select(Lease.expires_at).where(Lease.name == name))
            return expires_at


async def check_fence(session: AsyncSession, name: str, fence: int) -> None:
    """Refuse a caller whose lease has passed to another, within the caller's transaction.

    Raises:
        Conflict: The fence has grown.
    """
    current = await session.scalar(select(Lease.fence).where(Lease.name == name))
    if current != fence:
        raise Conflict("Another learner has taken over.")
