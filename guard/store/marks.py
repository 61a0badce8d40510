"""What a reviewer puts on a pick beside a label: a flag, or that somebody else should decide."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import func, select

from guard.errors import NotFound
from guard.store.database import Database
from guard.store.ledger import enter
from guard.store.opinions import UNSETTLED, Opinions
from guard.store.review import undecided
from guard.store.rows import Cycle, Pick, PickMark
from guard.store.states import CycleState, Deed, Mark


class Marks:
    """Queries over marks."""

    def __init__(self, database: Database, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._clock = clock
        self._opinions = opinions

    async def flag(self, pick_id: int, reviewer: str) -> bool:
        """Flag a pick for a second look, or take the reviewer's flag off again; return whether it is flagged now.

        Raises:
            NotFound: There is no such pick, or its message was erased.
        """
        now = self._clock()
        async with self._database.write() as session:
            if await session.get(Pick, pick_id) is None:
                raise NotFound(f"There is no pick {pick_id}: its message may have been erased. Ask for the next one.")
            mark = await session.get(PickMark, (pick_id, reviewer, Mark.FLAGGED))
            if mark is None:
                session.add(PickMark(pick_id=pick_id, reviewer=reviewer, mark=Mark.FLAGGED, marked_at=now))
            else:
                await session.delete(mark)
            deed = Deed.FLAGGED if mark is None else Deed.UNFLAGGED
            enter(session, deed, at=now, actor=reviewer, subject=f"pick {pick_id}")
            return mark is None

    async def hand_on(self, pick_id: int, reviewer: str) -> None:
        """Let others decide about a pick: this reviewer is not asked again, and need not say why.

        Where nobody is left to ask, the opinions there are settle it.

        Raises:
            NotFound: There is no such pick, or its message was erased.
            Conflict: It is decided already, held by someone else, or the batch is closed.
        """
        now = self._clock()
        async with self._database.write() as session:
            pick, _ = await undecided(session, pick_id, reviewer=reviewer, now=now)
            pick.leased_by = pick.leased_until = None
            await session.merge(PickMark(pick_id=pick_id, reviewer=reviewer, mark=Mark.HANDED_ON, marked_at=now))
            await self._opinions.settle(session, [pick])
            enter(session, Deed.HANDED_ON, at=now, actor=reviewer, subject=f"pick {pick_id}")

    async def handed_on(self, reviewer: str) -> int:
        """Return how many picks of the open batch that this reviewer handed on still wait for somebody."""
        query = (
            select(func.count())
            .select_from(PickMark)
            .join(Pick, Pick.id == PickMark.pick_id)
            .join(Cycle, Cycle.id == Pick.cycle_id)
            .where(
                PickMark.reviewer == reviewer,
                PickMark.mark == Mark.HANDED_ON,
                Pick.state.in_(UNSETTLED),
                Cycle.state == CycleState.LABELLING,
            )
        )
        async with self._database.read() as session:
            return int(await session.scalar(query) or 0)
