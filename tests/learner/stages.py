"""Quick stages around a real store, real exports and a real (toy) model: what the tests of the loop stand on."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.pool import Arrival
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.taxonomy import CATEGORIES, Category
from learner.cycle import Loop, Step
from learner.settings import LearnerSettings
from learner.work import Work
from tests.conftest import Clock
from tests.toys import VOTES, publish_toy, rewrite_manifest

if TYPE_CHECKING:
    from learner.gate import Judgement

STAGES = ("select", "vary", "train", "judge", "promote")


@dataclass(frozen=True)
class Ruling:
    """What the gate would say."""

    promote: bool = True
    reasons: tuple[str, ...] = ("better by 2 points",)
    metrics: dict[str, float] = field(default_factory=lambda: {"macro_f1": 0.75, "delta_macro_f1": 0.02})
    tables: dict[str, list[list[int]]] = field(default_factory=lambda: {"challenger": [[1]]})


class QuickWork(Work):
    """Selects in earnest, trains a toy, and judges as told.

    Args:
        before: Awaited when a stage begins, by the stage's name; it may raise, wait or change the world.
    """

    def __init__(self, store: Store, exports: Exports, settings: LearnerSettings) -> None:
        super().__init__(store, exports, settings)
        self.begun: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.ruling = Ruling()

    async def bootstrap(self) -> str:
        """Publish a toy as the first champion."""
        await self._begin("bootstrap")
        return publish_toy(self._exports)

    async def refine(self) -> None:
        """Leave the toy as it is."""

    async def select(self, cycle: Cycle) -> tuple[list[Picked], dict[str, Any]]:
        """Select in earnest."""
        await self._begin("select")
        return await super().select(cycle)

    async def vary(self, cycle: Cycle, *, fence: int) -> dict[str, Any]:
        """Write no variations."""
        await self._begin("vary")
        return {"skipped": "no LLM key"}

    async def train(self, cycle: Cycle, *, fence: int) -> str:
        """Publish a toy of this cycle."""
        await self._begin("train")
        version = publish_toy(self._exports, promote=False)
        rewrite_manifest(self._exports.path(version), cycle_id=cycle.id, created_at=self._store.clock())
        return version

    async def judge(self, champion: str, challenger: str) -> "Judgement":
        """Rule as told."""
        await self._begin("judge")
        return cast("Judgement", self.ruling)

    async def promote(self, judgement: "Judgement", version: str, *, expected: str) -> None:
        """Move the pointer."""
        await self._begin("promote")
        self._exports.promote(version, by="learner", reason="; ".join(judgement.reasons), expected=expected)

    async def _begin(self, stage: str) -> None:
        self.begun.append(stage)
        if stage in self.before:
            await self.before[stage]()


def texts(count: int) -> list[str]:
    """Return texts that lie apart in the toy model's space: each mixes the words of one to three categories."""
    words = [next(word for word, voted in VOTES.items() if voted is category) for category in CATEGORIES]
    mixes = (" ".join(mix) for size in (1, 2, 3) for mix in itertools.combinations(words, size))
    return list(itertools.islice(mixes, count))


async def fill_pool(store: Store, count: int = 20, *, user: str | None = None) -> None:
    """Put different texts into the pool."""
    arrivals = [
        Arrival(
            text=text,
            user=user,
            reason="uncertain",
            inclusion_probability=1.0,
            model_version="0001",
            category=Category.NOT_HARMFUL,
            scores=(1 / 6,) * 6,
            uncertainty=1.0,
            seen_at=store.clock(),
        )
        for text in texts(count)
    ]
    await store.pool.add(arrivals, max_messages=1000)


async def label(store: Store, count: int | None = None, *, category: Category | None = Category.LEGAL_ADVICE) -> int:
    """Decide about the next `count` picks, or all, and return how many were decided."""
    done = 0
    while (count is None or done < count) and (held := await store.review.next("ann")) is not None:
        await store.review.label(held.pick_id, reviewer="ann", category=category)
        done += 1
    return done


async def walk(loop: Loop, *, until: CycleState | None = None, steps: int = 12) -> Step:
    """Step until the loop waits or a state is reached, and return the last step."""
    for _ in range(steps):
        step = await loop.step()
        if step.waits_for is not None or step.state is until:
            return step
    raise AssertionError(f"The loop does not come to rest within {steps} steps.")


async def reached(event: asyncio.Event) -> None:
    """Wait for something that must happen soon."""
    await asyncio.wait_for(event.wait(), 10)


@dataclass
class World:
    """A store, exports with a champion, and a learner that holds the lease."""

    store: Store
    clock: Clock
    exports: Exports
    settings: LearnerSettings
    work: QuickWork
    fence: int

    def loop(self, **changes: Any) -> Loop:
        """Return a loop as a learner makes it that has just started."""
        settings = self.settings.model_copy(update=changes)
        return Loop(self.store, self.exports, settings, self.work, fence=self.fence)

    async def cycle(self) -> Cycle:
        """Return the latest cycle."""
        return (await self.store.cycles.recent(1))[0]


async def build(store: Store, clock: Clock, guard_settings: GuardSettings) -> World:
    """Return a world whose pool is ready for a cycle of four labels."""
    settings = LearnerSettings(batch_size=4, pool_min=10, budget=100, threads=1, labelling_hours=24, user_cap=100)
    exports = Exports(guard_settings.exports_dir)
    publish_toy(exports)
    await fill_pool(store)
    fence = await store.leases.acquire(LEARNER, "one", ttl=timedelta(seconds=60))
    assert fence is not None
    return World(store, clock, exports, settings, QuickWork(store, exports, settings), fence)
