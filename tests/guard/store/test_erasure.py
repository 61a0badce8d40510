"""What must not be found: texts in clear, ever; anything of a user who was erased; anything past its time."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from guard.errors import Conflict, NotFound
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.pool import Added
from guard.store.rows import Row
from guard.store.states import CycleState
from guard.taxonomy import Category
from tests.conftest import START, Clock, Postgres
from tests.guard.store.scenes import add, advance, arrival, label_all, open_batch, pooled

CANARY = "canary zq7f3k9w: I took the whole packet"
VARIATION = "canary zq7f3k9w: I swallowed every pill"
USER = "canary-user-zq7f3k9w"


async def _everything(store: Store, fence: int) -> None:
    """Put the canary through every table: pool, batch, labels, variations, snapshot."""
    await add(store, arrival(CANARY, USER))
    cycle = await open_batch(store, fence)
    await label_all(store, Category.SELF_HARM)
    await store.review.undo("ann")
    await label_all(store, Category.SELF_HARM)
    await advance(store, cycle, fence, CycleState.GENERATING)
    for seed in await store.variations.pending(cycle.id):
        await store.variations.record(
            cycle.id, seed, [VARIATION], fence=fence, llm="model", template="v1", fates={"accepted": 1}
        )
    await store.variations.freeze(cycle.id, fence=fence)
    assert [row.text for row in await store.variations.snapshot(cycle.id)] == [CANARY, VARIATION]
    await advance(store, cycle, fence, CycleState.HELD)


async def _rows(store: Store) -> dict[str, list[str]]:
    """Return every row of every table, as text."""
    async with store.database.read() as session:
        return {
            name: [str(tuple(row)) for row in await session.execute(select(table))]
            for name, table in Row.metadata.tables.items()
        }


def _found(folder: Path, *needles: bytes) -> list[str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [p.name for p in files if any(needle in p.read_bytes() for needle in needles)]


# texts


async def test_no_text_on_disk(sqlite_store: Store, guard_settings: GuardSettings) -> None:
    """No file of SQLite, the journal of a transaction under way included, ever holds a text or a user in clear."""
    store = sqlite_store
    fence = await store.leases.acquire("learner", "a", ttl=timedelta(minutes=1))
    assert fence is not None
    await _everything(store, fence)
    async with store.database.write() as session:
        await session.execute(Row.metadata.tables["message"].update().values(seen_count=2))
        assert len(list(guard_settings.data_dir.iterdir())) == 3  # the keyring, the file and its journal
        assert _found(guard_settings.data_dir, b"canary", b"zq7f3k9w", CANARY.encode("utf-16-le")) == []
    await store.pool.erase_user(USER)
    assert _found(guard_settings.data_dir, b"canary", b"zq7f3k9w") == []


@pytest.mark.slow
async def test_no_text_in_the_server(postgresql_store: Store, postgres: Postgres) -> None:
    """Neither PostgreSQL's files nor its log ever hold a text or a user in clear."""
    store = postgresql_store
    fence = await store.leases.acquire("learner", "a", ttl=timedelta(minutes=1))
    assert fence is not None
    await _everything(store, fence)
    await store.pool.erase_user(USER)
    assert _found(postgres.folder, b"canary", b"zq7f3k9w") == []


async def test_erased_bytes(sqlite_store: Store, guard_settings: GuardSettings) -> None:
    """Erasing overwrites: not even the sealed text remains in the file."""
    store = sqlite_store
    await add(store, arrival(CANARY, USER))
    async with store.database.read() as session:
        sealed = bytes((await session.scalars(select(Row.metadata.tables["message"].c.ciphertext))).one())
    assert _found(guard_settings.data_dir, sealed) == ["guard.sqlite"]
    await store.pool.erase_user(USER)
    assert _found(guard_settings.data_dir, sealed) == []


# users


async def test_erase(store: Store, fence: int) -> None:
    """After an erasure no row anywhere is left of what the user sent, and only the mark of the erasure names the hash."""
    await _everything(store, fence)
    assert await store.pool.erase_user(USER) == 1
    rows = await _rows(store)
    for name in ("message", "sighting", "pick", "label", "variation", "snapshot_item"):
        assert rows[name] == []
    user_hash = store.keyring.user_hash(USER)
    assert [name for name, found in rows.items() if any(user_hash in row for row in found)] == ["erasure"]


async def test_erase_keeps_the_budget(store: Store, fence: int) -> None:
    """Labels that were erased with their message stay spent: people did the work."""
    await _everything(store, fence)
    await store.pool.erase_user(USER)
    assert await store.cycles.labels_spent() == 1
    assert await store.review.label_counts() == {}


async def test_erase_leaves_others(store: Store, fence: int) -> None:
    """What somebody else sent too, named or not, stays as theirs; other people's messages are not touched."""
    await add(store, arrival("both", USER), arrival("both", "bob"), arrival("anyone", USER), arrival("anyone"))
    await add(store, arrival("mine", USER), arrival("bob's", "bob"))
    assert await store.pool.erase_user(USER) == 1
    bob = store.keyring.user_hash("bob")
    assert [(p.text, p.user_hashes) for p in await pooled(store)] == [
        ("both", (bob,)),
        ("anyone", ()),
        ("bob's", (bob,)),
    ]
    assert await store.pool.erase_user("bob") == 2
    assert [p.text for p in await pooled(store)] == ["anyone"]


async def test_erase_unknown(store: Store) -> None:
    """Erasing a user of whom nothing is stored is no mistake, and can be done again."""
    assert await store.pool.erase_user(USER) == 0
    assert await store.pool.erase_user(USER) == 0


async def test_late_arrivals(store: Store, clock: Clock) -> None:
    """What the user sent before the erasure and arrives after it is dropped; what they send afterwards is theirs again."""
    clock.advance(minutes=1)
    await store.pool.erase_user(USER)
    late = [
        arrival("before", USER),
        arrival("at the moment", USER, after=timedelta(minutes=1)),
        arrival("other", "bob"),
    ]
    assert await add(store, *late) == Added(1, 0, 2)
    assert await add(store, arrival("after", USER, after=timedelta(minutes=1, seconds=1))) == Added(1, 0, 0)
    assert [p.text for p in await pooled(store)] == ["other", "after"]


async def test_second_erasure(store: Store, clock: Clock) -> None:
    """A second erasure counts from its own time on."""
    await store.pool.erase_user(USER)
    clock.advance(hours=1)
    await add(store, arrival("between", USER, after=timedelta(minutes=30)))
    assert await store.pool.erase_user(USER) == 1
    assert await add(store, arrival("late", USER, after=timedelta(minutes=45))) == Added(0, 0, 1)


async def test_erase_from_the_batch(store: Store, fence: int) -> None:
    """When a message is erased while a reviewer holds it, it is gone from the batch and the reviewer is told."""
    await add(store, arrival(CANARY, USER), arrival("bob's", "bob"))
    cycle = await open_batch(store, fence)
    held = await store.review.next("ann")
    assert held is not None
    assert held.text == CANARY
    await store.pool.erase_user(USER)
    with pytest.raises(NotFound, match="may have been erased"):
        await store.review.label(held.pick_id, reviewer="ann", category=Category.SELF_HARM)
    after = await store.review.next("ann")
    assert after is not None
    assert after.text == "bob's"
    batch = await store.review.batch()
    assert batch is not None
    assert (batch.size, await store.cycles.undecided(cycle.id), await store.cycles.labels_spent()) == (1, 1, 0)


async def test_erase_after_the_label(store: Store, fence: int) -> None:
    """A label whose message was erased can be neither undone nor sent again."""
    await add(store, arrival(CANARY, USER))
    await open_batch(store, fence)
    held = await store.review.next("ann")
    assert held is not None
    await store.review.label(held.pick_id, reviewer="ann", category=None, idempotency_key="k")
    await store.pool.erase_user(USER)
    with pytest.raises(NotFound):
        await store.review.undo("ann")
    with pytest.raises((NotFound, Conflict)):
        await store.review.label(held.pick_id, reviewer="ann", category=None, idempotency_key="k")


@pytest.mark.parametrize("user", ["", "a'; DROP TABLE message", "\ud800", "x" * 100_000, "nul \x00"])
async def test_any_user(store: Store, user: str) -> None:
    """A user's name is opaque: whatever it is, their messages are found and erased."""
    await add(store, arrival("a", user))
    assert await store.pool.erase_user(user) == 1


# time


async def test_retention(store: Store, fence: int, clock: Clock) -> None:
    """Past their retention messages go with their labels, variations and snapshots, and so do marks of erased users."""
    await _everything(store, fence)
    await store.pool.erase_user("somebody else")
    clock.advance(days=731)
    assert await store.pool.expire(retention=timedelta(days=30), labelled_retention=timedelta(days=730)) == 1
    rows = await _rows(store)
    for name in ("message", "sighting", "pick", "label", "variation", "snapshot_item", "erasure"):
        assert rows[name] == []


async def test_marks_outlive_what_they_guard(store: Store, clock: Clock) -> None:
    """The mark of an erasure stays as long as any message of before may still come back."""
    await store.pool.erase_user(USER)
    clock.advance(days=730)
    await store.pool.expire(retention=timedelta(days=30), labelled_retention=timedelta(days=730))
    assert await add(store, arrival("restored", USER)) == Added(0, 0, 1)


async def test_reopened(store_settings: GuardSettings, store: Store) -> None:
    """An erasure is on disk when it is acknowledged: another process sees nothing of the user and drops what is late."""
    await add(store, arrival(CANARY, USER))
    await store.pool.erase_user(USER)
    async with open_store(store_settings, clock=lambda: START) as other:
        assert await pooled(other) == []
        assert await add(other, arrival("late", USER)) == Added(0, 0, 1)
