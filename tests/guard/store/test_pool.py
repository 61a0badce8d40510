"""The pool: each text once, with its count, its probability and who sent it, and never more than there is room for."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from guard.errors import BadConfiguration
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.keyring import Keyring
from guard.store.pool import Added, PooledText
from guard.store.rows import Message, Sighting
from guard.store.states import MessageState
from guard.taxonomy import Category
from tests.conftest import START, Clock
from tests.guard.store.scenes import SCORES, add, arrival, label_all, open_batch, pooled


async def _messages(store: Store) -> list[Message]:
    async with store.database.read() as session:
        return list(await session.scalars(select(Message).order_by(Message.id)))


async def _sightings(store: Store) -> dict[tuple[int, str], int]:
    async with store.database.read() as session:
        return {(s.message_id, s.user_hash): s.seen_count for s in await session.scalars(select(Sighting))}


# adding


async def test_add(store: Store) -> None:
    """A verdict is kept with all that is known about it, and its text comes out as it went in."""
    assert await add(store, arrival("I cannot sleep", "ann", reason="audit", probability=0.01)) == Added(1, 0, 0)
    (message,) = await _messages(store)
    assert (message.reason, message.inclusion_probability, message.seen_count) == ("audit", 0.01, 1)
    assert (message.category, tuple(message.scores), message.uncertainty) == (Category.SELF_HARM, SCORES, 0.9)
    assert (message.model_version, message.source, message.state) == ("0001", "classify", MessageState.POOLED)
    assert message.first_seen_at == message.last_seen_at == START
    assert await pooled(store) == [
        PooledText(message.id, "I cannot sleep", (store.keyring.user_hash("ann"),), 0.01),
    ]


async def test_nothing(store: Store) -> None:
    """Adding nothing is no mistake."""
    assert await add(store) == Added(0, 0, 0)


async def test_repeated(store: Store) -> None:
    """A known text counts once more, in one call or in several, and is stored once."""
    later = timedelta(hours=1)
    assert await add(store, arrival("a"), arrival("b"), arrival("a")) == Added(2, 1, 0)
    assert await add(store, arrival("a", after=later)) == Added(0, 1, 0)
    a, b = await _messages(store)
    assert (a.seen_count, b.seen_count) == (3, 1)
    assert (a.first_seen_at, a.last_seen_at) == (START, START + later)


async def test_late_repetition(store: Store) -> None:
    """A verdict that arrives late does not make a message look older than it is."""
    await add(store, arrival("a", after=timedelta(hours=1)))
    await add(store, arrival("a"))
    assert (await _messages(store))[0].last_seen_at == START + timedelta(hours=1)


async def test_users(store: Store) -> None:
    """Who sent a text is kept as a hash each with its count; who sends it without a name leaves it nobody's."""
    await add(store, arrival("a", "ann"), arrival("a", "bob"), arrival("a", "ann"), arrival("b"))
    await add(store, arrival("a", "ann"), arrival("a"))
    a, b = await _messages(store)
    ann, bob = store.keyring.user_hash("ann"), store.keyring.user_hash("bob")
    assert await _sightings(store) == {(a.id, ann): 3, (a.id, bob): 1}
    assert (a.anonymous, b.anonymous) == (True, True)
    assert [p.user_hashes for p in await pooled(store)] == [tuple(sorted([ann, bob])), ()]


async def test_known_user(store: Store) -> None:
    """A text that only named users sent is not anonymous."""
    await add(store, arrival("a", "ann"), arrival("a", "bob"))
    assert not (await _messages(store))[0].anonymous


async def test_highest_probability(store: Store) -> None:
    """A message keeps the highest probability that it was let in with, and the reason for that."""
    await add(store, arrival("a", reason="audit", probability=0.01))
    await add(store, arrival("a", reason="uncertain", probability=1.0))
    await add(store, arrival("a", reason="audit", probability=0.01))
    (message,) = await _messages(store)
    assert (message.reason, message.inclusion_probability) == ("uncertain", 1.0)


@pytest.mark.parametrize("first", ["audit", "uncertain"])
async def test_disputed_too(store: Store, first: str) -> None:
    """A text that came by another way stays that way's when models dispute it, and is not counted twice for it."""
    await add(store, arrival("a", reason=first, probability=0.01))
    await add(store, arrival("a", "ann", reason="shadow", probability=0.5))
    (message,) = await _messages(store)
    assert (message.reason, message.inclusion_probability, message.seen_count) == (first, 0.01, 1)
    assert await store.pool.erase_user("ann") == 0


async def test_disputed_first(store: Store) -> None:
    """A disputed text that comes by another way becomes that way's, though its probability is lower: audits stay whole."""
    await add(store, arrival("a", reason="shadow", probability=0.5))
    await add(store, arrival("a", reason="shadow", probability=0.2))
    (message,) = await _messages(store)
    assert (message.reason, message.inclusion_probability, message.seen_count) == ("shadow", 0.5, 2)
    await add(store, arrival("a", reason="audit", probability=0.01))
    assert list((await store.pool.audits()).values()) == [0.01]


async def test_probability_of_the_picked(store: Store, fence: int) -> None:
    """Once a message is picked its probability stands: estimates rest on it."""
    await add(store, arrival("a", reason="audit", probability=0.01))
    await open_batch(store, fence)
    await add(store, arrival("a", reason="uncertain", probability=1.0))
    (message,) = await _messages(store)
    assert (message.reason, message.inclusion_probability, message.seen_count) == ("audit", 0.01, 2)


async def test_bound(store: Store) -> None:
    """New texts beyond the bound are dropped and counted; known ones still count."""
    assert await add(store, arrival("a"), arrival("b"), arrival("c"), arrival("a"), room=2) == Added(2, 1, 1)
    assert await add(store, arrival("d"), arrival("b"), room=2) == Added(0, 1, 1)
    assert await store.pool.size() == 2


async def test_bound_is_of_the_waiting(store: Store, fence: int) -> None:
    """What has been picked takes no room any more."""
    await open_batch(store, fence, "a", "b")
    assert await add(store, arrival("c"), arrival("d"), arrival("e"), room=2) == Added(2, 0, 1)


async def test_large_batch(store: Store) -> None:
    """A batch larger than a database takes parameters is added like any other, its repetitions across parts as well."""
    arrivals = [arrival(f"text {n % 2100}", f"user {n % 7}") for n in range(4200)]
    assert await add(store, *arrivals, room=2050) == Added(2050, 2050, 100)
    assert {m.seen_count for m in await _messages(store)} == {2}


async def test_queries_of_a_batch(store: Store) -> None:
    """Adding a hundred times as many texts takes no more queries: a flush must not hold up the reviewers."""
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(store.database.engine.sync_engine, "before_cursor_execute", note)
    await add(store, *(arrival(f"few {n}", f"user {n}") for n in range(4)))
    few = len(statements)
    await add(store, *(arrival(f"many {n}", f"user {n}") for n in range(400)))
    assert len(statements) - few == few


# reading


async def test_texts_in_order(store: Store) -> None:
    """The waiting messages come in the order of their arrival, each once, however they are parted."""
    texts = [f"text {n}" for n in range(25)]
    await add(store, *map(arrival, texts))
    for size in (1, 7, 25, 1000):
        batches = [[p.text for p in batch] async for batch in store.pool.texts(batch=size)]
        assert [text for batch in batches for text in batch] == texts
        assert all(len(b) == size for b in batches[:-1])


async def test_texts_while_others_write(store: Store) -> None:
    """What is erased while the pool is read does not come, what is added does, and nothing comes twice."""
    await add(store, *(arrival(f"text {n}", f"user {n}") for n in range(4)))
    seen = []
    async for batch in store.pool.texts(batch=1):
        seen += [p.text for p in batch]
        if len(seen) == 1:
            await store.pool.erase_user("user 2")
            await add(store, arrival("late"))
    assert seen == ["text 0", "text 1", "text 3", "late"]


async def test_only_the_waiting(store: Store, fence: int) -> None:
    """What has been picked or decided is not in the pool, but is counted by its state."""
    await open_batch(store, fence, "a", "b", "c")
    await label_all(store, Category.LEGAL_ADVICE, None)
    await add(store, arrival("d", after=timedelta(minutes=5)))
    assert [p.text for p in await pooled(store)] == ["d"]
    assert await store.pool.size() == 1
    assert await store.pool.counts() == {**dict.fromkeys(MessageState, 1), MessageState.CONTESTED: 0}
    assert await store.pool.oldest() == START + timedelta(minutes=5)


async def test_empty(store: Store) -> None:
    """An empty pool has no size, no oldest message and no texts."""
    assert (await store.pool.size(), await store.pool.oldest(), await pooled(store)) == (0, None, [])
    assert await store.pool.counts() == dict.fromkeys(MessageState, 0)


# the keyring


@pytest.mark.parametrize("other", [Keyring(b"i" * 32, {"k1": b"b" * 32}), Keyring(b"j" * 32, {"k1": b"a" * 32})])
async def test_another_keyring(store_settings: GuardSettings, store: Store, other: Keyring) -> None:
    """A database is not opened with a keyring that is not its own: what came in now would never fit what is there."""
    await add(store, arrival("canary"))
    other.save(store_settings.keyring_path, replace=True)
    with pytest.raises(BadConfiguration, match="keyring") as caught:
        async with open_store(store_settings):
            pass
    assert "canary" not in str(caught.value)


# retention


async def _age(store: Store, clock: Clock, **delta: float) -> int:
    clock.advance(**delta)
    return await store.pool.expire(retention=timedelta(days=30), labelled_retention=timedelta(days=730))


async def test_expire(store: Store, clock: Clock) -> None:
    """What waits longer than the retention is deleted, and what was seen again since is not."""
    await add(store, arrival("old"), arrival("seen again"))
    await add(store, arrival("seen again", after=timedelta(days=10)))
    assert await _age(store, clock, days=30) == 0
    assert await _age(store, clock, seconds=1) == 1
    assert [p.text for p in await pooled(store)] == ["seen again"]


async def test_expire_by_state(store: Store, fence: int, clock: Clock) -> None:
    """What people could not tell goes with the waiting, what they labelled later, what they have before them not."""
    await open_batch(store, fence, "labelled", "unclear", "picked")
    await label_all(store, Category.SELF_HARM, None)
    assert await _age(store, clock, days=31) == 1
    assert {s: n for s, n in (await store.pool.counts()).items() if n} == {
        MessageState.LABELLED: 1,
        MessageState.PICKED: 1,
    }
    assert await _age(store, clock, days=700) == 1
    assert (await store.pool.counts())[MessageState.PICKED] == 1
    assert await _age(store, clock, days=9999) == 0


async def test_audits(store: Store, fence: int) -> None:
    """The waiting messages of the audit stream are found with their probability, those that came otherwise too are not."""
    await add(store, arrival("a", reason="audit", probability=0.01), arrival("b"))
    await add(store, arrival("c", reason="audit", probability=0.02), arrival("c"))
    a, _, _ = await _messages(store)
    assert await store.pool.audits() == {a.id: 0.01}
    await open_batch(store, fence)
    assert await store.pool.audits() == {}


async def test_latest_verdicts(store: Store, fence: int) -> None:
    """Of the messages first seen till or after a moment the latest are given, newest first, picked ones among them."""
    await open_batch(store, fence, "a", "b")
    later = START + timedelta(minutes=2)
    for text, uncertainty in (("c", 0.1), ("d", 0.2)):
        await add(store, replace(arrival(text), uncertainty=uncertainty, seen_at=later))
    await add(store, arrival("a", after=timedelta(minutes=3)))
    old, new = [(Category.SELF_HARM, 0.9)] * 2, [(Category.SELF_HARM, 0.2), (Category.SELF_HARM, 0.1)]
    assert await store.pool.verdicts(limit=9) == new + old
    assert await store.pool.verdicts(limit=1) == new[:1]
    assert await store.pool.verdicts(until=START, limit=9) == old
    assert await store.pool.verdicts(until=later, limit=9) == new + old
    assert await store.pool.verdicts(after=START, limit=9) == new
    assert await store.pool.verdicts(after=later, limit=9) == []
