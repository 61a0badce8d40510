"""READ FIRST. The loop: one cycle at a time, stage after stage, each recorded in the store before the next begins.

    selecting ▶ labelling ▶ generating ▶ training ▶ gating ▶ promoted | held | failed

`Loop` decides what comes next and writes it down; `work.Work` does it. `schedule` calls `Loop.step` again and again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from guard.errors import Conflict, LifeguardError, NoModel, StoreUnavailable
from guard.exports import Exports
from guard.logs import frames
from guard.store import Store
from guard.store.lease import LEARNER
from guard.store.rows import Cycle
from guard.store.states import CycleState, PickState
from learner.settings import LearnerSettings
from learner.stopping import paused
from learner.work import Work

NO_LABELS: Final = "no labels"
NO_CHAMPION: Final = "there is no champion yet: run `learner bootstrap`"
_PAUSED_AFTER: Final = 2  # failures in a row: a lasting fault must not fill the table with failed cycles
_PAUSE: Final = timedelta(minutes=1)  # doubled by each further failure
_MAX_PAUSE: Final = timedelta(hours=1)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did.

    Args:
        cycle_id: The cycle it was about; None when none is open.
        state: The state the cycle is in now.
        waits_for: Why nothing was done; None when something was.
    """

    cycle_id: int | None
    state: CycleState | None
    waits_for: str | None = None


class Loop:
    """Takes the cycle on, a stage a step, and opens the next one when there is reason to.

    A learner that is killed leaves the cycle in the stage it was in; the next one does that stage again, and none
    before it. A stage that raises ends its cycle as failed; its labels stay and serve the next cycle.

    Args:
        store: Where every step is recorded.
        exports: Where the models are.
        settings: Batch, budget and limits.
        work: Does what the stages consist of.
        fence: The learner's lease; without it nothing is recorded.
        by_hand: Whether a person asked for it, who need not wait out a pause.
    """

    def __init__(
        self,
        store: Store,
        exports: Exports,
        settings: LearnerSettings,
        work: Work,
        *,
        fence: int,
        by_hand: bool = False,
    ) -> None:
        self._store = store
        self._exports = exports
        self._settings = settings
        self._work = work
        self._fence = fence
        self._by_hand = by_hand
        self._stages: dict[CycleState, Callable[[Cycle], Awaitable[Cycle | None]]] = {
            CycleState.SELECTING: self._select,
            CycleState.LABELLING: self._collect,
            CycleState.GENERATING: self._generate,
            CycleState.TRAINING: self._train,
            CycleState.GATING: self._gate,
        }

    async def step(self) -> Step:
        """Do the current stage, or open a cycle, or say what is waited for.

        Raises:
            Conflict: The lease or the champion has passed to another: nothing was recorded.
            StoreUnavailable: The database does not answer: the stage will be done again.
        """
        cycle = await self._store.cycles.current()
        if cycle is None:
            return await self._open()
        began_s = time.monotonic()
        if cycle.state is not CycleState.LABELLING:
            await self._hold_on()  # a store that takes no writes must not let the LLM be paid for nothing
        try:
            after = await self._stages[cycle.state](cycle)
        except (Conflict, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a stage meets must end its cycle, not the loop
            after = await self._fail(cycle, error)
        if after is None:
            return Step(cycle.id, cycle.state, await waiting(self._store, cycle))
        seconds = round(time.monotonic() - began_s, 3)
        _log.info("stage_done", cycle=cycle.id, stage=cycle.state.value, next=after.state.value, seconds=seconds)
        return Step(after.id, after.state)

    async def _open(self) -> Step:
        store, settings = self._store, self._settings
        champion = self._exports.champion()
        reason = await obstacle(store, self._exports, settings, pause=not self._by_hand)
        if champion is None or reason is not None:
            return Step(None, None, reason or NO_CHAMPION)
        cycle = await store.cycles.open(
            fence=self._fence,
            strategy=settings.strategy,
            seed=settings.seed + sum((await store.cycles.counts()).values()),
            batch_size=min(settings.batch_size, settings.budget - await store.cycles.labels_spent()),
            champion=champion,
            due_at=store.clock() + timedelta(hours=settings.labelling_hours),
        )
        _log.info("cycle_opened", cycle=cycle.id, strategy=cycle.strategy, size=cycle.batch_size, champion=champion)
        return Step(cycle.id, cycle.state)

    async def _select(self, cycle: Cycle) -> Cycle:
        picks, figures = await self._work.select(cycle)
        return await self._store.cycles.fill(cycle.id, picks, fence=self._fence, figures={"selection": figures})

    async def _collect(self, cycle: Cycle) -> Cycle | None:
        """Close the batch when every pick is settled or the time is up; None while people are at it."""
        if await self._store.cycles.undecided(cycle.id) and self._store.clock() < cycle.due_at:
            return None
        picks = await self._store.cycles.if_closed(cycle.id)
        figures = {"labels": {state.value: number for state, number in picks.items()}}
        if picks[PickState.LABELLED] == 0:
            return await self._advance(cycle, CycleState.HELD, figures=figures, reasons=[NO_LABELS])
        return await self._advance(cycle, CycleState.GENERATING, figures=figures)

    async def _generate(self, cycle: Cycle) -> Cycle:
        figures = await self._work.vary(cycle, fence=self._fence)
        return await self._advance(cycle, CycleState.TRAINING, figures={"generation": figures})

    async def _train(self, cycle: Cycle) -> Cycle:
        """Train on the frozen labels; what a killed learner published of this cycle is not trained again."""
        rows = await self._store.variations.freeze(cycle.id, fence=self._fence)
        if rows == 0:  # erased since they were given
            return await self._advance(cycle, CycleState.HELD, reasons=[NO_LABELS])
        challenger = await asyncio.to_thread(self._published, cycle) or await self._work.train(cycle, fence=self._fence)
        return await self._advance(
            cycle, CycleState.GATING, figures={"training": {"rows": rows}}, challenger=challenger
        )

    async def _gate(self, cycle: Cycle) -> Cycle:
        """Judge the challenger against the champion of this moment, and move the pointer if it is better."""
        champion, challenger = self._exports.champion(), str(cycle.challenger)
        if champion is None:
            raise NoModel("There is no champion to judge against: run `learner bootstrap`.")
        if (reason := self._promoted(challenger)) is not None:  # a killed learner came as far as the pointer
            return await self._advance(cycle, CycleState.PROMOTED, reasons=[reason])
        judgement = await self._work.judge(champion, challenger)
        figures = {"gate": dict(judgement.metrics), "confusion": dict(judgement.tables)}
        reasons = judgement.reasons
        if (hold := self._exports.hold()) is not None:
            reasons = (f"promotions are on hold by {hold.by}: {hold.reason}", *reasons)
        if not judgement.promote or hold is not None:
            return await self._advance(cycle, CycleState.HELD, figures=figures, reasons=reasons)
        await self._hold_on()
        await self._work.promote(judgement, challenger, expected=champion)
        return await self._advance(cycle, CycleState.PROMOTED, figures=figures, reasons=reasons)

    async def _fail(self, cycle: Cycle, error: Exception) -> Cycle:
        kind = type(error).__name__
        detail = error.detail if isinstance(error, LifeguardError) else None  # only ours are known to have no text
        _log.error(
            "stage_failed", cycle=cycle.id, stage=cycle.state.value, error=kind, detail=detail, frames=frames(error)
        )
        return await self._advance(cycle, CycleState.FAILED, reasons=[f"{cycle.state}: {kind}"])

    async def _advance(
        self,
        cycle: Cycle,
        target: CycleState,
        *,
        figures: dict[str, Any] | None = None,
        reasons: Sequence[str] = (),
        challenger: str | None = None,
    ) -> Cycle:
        return await self._store.cycles.advance(
            cycle.id,
            fence=self._fence,
            source=cycle.state,
            target=target,
            figures=figures,
            reasons=reasons,
            challenger=challenger,
        )

    async def _hold_on(self) -> None:
        """Make sure of the lease before something is done that knows no fence: a stage, a move of the pointer.

        Raises:
            Conflict: The lease was lost.
        """
        ttl = timedelta(seconds=self._settings.lease_s)
        if not await self._store.leases.renew(LEARNER, fence=self._fence, ttl=ttl):
            raise Conflict("Another learner has taken over.")

    def _published(self, cycle: Cycle) -> str | None:
        """Return the export of this cycle; one older than the cycle is of another database's cycle of that number."""
        version = self._exports.of_cycle(cycle.id)
        if version is None or self._exports.manifest(version).created_at < cycle.opened_at:
            return None
        return version

    def _promoted(self, challenger: str) -> str | None:
        """Return why the challenger was promoted: it is the champion, or the pointer has moved on from it since."""
        moves = self._exports.promotions()
        if self._exports.champion() == challenger or any(move.previous == challenger for move in moves):
            return next((move.reason for move in reversed(moves) if move.version == challenger), "promoted by hand")
        return None


async def waiting(store: Store, cycle: Cycle) -> str | None:
    """Return what an open cycle waits for; None when a learner can take it on."""
    undecided = await store.cycles.undecided(cycle.id) if cycle.state is CycleState.LABELLING else 0
    if not undecided or store.clock() >= cycle.due_at:
        return None
    return f"{undecided} messages wait for people, until {cycle.due_at:%Y-%m-%d %H:%M} UTC (`learner status`)"


async def obstacle(store: Store, exports: Exports, settings: LearnerSettings, *, pause: bool = True) -> str | None:
    """Return why no cycle opens now; None when one can.

    Args:
        pause: Whether several failures in a row are such a reason for a while, and labels that would bring nothing.
    """
    if exports.champion() is None:
        return NO_CHAMPION
    spent = await store.cycles.labels_spent()
    if spent >= settings.budget:
        return f"the labelling budget is spent: {spent} of {settings.budget} (LEARNER_BUDGET)"
    size = await store.pool.size()
    if size < settings.pool_min:
        return f"the pool holds {size} messages and a cycle opens at {settings.pool_min} (LEARNER_POOL_MIN)"
    if pause and (until := await _paused_until(store)) is not None and store.clock() < until:
        return f"the last cycles failed: the next opens at {until:%Y-%m-%d %H:%M:%S} UTC, or by `learner cycle`"
    if pause and (why := await paused(store, settings)) is not None:
        return f"paused: {why}"
    return None


async def _paused_until(store: Store) -> datetime | None:
    """Return when the next cycle may open, if at least the last two failed."""
    failed = 0
    cycles = await store.cycles.recent(10)
    for cycle in cycles:
        if cycle.state is not CycleState.FAILED:
            break
        failed += 1
    closed_at = cycles[0].closed_at if cycles else None
    if failed < _PAUSED_AFTER or closed_at is None:
        return None
    return closed_at + min(_PAUSE * (1 << failed - _PAUSED_AFTER), _MAX_PAUSE)
