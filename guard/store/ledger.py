"""The ledger: who decided what, and when. Lines are written in the transaction of what they tell of, and never changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.store.database import Database
from guard.store.rows import LedgerLine
from guard.store.states import Deed

CLI: Final = "cli"  # whoever runs `guard …` has the database anyway: no name would prove anything


class Ledger:
    """Queries over the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def recent(self, limit: int = 100, *, before: int | None = None) -> Sequence[LedgerLine]:
        """Return the latest lines, newest first; with `before`, those older than that line."""
        query = select(LedgerLine).order_by(LedgerLine.id.desc()).limit(limit)
        if before is not None:
            query = query.where(LedgerLine.id < before)
        async with self._database.read() as session:
            return (await session.scalars(query)).all()


def enter(
    session: AsyncSession, deed: Deed, *, at: datetime, actor: str, subject: str | None = None, **detail: Any
) -> None:
    """Add a line within the caller's transaction.

    Args:
        subject: What it was done to, by kind and id: `pick 12`. Never a text, nor a user's id or its hash.
        detail: What else was decided, in words that are no user's.
    """
    session.add(LedgerLine(done_at=at, actor=actor, deed=deed, subject=subject, detail=detail))
