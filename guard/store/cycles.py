"""The cycles: one row each, moved from stage to stage by the one learner that holds the lease."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.errors import Conflict, NotFound
from guard.store.database import Database
from guard.store.lease import LEARNER, check_fence
from guard.store.opinions import UNSETTLED, Opinions
from guard.store.pool import AUDIT, IMPORT
from guard.store.rows import Cycle, Message, Pick
from guard.store.states import CycleState, MessageState, PickState


@dataclass(frozen=True, slots=True)
class Picked:
    """A message chosen for people: `reason` says why in words and numbers, without its text."""

    message_id: int
    reason: dict[str, Any]
    inclusion_probability: float | None


class Cycles:
    """Queries over cycles. Every change names the learner's fence; a learner that lost its lease is refused."""

    def __init__(self, database: Database, clock: Callable[[], datetime], opinions: Opinions) -> None:
        self._database = database
        self._clock = clock
        self._opinions = opinions

    async def open(
        self, *, fence: int, strategy: str, seed: int, batch_size: int, champion: str, due_at: datetime
    ) -> Cycle:
        """Open a cycle in `selecting`.

        Raises:
            Conflict: One is open already, or the lease was lost.
        """
        now = self._clock()
        async with self._database.write() as session:
            await check_fence(session, LEARNER, fence)
            if await _current(session) is not None:
                raise Conflict("A cycle is open already.")
            cycle = Cycle(
                state=CycleState.SELECTING,
                strategy=strategy,
                seed=seed,
                batch_size=batch_size,
                labels_spent=0,
                champion=champion,
                challenger=None,
                opened_at=now,
                due_at=due_at,
                closed_at=None,
                frozen_at=None,
                timeline=[{"stage": CycleState.SELECTING, "started_at": now.isoformat(), "ended_at": None}],
                figures={},
                reasons=[],
            )
            session.add(cycle)
            await session.flush()
            return cycle

    async def fill(self, cycle_id: int, picks: Sequence[Picked], *, fence: int, figures: dict[str, Any]) -> Cycle:
        """Hand the batch to people: the picks in order, and the cycle in `labelling`, in one transaction.

        Raises:
            NotFound: There is no such cycle.
            Conflict: The cycle is not in `selecting`, or the lease was lost.
        """
        async with self._database.write() as session:
            cycle = await self._claim(session, cycle_id, fence, CycleState.SELECTING)
            # messages erased or expired since they were read are no longer there to be picked
            pooled = select(Message.id).where(
                Message.id.in_([p.message_id for p in picks]), Message.state == MessageState.POOLED
            )
            present = set(await session.scalars(pooled))
            kept = [
                Pick(
                    cycle_id=cycle_id,
                    message_id=p.message_id,
                    position=position,
                    reason=p.reason,
                    inclusion_probability=p.inclusion_probability,
                    state=PickState.WAITING,
                )
                for position, p in enumerate(p for p in picks if p.message_id in present)
            ]
            session.add_all(kept)
            await self._opinions.settle(session, kept)
            self._enter(cycle, CycleState.LABELLING, figures)
            return cycle

    async def advance(
        self,
        cycle_id: int,
        *,
        fence: int,
        source: CycleState,
        target: CycleState,
        figures: dict[str, Any] | None = None,
        reasons: Sequence[str] = (),
        challenger: str | None = None,
    ) -> Cycle:
        """Move a cycle from one stage to a later one.

        Leaving `labelling` settles what has opinions by those there are, leaves open what is contested, and returns the
        rest to the pool.

        Raises:
            NotFound: There is no such cycle.
            Conflict: The cycle is not in `source`, or the lease was lost.
            ValueError: `target` is no stage after `source`.
        """
        if not source.before(target):
            raise ValueError(f"A cycle does not go from {source} to {target}.")
        async with self._database.write() as session:
            cycle = await self._claim(session, cycle_id, fence, source)
            if source is CycleState.LABELLING:
                picks = (await session.scalars(_unsettled(cycle_id))).all()
                await self._opinions.settle(session, picks, closed=True)
                for pick in picks:
                    pick.leased_by = pick.leased_until = None
            if challenger is not None:
                cycle.challenger = challenger
            if reasons:
                cycle.reasons = list(reasons)
            self._enter(cycle, target, figures or {})
            return cycle

    async def current(self) -> Cycle | None:
        """Return the open cycle."""
        async with self._database.read() as session:
            return await _current(session)

    async def get(self, cycle_id: int) -> Cycle | None:
        """Return a cycle."""
        async with self._database.read() as session:
            return await session.get(Cycle, cycle_id)

    async def recent(self, limit: int = 20) -> Sequence[Cycle]:
        """Return the latest cycles, newest first, without those that stand for a file of labels."""
        query = select(Cycle).where(Cycle.strategy != IMPORT).order_by(Cycle.id.desc()).limit(limit)
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def drawn_before(self, cycle_id: int) -> datetime | None:
        """Return when the last cycle before this one that had a batch was opened."""
        filled = select(func.max(Cycle.opened_at)).where(Cycle.id < cycle_id, Cycle.id.in_(select(Pick.cycle_id)))
        async with self._database.read() as session:
            return cast("datetime | None", await session.scalar(filled))

    async def labels_spent(self) -> int:
        """Return how many decisions people have made in all cycles, erased ones included: what the budget counts."""
        async with self._database.read() as session:
            return int(await session.scalar(select(func.coalesce(func.sum(Cycle.labels_spent), 0))) or 0)

    async def counts(self) -> dict[CycleState, int]:
        """Return how many cycles are in each state."""
        async with self._database.read() as session:
            query = select(Cycle.state, func.count()).where(Cycle.strategy != IMPORT).group_by(Cycle.state)
            found = {s: n for s, n in await session.execute(query)}
        return {state: found.get(state, 0) for state in CycleState}

    async def variation_fates(self) -> dict[str, int]:
        """Return how many variations of all cycles met each fate."""
        fates: dict[str, int] = {}
        async with self._database.read() as session:
            for figures in await session.scalars(select(Cycle.figures)):
                for fate, number in figures.get("variations", {}).items():
                    fates[fate] = fates.get(fate, 0) + number
        return fates

    async def audits(self) -> list[tuple[int, bool]]:
        """Return the cycle of each labelled message of the audit stream, and whether the verdict that let it in was right."""
        labelled = (
            select(Pick.cycle_id, Message.category, Pick.category)
            .join(Message, Message.id == Pick.message_id)
            .where(Message.reason == AUDIT, Pick.category.is_not(None))
            .order_by(Pick.id)
        )
        async with self._database.read() as session:
            return [(cycle_id, verdict is label) for cycle_id, verdict, label in await session.execute(labelled)]

    async def last_judged(self) -> Cycle | None:
        """Return the latest cycle whose challenger went through the gate."""
        async with self._database.read() as session:
            judged = select(Cycle).where(Cycle.state.in_([CycleState.PROMOTED, CycleState.HELD]))
            cycle: Cycle | None = await session.scalar(
                judged.where(Cycle.challenger.is_not(None)).order_by(Cycle.id.desc()).limit(1)
            )
            return cycle

    async def undecided(self, cycle_id: int) -> int:
        """Return how many picks of a cycle wait for people: they lack opinions, or are contested."""
        query = select(func.count()).where(Pick.cycle_id == cycle_id, Pick.state.in_(UNSETTLED))
        async with self._database.read() as session:
            return int(await session.scalar(query) or 0)

    async def if_closed(self, cycle_id: int) -> dict[PickState, int]:
        """Return how many picks of a cycle would be in each state if its batch were closed now; none would wait."""
        async with self._database.read() as session:
            rows = await session.execute(
                select(Pick.state, func.count()).where(Pick.cycle_id == cycle_id).group_by(Pick.state)
            )
            counts = Counter({state: number for state, number in rows if state not in UNSETTLED})
            picks = (await session.scalars(_unsettled(cycle_id))).all()
            counts.update(o.state for o in (await self._opinions.outcomes(session, picks, closed=True)).values())
        return {state: counts[state] for state in PickState if state is not PickState.WAITING}

    async def _claim(self, session: AsyncSession, cycle_id: int, fence: int, source: CycleState) -> Cycle:
        await check_fence(session, LEARNER, fence)
        cycle = await session.get(Cycle, cycle_id)
        if cycle is None:
            raise NotFound(f"There is no cycle {cycle_id}.")
        if cycle.state is not source:
            raise Conflict(f"Cycle {cycle_id} is {cycle.state}, not {source}.")
        return cycle

    def _enter(self, cycle: Cycle, target: CycleState, figures: dict[str, Any]) -> None:
        now = self._clock()
        *before, last = cycle.timeline
        timeline = [*before, {**last, "ended_at": now.isoformat()}]
        if target.ended:
            cycle.closed_at = now
        else:
            timeline.append({"stage": target, "started_at": now.isoformat(), "ended_at": None})
        cycle.timeline = timeline
        if figures:
            cycle.figures = {**cycle.figures, **figures}
        cycle.state = target


async def add_figures(session: AsyncSession, cycle_id: int, section: str, counts: dict[str, int]) -> None:
    """Add counts to one section of a cycle's figures, within the caller's transaction."""
    cycle = await session.get_one(Cycle, cycle_id)
    before = cycle.figures.get(section, {})
    merged = {**before, **{name: before.get(name, 0) + number for name, number in counts.items()}}
    cycle.figures = {**cycle.figures, section: merged}


def _unsettled(cycle_id: int) -> Select[tuple[Pick]]:
    return select(Pick).where(Pick.cycle_id == cycle_id, Pick.state.in_(UNSETTLED))


async def _current(session: AsyncSession) -> Cycle | None:
    ended = [state for state in CycleState if state.ended]
    cycle: Cycle | None = await session.scalar(
        select(Cycle).where(Cycle.state.not_in(ended)).order_by(Cycle.id).limit(1)
    )
    return cycle
