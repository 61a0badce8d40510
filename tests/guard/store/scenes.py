"""What store tests begin with: arrivals, a pool, a batch that waits for people."""

from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import select

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.doubts import Suspicion
from guard.store.lease import LEARNER
from guard.store.pool import Added, Arrival, PooledText, open_text
from guard.store.rows import Contrast, Cycle, Message
from guard.store.states import ContrastState, CycleState
from guard.store.variations import open_sealed
from guard.taxonomy import Category
from tests.conftest import START

SCORES = (0.3, 0.2, 0.2, 0.1, 0.1, 0.1)
TTL = timedelta(minutes=1)


def arrival(
    text: str,
    user: str | None = None,
    *,
    reason: str = "uncertain",
    probability: float = 1.0,
    after: timedelta = timedelta(0),
) -> Arrival:
    """Return a verdict about a text, seen at `START + after`."""
    return Arrival(
        text=text,
        user=user,
        reason=reason,
        inclusion_probability=probability,
        model_version="0001",
        category=Category.SELF_HARM,
        scores=SCORES,
        uncertainty=0.9,
        seen_at=START + after,
    )


async def add(store: Store, *arrivals: Arrival, room: int = 1_000_000) -> Added:
    """Add arrivals to the pool."""
    return await store.pool.add(arrivals, max_messages=room)


async def pooled(store: Store) -> list[PooledText]:
    """Return all that waits in the pool."""
    return [text async for batch in store.pool.texts() for text in batch]


async def learner(store: Store, holder: str = "learner-1") -> int:
    """Take the learner's lease and return its fence."""
    fence = await store.leases.acquire(LEARNER, holder, ttl=TTL)
    assert fence is not None
    return fence


async def open_cycle(store: Store, fence: int, *, due: timedelta = timedelta(days=3)) -> Cycle:
    """Open a cycle in `selecting`."""
    return await store.cycles.open(
        fence=fence, strategy="cluster", seed=1, batch_size=20, champion="0001", due_at=store.clock() + due
    )


async def open_batch(store: Store, fence: int, *texts: str, user: str | None = None) -> Cycle:
    """Put texts into the pool, pick all that waits there and hand it to people."""
    await add(store, *(arrival(text, user) for text in texts))
    cycle = await open_cycle(store, fence)
    picks = [Picked(p.id, {"cluster": n}, 0.5) for n, p in enumerate(await pooled(store))]
    return await store.cycles.fill(cycle.id, picks, fence=fence, figures={"selection": {"picked": len(picks)}})


async def advance(store: Store, cycle: Cycle, fence: int, target: CycleState) -> Cycle:
    """Move a cycle on from where it is."""
    now = await store.cycles.get(cycle.id)
    assert now is not None
    return await store.cycles.advance(cycle.id, fence=fence, source=now.state, target=target)


async def label_all(store: Store, *categories: Category | None, reviewer: str = "ann") -> list[int]:
    """Let a reviewer decide about the next messages; return the picks in that order."""
    picks = []
    for category in categories:
        held = await store.review.next(reviewer)
        assert held is not None
        await store.review.label(held.pick_id, reviewer=reviewer, category=category)
        picks.append(held.pick_id)
    return picks


class Proposed(NamedTuple):
    """A contrast that waits for a person, opened."""

    id: int
    seed: str
    seed_category: Category
    text: str
    category: Category


async def proposed(store: Store) -> list[Proposed]:
    """Return the contrasts that wait, oldest first, without leasing any."""
    query = select(Contrast, Message).join(Message, Message.id == Contrast.message_id).order_by(Contrast.id)
    async with store.database.read() as session:
        rows = await session.execute(query.where(Contrast.state == ContrastState.PROPOSED))
        return [
            Proposed(c.id, open_text(store.keyring, m), c.seed_category, open_sealed(store.keyring, c), c.category)
            for c, m in rows
        ]


async def doubt(
    store: Store, *texts: str, label: Category = Category.LEGAL_ADVICE, opinion: Category = Category.MEDICAL_ADVICE
) -> Cycle:
    """Have a secret-reviewer label texts, and the learner doubt it, with 93.4 %; return the cycle, in `generating`.

    A batch that is open is closed before.
    """
    fence = await learner(store)
    if (before := await store.cycles.current()) is not None:
        await advance(store, before, fence, CycleState.HELD)
    await add(store, *(replace(arrival(text), category=Category.NOT_HARMFUL) for text in texts))
    cycle = await open_cycle(store, fence)
    picks = [Picked(message.id, {}, 0.5) for message in await pooled(store) if message.text in texts]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    await label_all(store, *[label] * len(texts), reviewer="secret-reviewer")
    suspicions = [Suspicion(pick.message_id, label, opinion, 0.934) for pick in picks]
    cycle = await advance(store, cycle, fence, CycleState.GENERATING)
    assert await store.doubts.suspect(cycle.id, suspicions, most=len(texts), fence=fence) == len(texts)
    return cycle
