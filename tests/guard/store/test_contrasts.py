"""Contrast pairs: proposed by the learner, decided by a person, and trained on only when confirmed."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, select

from guard.errors import Conflict, NotFound
from guard.store import Store, database
from guard.store.contrasts import Proposal
from guard.store.keyring import Keyring
from guard.store.rows import Contrast, Cycle, SnapshotItem
from guard.store.states import ContrastState, CycleState, PairKind, PairVerdict
from guard.store.variations import Seed
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import TTL, add, advance, arrival, label_all, learner, open_batch, proposed

LEGAL, MONEY = Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE


async def _scene(store: Store, fence: int, user: str | None = None) -> tuple[Cycle, list[Seed]]:
    """Return a cycle in `generating` with two legal messages and one about money, and the legal seeds."""
    cycle = await open_batch(store, fence, "text 0", "text 1", "text 2", user=user)
    await label_all(store, LEGAL, LEGAL, MONEY)
    await advance(store, cycle, fence, CycleState.GENERATING)
    return cycle, await store.contrasts.pending({LEGAL})


def _proposal(text: str = "edited 0") -> Proposal:
    return Proposal(text, MONEY, LEGAL, llm="model", template="contrast-1")


async def _propose(
    store: Store, cycle: Cycle, seed: Seed, fence: int, proposal: Proposal | None = None, **counts: int
) -> int | None:
    counts = counts or {"seeds": 1}
    return await store.contrasts.propose(
        cycle.id, seed, proposal, fence=fence, counts=counts, tally={"calls": 2, "tokens": 10}
    )


async def _decided(store: Store, cycle: Cycle, seed: Seed, fence: int, verdict: PairVerdict) -> int:
    contrast_id = await _propose(store, cycle, seed, fence, _proposal())
    assert contrast_id is not None
    await store.pairs.decide(PairKind.CONTRAST, contrast_id, verdict=verdict, reviewer="ann")
    return contrast_id


async def test_pending(store: Store, fence: int) -> None:
    """What may be asked about are the labelled messages of some categories, of any cycle, in order."""
    cycle, seeds = await _scene(store, fence)
    assert [(seed.text, seed.category) for seed in seeds] == [("text 0", LEGAL), ("text 1", LEGAL)]
    await advance(store, cycle, fence, CycleState.HELD)
    await open_batch(store, fence, "later")
    await label_all(store, LEGAL)
    assert [seed.text for seed in await store.contrasts.pending({LEGAL})] == ["text 0", "text 1", "later"]
    assert await store.contrasts.pending(set()) == []


async def test_propose(store: Store, fence: int) -> None:
    """A proposal is stored opened only for people, the figures count it, and its seed is not asked about again."""
    cycle, (first, second) = await _scene(store, fence)
    contrast_id = await _propose(store, cycle, first, fence, _proposal(), seeds=1, proposed=1)
    assert await _propose(store, cycle, second, fence, None, seeds=1, refused=1) is None
    assert await proposed(store) == [(contrast_id, "text 0", LEGAL, "edited 0", MONEY)]
    assert await store.contrasts.pending({LEGAL}) == []
    assert not await store.contrasts.pends(first)
    after = await store.cycles.get(cycle.id)
    assert after is not None
    assert after.figures["contrasts"] == {"seeds": 2, "proposed": 1, "refused": 1}
    assert after.figures["llm"] == {"calls": 4, "tokens": 20}
    assert await store.variations.known(["edited 0", "edited 1"]) == {"edited 0"}
    with pytest.raises(Conflict, match="contrasted or erased already"):
        await _propose(store, cycle, first, fence, _proposal("another"))


async def test_proposed_twice(store: Store, fence: int) -> None:
    """One text is proposed once, for the seed that was first."""
    cycle, (first, second) = await _scene(store, fence)
    await _propose(store, cycle, first, fence, _proposal())
    assert await _propose(store, cycle, second, fence, _proposal()) is None
    assert len(await proposed(store)) == 1


async def test_lost_lease(store: Store, fence: int, clock: Clock) -> None:
    """A learner that lost its lease proposes nothing."""
    cycle, (seed, _) = await _scene(store, fence)
    clock.advance(seconds=TTL.total_seconds() + 1)
    await learner(store, "learner-2")
    with pytest.raises(Conflict, match="taken over"):
        await _propose(store, cycle, seed, fence, _proposal())
    assert await store.contrasts.pends(seed)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (PairVerdict.FLIPS, ContrastState.CONFIRMED),
        (PairVerdict.HOLDS, ContrastState.REJECTED),
        (PairVerdict.UNCLEAR, ContrastState.UNCLEAR),
    ],
)
async def test_only_confirmed_is_trained_on(
    store: Store, fence: int, verdict: PairVerdict, state: ContrastState
) -> None:
    """A verdict is kept with its reviewer and time; only an edit that flips enters the data set, in its seed's group."""
    cycle, (seed, other) = await _scene(store, fence)
    contrast_id = await _decided(store, cycle, seed, fence, verdict)
    await _propose(store, cycle, other, fence, _proposal("never decided"))
    async with store.database.read() as session:
        row = await session.get_one(Contrast, contrast_id)
    assert (row.state, row.reviewer, row.decided_at, row.opinion) == (state, "ann", START, LEGAL)
    assert [pair.text for pair in await proposed(store)] == ["never decided"]
    size = await store.variations.freeze(cycle.id, fence=fence)
    rows = [(r.message_id, r.text, r.category, r.variation) for r in await store.variations.snapshot(cycle.id)]
    added = [(seed.message_id, "edited 0", MONEY, False)] if state is ContrastState.CONFIRMED else []
    assert rows[3:] == added
    assert size == len(rows) == 3 + len(added)


async def test_confirmed_later(store: Store, fence: int) -> None:
    """What is confirmed after a data set was frozen is in the next one, not in that."""
    cycle, (seed, _) = await _scene(store, fence)
    contrast_id = await _propose(store, cycle, seed, fence, _proposal())
    assert await store.variations.freeze(cycle.id, fence=fence) == 3
    await store.pairs.decide(PairKind.CONTRAST, contrast_id or 0, verdict=PairVerdict.FLIPS, reviewer="ann")
    assert await store.variations.freeze(cycle.id, fence=fence) == 3
    await advance(store, cycle, fence, CycleState.HELD)
    later = await open_batch(store, fence, "later")
    await label_all(store, LEGAL)
    assert await store.variations.freeze(later.id, fence=fence) == 5


@pytest.mark.parametrize("verdict", [None, PairVerdict.FLIPS])
async def test_erasure(store: Store, fence: int, verdict: PairVerdict | None) -> None:
    """A pair goes with its message, decided or not, and leaves every frozen data set."""
    cycle, (seed, other) = await _scene(store, fence, user="eve")
    contrast_id = await _propose(store, cycle, seed, fence, _proposal())
    if verdict is not None:
        await store.pairs.decide(PairKind.CONTRAST, contrast_id or 0, verdict=verdict, reviewer="ann")
    await store.variations.freeze(cycle.id, fence=fence)
    assert await store.pool.erase_user("eve") == 3
    async with store.database.read() as session:
        assert (await session.scalars(select(Contrast))).all() == []
        assert (await session.scalars(select(SnapshotItem))).all() == []
    assert not await store.contrasts.pends(other)
    with pytest.raises(Conflict, match="contrasted or erased already"):
        await _propose(store, cycle, other, fence, _proposal("too late"))
    with pytest.raises(NotFound, match="may have been erased"):
        await store.pairs.decide(PairKind.CONTRAST, contrast_id or 0, verdict=PairVerdict.FLIPS, reviewer="ann")


async def test_sealed_and_rotated(store: Store, fence: int, keyring: Keyring) -> None:
    """An edit is ciphertext in its row, and a rotation seals it anew."""
    cycle, (seed, _) = await _scene(store, fence)
    await _propose(store, cycle, seed, fence, _proposal())
    await add(store, arrival("waiting"))
    rotated = keyring.rotated()
    async with store.database.read() as session:
        before = (await session.scalars(select(Contrast))).one()
    assert b"edited" not in before.ciphertext
    assert await store.rotate(rotated, batch=2) == 5
    async with store.database.read() as session:
        after = (await session.scalars(select(Contrast))).one()
    text = rotated.retired().open(after.ciphertext, key_id=after.key_id, owner=after.fingerprint)
    assert (text, after.key_id) == ("edited 0", "k2")


async def test_older_database_keeps_its_rows(store: Store, fence: int) -> None:
    """A database from before contrast pairs is brought up with its picks, labels and frozen data sets as they were."""
    cycle, (seed, _) = await _scene(store, fence)
    for waiting in await store.variations.pending(cycle.id):
        await store.variations.record(
            cycle.id, waiting, [f"variation of {waiting.text}"], fence=fence, llm="m", template="t", fates={}
        )
    await store.variations.freeze(cycle.id, fence=fence)
    before = await store.variations.snapshot(cycle.id)
    assert len(before) == 6

    def downgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")

    async with store.database.engine.execution_options(writes=True).begin() as connection:
        await connection.run_sync(downgrade)
    await store.database.migrate()
    assert await store.variations.snapshot(cycle.id) == before
    assert await store.contrasts.pends(seed)
    await _decided(store, cycle, seed, fence, PairVerdict.FLIPS)
    assert await store.pool.erase_user("nobody") == 0
    assert len(await store.variations.snapshot(cycle.id)) == 6
