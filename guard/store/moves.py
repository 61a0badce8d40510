"""Moves of the champion pointer by people: the ledger's line and the move, of which neither stands without the other."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from guard.store.database import Database
from guard.store.ledger import enter
from guard.store.states import Deed


class Moves:
    """Writes moves down."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    @asynccontextmanager
    async def entered(self, deed: Deed, *, actor: str, reason: str, subject: str | None = None) -> AsyncIterator[None]:
        """Enter a move that is made within the block; where it fails, nothing is entered.

        The pointer is a file: killed between the move and the end of the transaction the guard leaves a move without its
        line, which `exports/promotions.jsonl` names with its actor and reason all the same.

        Args:
            subject: The version, as `version 0007`.
        """
        async with self._database.write() as session:
            enter(session, deed, at=self._clock(), actor=actor, subject=subject, reason=reason)
            await session.flush()  # a store that takes no writes refuses before anything moves
            yield
