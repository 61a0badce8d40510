"""Reports of wrong verdicts: each brings its message in once, within its caps, and no estimate rests on it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from guard.errors import NoRoom, NotFound, Throttled
from guard.store import Store
from guard.store.pool import AUDIT, FEEDBACK, NO_PROBABILITY, SHADOW, UNCERTAIN, Arrival
from guard.store.reports import Caps
from guard.store.rows import Message, Report
from guard.store.states import ReportSource
from guard.taxonomy import Category
from tests.conftest import Clock
from tests.guard.store.scenes import add, arrival, learner, open_batch, pooled

CAPS = Caps(per_user=3, per_key=5, pool_messages=100)


def _reported(text: str, user: str | None = None, *, after: timedelta = timedelta(0)) -> Arrival:
    return arrival(text, user, reason=FEEDBACK, probability=NO_PROBABILITY, after=after)


async def _report(
    store: Store,
    text: str,
    user: str | None = None,
    *,
    answer: bytes | None = None,
    category: Category | None = Category.LEGAL_ADVICE,
    key: str = "bot",
    caps: Caps = CAPS,
) -> int:
    report_id, _ = await store.reports.add(
        _reported(text, user),
        answer=answer or text.encode(),
        category=category,
        source=ReportSource.PERSON,
        key_name=key,
        caps=caps,
    )
    return report_id


async def _messages(store: Store) -> list[tuple[str, float, int]]:
    async with store.database.read() as session:
        rows = await session.execute(
            select(Message.reason, Message.inclusion_probability, Message.seen_count).order_by(Message.id)
        )
        return [(reason, probability, count) for reason, probability, count in rows]


async def _count(store: Store) -> int:
    async with store.database.read() as session:
        return int(await session.scalar(select(func.count()).select_from(Report)) or 0)


async def test_message_joins_the_pool(store: Store) -> None:
    """What is reported waits in the pool with its own reason and no probability, and with what was said of it."""
    await _report(store, "one", "ada")
    await _report(store, "one", "ben", answer=b"other", category=None)
    assert await _messages(store) == [(FEEDBACK, NO_PROBABILITY, 1)]
    (message,) = await pooled(store)
    assert (message.text, len(message.user_hashes)) == ("one", 2)
    reported = (await store.reports.waiting())[message.id]
    assert reported.inclusion_probability is None
    assert reported.reason() == {"should_be": {"unknown": 1, "legal-advice": 1}, "reported_by": {"person": 2}}
    assert await store.pool.unsampled() == {message.id}
    assert await store.pool.audits() == {}
    assert await store.pool.verdicts(limit=10) == []


async def test_reported_again(store: Store) -> None:
    """An answer is reported once: again, it is the same report with the latest opinion, whatever the caps say."""
    first = await _report(store, "one", "ada")
    for _ in range(10):
        assert await _report(store, "one", "ada", category=Category.MEDICAL_ADVICE) == first
    assert await _count(store) == 1
    (reported,) = (await store.reports.waiting()).values()
    assert reported.opinions == {Category.MEDICAL_ADVICE: 1}
    assert (await _messages(store))[0][2] == 1


async def test_user_is_capped(store: Store, clock: Clock) -> None:
    """A user's messages are reported so often a day; after that the store says when to try again, and others may."""
    for n in range(3):
        await _report(store, f"message {n}", "ada")
        clock.advance(hours=1)
    with pytest.raises(Throttled) as refused:
        await _report(store, "message 3", "ada")
    assert refused.value.retry_after_s == 21 * 3600 + 1
    assert "user" in refused.value.detail
    await _report(store, "message 3", "ben")
    clock.advance(seconds=refused.value.retry_after_s)
    await _report(store, "message 4", "ada")
    assert await _count(store) == 5


async def test_key_is_capped(store: Store) -> None:
    """A key reports so often a day, whoever the users are, or nobody."""
    for n in range(5):
        await _report(store, f"message {n}", f"user {n}" if n % 2 else None)
    with pytest.raises(Throttled, match="with this key"):
        await _report(store, "message 5")
    await _report(store, "message 5", key="other bot")
    assert await _count(store) == 6


async def test_no_reports_at_all(store: Store) -> None:
    """With a cap of none every report is refused, with a time to try again."""
    with pytest.raises(Throttled) as refused:
        await _report(store, "one", caps=replace(CAPS, per_key=0))
    assert refused.value.retry_after_s > 0


async def test_full_pool(store: Store) -> None:
    """A full pool takes reports of what it holds already and no others; nothing is left of those it refuses."""
    await add(store, arrival("one"), arrival("two"))
    await _report(store, "two", caps=replace(CAPS, pool_messages=2))
    with pytest.raises(NoRoom):
        await _report(store, "three", caps=replace(CAPS, pool_messages=2))
    assert (await _count(store), len(await pooled(store))) == (1, 2)


@pytest.mark.parametrize(("reason", "probability"), [(UNCERTAIN, 1.0), (AUDIT, 0.01), (SHADOW, 0.25)])
async def test_sampled_stays_sampled(store: Store, reason: str, probability: float) -> None:
    """A report changes neither reason, probability nor count of what was drawn, be it before or after the report."""
    await add(store, arrival("before", reason=reason, probability=probability))
    await _report(store, "before")
    await _report(store, "after")
    await add(store, arrival("after", reason=reason, probability=probability))
    assert await _messages(store) == [(reason, probability, 1), (reason, probability, 2)]
    assert await store.pool.unsampled() == set()
    waiting = await store.reports.waiting()
    known = {UNCERTAIN: [1.0, 1.0], AUDIT: [], SHADOW: [None, None]}[reason]
    assert [reported.inclusion_probability for reported in waiting.values()] == known


async def test_drawn_later_with_another_verdict(store: Store) -> None:
    """What is drawn after a report counts with the verdict that it was drawn with."""
    await _report(store, "one")
    drawn = replace(arrival("one", reason=AUDIT, probability=0.01), category=Category.NOT_HARMFUL, model_version="0002")
    await add(store, drawn)
    async with store.database.read() as session:
        message = (await session.scalars(select(Message))).one()
    assert (message.category, message.model_version) == (Category.NOT_HARMFUL, "0002")


async def test_not_waiting_any_more(store: Store) -> None:
    """What people have in hand is reported without going back to the pool."""
    await open_batch(store, await learner(store), "one")
    await _report(store, "one")
    assert (await store.reports.waiting(), await pooled(store)) == ({}, [])


async def test_erased_with_the_user(store: Store, clock: Clock) -> None:
    """With a user go their reports, on messages that others share too, and none comes back of what was sent before."""
    await _report(store, "mine", "ada")
    await _report(store, "shared", "ada")
    await _report(store, "shared", "ben", answer=b"other")
    clock.advance(minutes=1)
    await store.pool.erase_user("ada")
    assert (await _count(store), [text.text for text in await pooled(store)]) == (1, ["shared"])
    for text in ("mine", "shared", "new"):
        with pytest.raises(NotFound):
            await _report(store, text, "ada")
    assert (await _count(store), [text.text for text in await pooled(store)]) == (1, ["shared"])


async def test_expires(store: Store, clock: Clock) -> None:
    """A reported message lives as long as any other, counted from when it was sent, and its reports go with it."""
    await _report(store, "one")
    clock.advance(days=31)
    await store.pool.expire(retention=timedelta(days=30), labelled_retention=timedelta(days=60))
    assert (await _count(store), await pooled(store)) == (0, [])
