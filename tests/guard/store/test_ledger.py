"""The ledger: every decision of the batch is in it, without a text, and no line of it can be changed."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from guard.errors import LifeguardError
from guard.store import Store
from guard.store.states import Deed, PairKind, PairVerdict
from guard.taxonomy import Category
from tests.guard.store.scenes import add, arrival, label_all, open_batch

CHANGES = [
    "UPDATE ledger SET actor = 'eve'",
    "UPDATE ledger SET detail = '{}' WHERE id = 1",
    "DELETE FROM ledger",
    "DELETE FROM ledger WHERE id = 1",
]


async def _written(store: Store) -> list[tuple[str, Deed, str | None, dict[str, object]]]:
    return [(e.actor, e.deed, e.subject, e.detail) for e in reversed(await store.ledger.recent())]


async def test_decisions_are_entered(store: Store, fence: int) -> None:
    """Labels, undoing, flags and handing on are entered with who, which pick and what; never with the text."""
    await open_batch(store, fence, "canary one", "canary two")
    (pick,) = await label_all(store, Category.LEGAL_ADVICE)
    assert await store.review.undo("ann") == pick
    assert await store.marks.flag(pick, "ann")
    assert not await store.marks.flag(pick, "ann")
    await store.marks.hand_on(pick, "ann")
    held = await store.review.next("ben")
    assert held is not None
    await store.review.label(held.pick_id, reviewer="ben", category=None)
    subject = f"pick {pick}"
    assert await _written(store) == [
        ("ann", Deed.LABELLED, subject, {"label": 1, "category": "legal-advice", "scores_shown": True}),
        ("ann", Deed.UNDONE, subject, {"label": 1}),
        ("ann", Deed.FLAGGED, subject, {}),
        ("ann", Deed.UNFLAGGED, subject, {}),
        ("ann", Deed.HANDED_ON, subject, {}),
        ("ben", Deed.LABELLED, subject, {"label": 2, "category": None, "scores_shown": True}),
    ]


async def test_erasure_leaves_nothing_of_the_user(store: Store, fence: int) -> None:
    """That somebody was erased is entered with the number of messages, without who it was; what was decided stays."""
    await open_batch(store, fence, "canary one", user="canary-user")
    await label_all(store, Category.SELF_HARM)
    assert await store.pool.erase_user("canary-user") == 1
    entries = await _written(store)
    assert [e[1] for e in entries] == [Deed.LABELLED, Deed.USER_ERASED]
    assert entries[-1] == ("cli", Deed.USER_ERASED, None, {"messages": 1})
    assert "canary" not in str(entries)
    assert store.keyring.user_hash("canary-user") not in str(entries)


async def test_what_failed_is_not_entered(store: Store, fence: int) -> None:
    """A decision that is refused leaves no line, and one sent twice leaves one."""
    await open_batch(store, fence, "one")
    held = await store.review.next("ann")
    assert held is not None
    for _ in range(2):
        await store.review.label(held.pick_id, reviewer="ann", category=Category.LEGAL_ADVICE, idempotency_key="key")
    refused = [
        store.review.label(held.pick_id, reviewer="ben", category=None),
        store.review.undo("ben"),
        store.marks.hand_on(held.pick_id, "ben"),
        store.marks.flag(4711, "ben"),
        store.pairs.decide(PairKind.CONTRAST, 4711, verdict=PairVerdict.HOLDS, reviewer="ben"),
    ]
    for attempt in refused:
        with pytest.raises(LifeguardError):
            await attempt
    assert len(await _written(store)) == 1


@pytest.mark.parametrize("change", CHANGES)
async def test_append_only(store: Store, change: str) -> None:
    """The database itself refuses to change or delete a line, whoever asks."""
    await store.sessions.refused(None)
    before = await _written(store)
    with pytest.raises((DBAPIError, LifeguardError)) as caught:
        async with store.database.write() as session:
            await session.execute(text(change))
    assert isinstance(caught.value, IntegrityError) or store.database.embedded is False
    assert await _written(store) == before


async def test_append_only_on_each(store: Store) -> None:
    """Neither SQLite's way to replace a row nor PostgreSQL's way to empty a table gets round that."""
    await store.sessions.refused(None)
    before = await _written(store)
    change = (
        "INSERT OR REPLACE INTO ledger VALUES (1, '2026-11-20 12:00:00', 'eve', 'labelled', NULL, '{}')"
        if store.database.embedded
        else "TRUNCATE ledger"
    )
    with pytest.raises((DBAPIError, LifeguardError)):
        async with store.database.write() as session:
            await session.execute(text(change))
    assert await _written(store) == before


async def test_recent_in_pages(store: Store) -> None:
    """The latest lines come first, and those before a line can be asked for."""
    for name in ("a", "b", "c"):
        await store.sessions.refused(name)
    first = await store.ledger.recent(2)
    assert [e.actor for e in first] == ["c", "b"]
    assert [e.actor for e in await store.ledger.recent(2, before=first[-1].id)] == ["a"]
    await add(store, arrival("one"))
    assert len(await store.ledger.recent()) == 3
