"""Many at once, in one process and in several, and killed at any moment: nothing twice, nothing lost."""

import asyncio
import random
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack, closing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from sqlalchemy import func, select

from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.lease import LEARNER
from guard.store.rows import Label, Message, Pick, Sighting
from guard.store.states import CycleState, MessageState, PickState, Role
from guard.taxonomy import Category
from tests.conftest import Clock, Postgres
from tests.guard import processes
from tests.guard.store.crashes import Ledger, kill_while_labelling, label_through_outages, review
from tests.guard.store.scenes import TTL, add, advance, arrival, label_all, learner, open_batch, open_cycle, pooled

SEED = 20261120


async def _several(settings: GuardSettings, clock: Clock, stack: AsyncExitStack, number: int) -> list[Store]:
    """Open the same store several times, as several processes do."""
    return [await stack.enter_async_context(open_store(settings, clock=clock)) for _ in range(number)]


async def _label_everything(store: Store, reviewer: str) -> list[int]:
    picks = []
    while (held := await store.review.next(reviewer)) is not None:
        await store.review.label(held.pick_id, reviewer=reviewer, category=Category.SELF_HARM)
        picks.append(held.pick_id)
    return picks


# reviewers


async def test_ten_reviewers(store: Store, fence: int) -> None:
    """Ten people who label at once never get the same message, and together get all of them."""
    await open_batch(store, fence, *(f"text {n}" for n in range(50)))
    picks = await asyncio.gather(*(_label_everything(store, f"reviewer {n}") for n in range(10)))
    assert sorted(pick for mine in picks for pick in mine) == list(range(1, 51))
    assert await store.cycles.labels_spent() == 50


async def test_ten_with_overlap(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """Ten people who label at once settle every message by two of them or by a third; nobody has two opinions on one."""
    for n in range(10):
        await store.reviewers.add(f"reviewer {n}", Role.REVIEWER, "hash")
    await open_batch(store, fence, *(f"text {n}" for n in range(20)))
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 3)]

        async def work(n: int) -> None:
            while (held := await stores[n % 4].review.next(f"reviewer {n}")) is not None:
                # every third reviewer differs about every second message
                differs = n % 3 == 0 and held.pick_id % 2 == 0
                category = Category.LEGAL_ADVICE if differs else Category.SELF_HARM
                await stores[n % 4].review.label(held.pick_id, reviewer=f"reviewer {n}", category=category)

        for _ in range(5):  # who found nothing free looks again
            await asyncio.gather(*(work(n) for n in range(10)))
    async with store.database.read() as session:
        labels = (await session.scalars(select(Label))).all()
        picks = {pick.id: pick for pick in await session.scalars(select(Pick))}
    opinions: dict[int, list[Category | None]] = {}
    for label in labels:
        opinions.setdefault(label.pick_id, []).append(label.category)
    assert len({(label.pick_id, label.reviewer) for label in labels}) == len(labels)
    assert opinions.keys() == picks.keys()
    for pick_id, said in opinions.items():
        assert len(said) == picks[pick_id].wanted == (2 if said[0] is said[1] else 3)
        assert picks[pick_id].state is PickState.LABELLED
        assert 2 * said.count(picks[pick_id].category) > len(said)
    assert await store.cycles.labels_spent() == len(labels)


async def test_second_opinions_at_once(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """Of several who give the second opinion at the same moment one is heard; two answers of one person are one."""
    for name in ("ann", "bob", "cyd", "dan"):
        await store.reviewers.add(name, Role.REVIEWER, "hash")
    await open_batch(store, fence, "a")
    await store.review.label(1, reviewer="ann", category=Category.SELF_HARM)
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 3)]
        answers = await asyncio.gather(
            *(
                s.review.label(1, reviewer=name, category=Category.SELF_HARM)
                for s, name in zip(stores, ("bob", "bob", "cyd", "dan"), strict=True)
            ),
            return_exceptions=True,
        )
    assert sorted(type(a).__name__ for a in answers) == ["Conflict"] * 3 + ["int"]
    assert await store.cycles.labels_spent() == 2


async def test_adjudicated_at_once(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """Of an admin's decision and a third opinion at the same moment one is heard, and the pick is settled either way."""
    for name in ("ann", "bob", "cyd"):
        await store.reviewers.add(name, Role.REVIEWER, "hash")
    await open_batch(store, fence, "a")
    await store.review.label(1, reviewer="ann", category=Category.SELF_HARM)
    await store.review.label(1, reviewer="bob", category=Category.LEGAL_ADVICE)
    async with AsyncExitStack() as stack:
        (other,) = await _several(store_settings, clock, stack, 1)
        answers = await asyncio.gather(
            store.review.label(1, reviewer="cyd", category=Category.LEGAL_ADVICE),
            other.conflicts.adjudicate(1, adjudicator="ada", category=Category.SELF_HARM, idempotency_key="k"),
            return_exceptions=True,
        )
    assert sorted(type(a).__name__ for a in answers) == ["Conflict", "int"]
    assert (await store.conflicts.count(), await store.cycles.labels_spent()) == (0, 3)


async def test_ten_who_hold(store: Store, fence: int) -> None:
    """Ten people who only look each hold another message, and the eleventh to ask holds none."""
    await open_batch(store, fence, *(f"text {n}" for n in range(10)))
    held = await asyncio.gather(*(store.review.next(f"reviewer {n}") for n in range(11)))
    assert Counter(h.pick_id if h else None for h in held) == Counter([None, *range(1, 11)])


async def test_same_pick_at_once(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """Of several who decide about one message at the same moment one is heard, the others are told."""
    await open_batch(store, fence, "a")
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 3)]
        answers = await asyncio.gather(
            *(s.review.label(1, reviewer=f"r{n}", category=None) for n, s in enumerate(stores)), return_exceptions=True
        )
    assert sorted(type(a).__name__ for a in answers) == ["Conflict"] * 3 + ["int"]
    assert await store.cycles.labels_spent() == 1


async def test_same_key_at_once(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """A label that is sent several times at the same moment, by an impatient client, is one label."""
    await open_batch(store, fence, "a")
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 3)]
        answers = await asyncio.gather(
            *(s.review.label(1, reviewer="ann", category=None, idempotency_key="k") for s in stores)
        )
    assert len(set(answers)) == 1
    assert await store.cycles.labels_spent() == 1


async def test_undo_and_label_at_once(store: Store, fence: int) -> None:
    """Whatever order labels and undos come in, what is spent is what stands."""
    await open_batch(store, fence, *(f"text {n}" for n in range(6)))
    rng = random.Random(SEED)

    async def fidget(reviewer: str) -> None:
        for _ in range(12):
            if rng.random() < 0.4:
                await asyncio.gather(store.review.undo(reviewer), return_exceptions=True)
            elif (held := await store.review.next(reviewer)) is not None:
                await store.review.label(held.pick_id, reviewer=reviewer, category=rng.choice([*Category, None]))

    await asyncio.gather(*(fidget(f"reviewer {n}") for n in range(4)))
    async with store.database.read() as session:
        standing = await session.scalar(select(func.count()).where(Label.undone_at.is_(None)))
        decided = await session.scalar(select(func.count()).where(Pick.state != PickState.WAITING))
        moved = await session.scalar(select(func.count()).where(Message.state != MessageState.PICKED))
    assert await store.cycles.labels_spent() == standing == decided == moved


@pytest.mark.slow
async def test_four_processes(store_settings: GuardSettings, store: Store, fence: int, tmp_path: Path) -> None:
    """Reviewers in four processes label every message once, each another's none."""
    await open_batch(store, fence, *(f"text {n}" for n in range(60)))
    ledgers = [tmp_path / f"ledger {n}" for n in range(4)]
    reviewers = [processes.start(review, store_settings, f"reviewer {n}", file) for n, file in enumerate(ledgers)]
    assert [processes.finish(reviewer) for reviewer in reviewers] == [0, 0, 0, 0]
    mine = [{entry.pick_id for entry in Ledger(file).acknowledged()} for file in ledgers]
    assert sorted(pick for picks in mine for pick in picks) == list(range(1, 61))
    assert await store.cycles.labels_spent() == 60


# learners


async def test_one_lease(store_settings: GuardSettings, store: Store, clock: Clock) -> None:
    """Of several learners that ask for the lease at the same moment one gets it, again and again."""
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 3)]
        for turn in range(1, 6):
            fences = await asyncio.gather(
                *(s.leases.acquire(LEARNER, f"learner {n}", ttl=TTL) for n, s in enumerate(stores))
            )
            assert sorted(fences, key=str) == [turn, None, None, None]
            clock.advance(seconds=TTL.total_seconds())


async def test_one_cycle(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """When a cycle is opened several times at the same moment, one is open."""
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 3)]
        answers = await asyncio.gather(*(open_cycle(s, fence) for s in stores), return_exceptions=True)
    assert sorted(type(a).__name__ for a in answers) == ["Conflict"] * 3 + ["Cycle"]
    assert len(await store.cycles.recent()) == 1


def _run_slots(settings: GuardSettings, name: str, ledger: Path, start: Event) -> None:
    """Open and close twenty cycles as a scheduler that knows of no other; write down which."""

    async def run() -> None:
        async with open_store(settings) as store:
            start.wait()
            done = 0
            while done < 20:
                fence = await store.leases.acquire(LEARNER, name, ttl=TTL)
                if fence is None:
                    continue
                cycle = await open_cycle(store, fence)
                with ledger.open("a") as file:
                    file.write(f"{cycle.id}\n")
                await advance(store, cycle, fence, CycleState.HELD)
                await store.leases.release(LEARNER, fence=fence)
                done += 1

    asyncio.run(run())


@pytest.mark.slow
async def test_two_schedulers(store_settings: GuardSettings, store: Store, tmp_path: Path) -> None:
    """Of schedulers in several processes exactly one runs each cycle, and every cycle that was opened was run."""
    start = processes.CONTEXT.Event()
    ledger = tmp_path / "ledger"
    schedulers = [processes.start(_run_slots, store_settings, f"learner {n}", ledger, start) for n in range(3)]
    start.set()
    assert [processes.finish(scheduler) for scheduler in schedulers] == [0, 0, 0]
    run = [int(line) for line in ledger.read_text().split()]
    assert len(run) == 60
    assert sorted(run) == sorted(c.id for c in await store.cycles.recent(1000))
    assert await store.cycles.current() is None


# the pool


async def test_two_guards(store_settings: GuardSettings, store: Store, clock: Clock) -> None:
    """Guards that add the same texts at the same moment store each once, and count every sighting."""
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 2)]
        added = await asyncio.gather(
            *(
                add(s, *(arrival(f"text {(n * k) % 40}", f"user {n % 5}") for n in range(40)))
                for k, s in enumerate(stores, 1)
            )
        )
    async with store.database.read() as session:
        seen = list(await session.scalars(select(Message.seen_count)))
        sightings = await session.scalar(select(func.sum(Sighting.seen_count)))
    assert sum(a.new for a in added) == len(seen) == 40
    assert sum(seen) == sightings == 120


async def test_bound_at_once(store_settings: GuardSettings, store: Store, clock: Clock) -> None:
    """The pool's bound holds for all guards together."""
    async with AsyncExitStack() as stack:
        stores = [store, *await _several(store_settings, clock, stack, 2)]
        added = await asyncio.gather(
            *(add(s, *(arrival(f"text {k} {n}") for n in range(20)), room=25) for k, s in enumerate(stores))
        )
    assert (sum(a.new for a in added), sum(a.dropped for a in added)) == (25, 35)
    assert await store.pool.size() == 25


async def test_erasing_while_adding(store_settings: GuardSettings, store: Store, clock: Clock) -> None:
    """Whether an arrival comes before an erasure or after it, nothing that was sent before remains."""
    async with AsyncExitStack() as stack:
        (other,) = await _several(store_settings, clock, stack, 1)
        for turn in range(5):
            clock.advance(seconds=1)
            arrivals = [arrival(f"text {turn} {n}", "ann") for n in range(10)]
            await asyncio.gather(
                add(store, *arrivals[:5]),
                other.pool.erase_user("ann"),
                add(store, *arrivals[5:]),
                other.pool.erase_user("ann"),
            )
            assert await pooled(store) == []


async def test_everything_at_once(store_settings: GuardSettings, store: Store, fence: int, clock: Clock) -> None:
    """Labelling, erasing, adding and expiring on several connections end without an error but those that are meant."""
    await add(store, *(arrival(f"text {n}", f"user {n}") for n in range(30)))
    await open_batch(store, fence)
    async with AsyncExitStack() as stack:
        guards = [store, *await _several(store_settings, clock, stack, 2)]

        async def labels(guard: Store, reviewer: str) -> None:
            for _ in range(12):
                await asyncio.gather(label_all(guard, Category.SELF_HARM, reviewer=reviewer), return_exceptions=False)

        async def erases(guard: Store) -> None:
            for n in range(24, 30):
                await guard.pool.erase_user(f"user {n}")
                await add(guard, arrival(f"new {n}", f"user {n}"))
                await guard.pool.expire(retention=TTL, labelled_retention=TTL)

        await asyncio.gather(labels(guards[0], "ann"), labels(guards[1], "bob"), erases(guards[2]))
    assert await store.cycles.labels_spent() == 24


# crashes


async def _check(store: Store, ledger: Ledger) -> int:
    """Make sure that every acknowledged label is there exactly once; return how many there are."""
    acknowledged = ledger.acknowledged()
    async with store.database.read() as session:
        standing = {
            label.pick_id: (label.id, label.idempotency_key)
            for label in await session.scalars(select(Label).where(Label.undone_at.is_(None)))
        }
        assert await session.scalar(select(func.count()).where(Label.undone_at.is_(None))) == len(standing)
    assert {(e.pick_id, (e.label_id, e.key)) for e in acknowledged} <= set(standing.items())
    assert len({e.pick_id for e in acknowledged}) == len(acknowledged)
    assert len(standing) <= len(acknowledged) + 1  # the last one may be on disk while its answer was lost
    assert await store.cycles.labels_spent() == len(standing)
    return len(acknowledged)


@pytest.mark.slow
async def test_killed_on_sqlite(sqlite_store: Store, guard_settings: GuardSettings, tmp_path: Path) -> None:
    """However often a process is killed while it labels, every acknowledged label is there once and the file is sound."""
    await open_batch(sqlite_store, await learner(sqlite_store), *(f"text {n}" for n in range(2000)))
    assert kill_while_labelling(guard_settings, tmp_path / "ledger", rounds=20, seed=SEED) == 20
    assert await _check(sqlite_store, Ledger(tmp_path / "ledger")) > 20
    with closing(sqlite3.connect(guard_settings.data_dir / "guard.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.slow
async def test_killed_on_postgresql(
    postgresql_store: Store, postgresql_settings: GuardSettings, tmp_path: Path
) -> None:
    """The same holds on PostgreSQL, and the next process is not kept waiting by the locks of a dead one."""
    await open_batch(postgresql_store, await learner(postgresql_store), *(f"text {n}" for n in range(1500)))
    assert kill_while_labelling(postgresql_settings, tmp_path / "ledger", rounds=5, seed=SEED) == 5
    assert await _check(postgresql_store, Ledger(tmp_path / "ledger")) > 5


@pytest.mark.slow
async def test_server_killed(
    postgresql_store: Store, postgresql_settings: GuardSettings, postgres: Postgres, tmp_path: Path
) -> None:
    """When PostgreSQL is killed under a reviewer, whoever tries again with the same key loses no label and doubles none."""
    await open_batch(postgresql_store, await learner(postgresql_store), *(f"text {n}" for n in range(120)))
    ledger, labelled, outage = Ledger(tmp_path / "ledger"), asyncio.Semaphore(0), asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(label_through_outages(postgresql_settings, "ann", ledger, labelled=labelled, outage=outage))
        for _ in range(2):
            for _ in range(20):
                await labelled.acquire()
            await asyncio.to_thread(postgres.crash)
            try:
                await outage.wait()
            finally:
                await asyncio.to_thread(postgres.restart)
            outage.clear()
    assert await _check(postgresql_store, ledger) == 120
