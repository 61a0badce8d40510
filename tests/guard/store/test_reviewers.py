"""Accounts and their sessions: who may log in, for how long, and how often they may try."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from guard.errors import Conflict, InputError, NotFound, Throttled
from guard.store import Store
from guard.store.keys import digest
from guard.store.rows import DeskSession, LoginAttempt, Reviewer
from guard.store.sessions import LIMITS, WINDOW
from guard.store.states import Deed, Role
from tests.conftest import Clock

HOME = "192.0.2.7"


async def account(store: Store, name: str = "ann", role: Role = Role.REVIEWER) -> Reviewer:
    """Make an account and return it."""
    await store.reviewers.add(name, role, "hash")
    found = await store.reviewers.find(name)
    assert found is not None
    return found


async def log_in(store: Store, reviewer: Reviewer, *, replaces: str | None = None) -> str:
    """Log in and return the token."""
    await store.sessions.attempt(reviewer.name, HOME)
    return await store.sessions.open(reviewer, address=HOME, replaces=replaces)


async def test_account(store: Store) -> None:
    """An account is found by its name, listed, and gone from both lists of those in force once it is revoked."""
    assert not await store.reviewers.any()
    reviewer = await account(store, role=Role.ADMIN)
    assert (reviewer.role, reviewer.password_hash) == (Role.ADMIN, "hash")
    await store.reviewers.revoke("ann")
    assert await store.reviewers.find("ann") is None
    assert [r.name for r in await store.reviewers.all()] == ["ann"]
    assert await store.reviewers.any()
    for change in (store.reviewers.revoke("ann"), store.reviewers.set_password("ann", "other")):
        with pytest.raises(NotFound, match="guard reviewers list"):
            await change


@pytest.mark.parametrize("name", ["", " ", "ann ", "x" * 65, "a\nb"])
async def test_no_proper_name(store: Store, name: str) -> None:
    """An account needs a name that can be shown, and that looks like no other."""
    with pytest.raises(InputError, match="name"):
        await store.reviewers.add(name, Role.REVIEWER, "hash")


async def test_name_stands_for_one(store: Store) -> None:
    """A name stands for one account or one key for ever, since labels know their reviewer by name alone."""
    await account(store)
    await store.keys.create("bot", Role.REVIEWER)
    takes: list[Callable[[], Awaitable[object]]] = [
        lambda: store.reviewers.add("ann", Role.REVIEWER, "hash"),
        lambda: store.reviewers.add("bot", Role.REVIEWER, "hash"),
        lambda: store.keys.create("ann", Role.CLIENT),
    ]
    for take in takes:
        with pytest.raises(Conflict, match="choose another name"):
            await take()


async def test_session(store: Store) -> None:
    """A token leads to its session, is stored as a digest alone, and leads nowhere once its owner has logged out."""
    token = await log_in(store, await account(store))
    found = await store.sessions.find(token)
    assert found is not None
    assert (found.reviewer, found.role, found.hard_texts) == ("ann", Role.REVIEWER, 0)
    assert await store.sessions.count_hard_text(found.id) == 1
    again = await store.sessions.find(token)
    assert again is not None
    assert again.hard_texts == 1
    async with store.database.read() as session:
        assert list(await session.scalars(select(DeskSession.digest))) == [digest(token)]
    await store.sessions.end(found)
    assert await store.sessions.count_hard_text(found.id) == 0
    for other in (token, "", "x", token.lower()):
        assert await store.sessions.find(other) is None


async def test_session_ends_by_itself(store: Store, clock: Clock) -> None:
    """A session ends an hour after its last request, and after twelve hours however busy it is."""
    reviewer = await account(store)
    idle, busy = await log_in(store, reviewer), await log_in(store, reviewer)
    for _ in range(2):
        clock.advance(minutes=29)
        assert await store.sessions.find(busy) is not None
    clock.advance(minutes=2)  # an hour since `idle` was opened
    assert await store.sessions.find(idle) is None
    for _ in range(22):
        clock.advance(minutes=29)
        assert await store.sessions.find(busy) is not None
    clock.advance(minutes=22)
    assert await store.sessions.find(busy) is None
    await store.sessions.attempt("ann", HOME)
    async with store.database.read() as session:
        assert await session.scalar(select(func.count(DeskSession.id))) == 0


async def test_login_renews(store: Store) -> None:
    """Whoever logs in gets a token of the guard's making, and the session their browser had before ends."""
    reviewer = await account(store)
    first = await log_in(store, reviewer)
    second = await log_in(store, reviewer, replaces=first)
    assert first != second
    assert await store.sessions.find(first) is None
    assert await store.sessions.find(second) is not None


@pytest.mark.parametrize("how", ["revoke", "password"])
async def test_sessions_end_with_the_account(store: Store, how: str) -> None:
    """Whoever is revoked or gets another password is logged out everywhere; others are not."""
    ann, ben = await log_in(store, await account(store)), await log_in(store, await account(store, "ben"))
    await (store.reviewers.revoke("ann") if how == "revoke" else store.reviewers.set_password("ann", "other"))
    assert await store.sessions.find(ann) is None
    assert await store.sessions.find(ben) is not None


async def _tries(store: Store, *, name: Callable[[int], str], address: Callable[[int], str]) -> int:
    """Try until it is refused and return how often that went well."""
    for number in range(100):
        try:
            await store.sessions.attempt(name(number), address(number))
        except Throttled:
            return number
    raise AssertionError("never refused")


async def test_attempts_are_limited(store: Store, clock: Clock) -> None:
    """One address may try a name five times and twenty in all, a name bears fifty, and then time alone helps."""
    assert await _tries(store, name=lambda _: "ann", address=lambda _: HOME) == LIMITS["name and address"]
    with pytest.raises(Throttled) as caught:
        await store.sessions.attempt("ann", HOME)
    assert (caught.value.status, caught.value.retry_after_s) == (429, WINDOW.total_seconds())
    assert await _tries(store, name=str, address=lambda _: "192.0.2.8") == LIMITS["address"]
    assert await _tries(store, name=lambda _: "ben", address=str) == LIMITS["name"]
    clock.advance(minutes=14)
    with pytest.raises(Throttled) as caught:
        await store.sessions.attempt("ann", HOME)
    assert caught.value.retry_after_s == timedelta(minutes=1).total_seconds()
    clock.advance(minutes=1)
    await store.sessions.attempt("ann", HOME)


async def test_success_is_not_counted(store: Store) -> None:
    """Whoever knows the password may log in as often as they like, and gives others' guesses no more room."""
    reviewer = await account(store)
    for _ in range(3):
        await store.sessions.attempt("ben", HOME)
    for _ in range(max(LIMITS.values()) + 1):
        await log_in(store, reviewer)
    async with store.database.read() as session:
        assert await session.scalar(select(func.count(LoginAttempt.id))) == 3 * len(LIMITS)


async def test_ledger_of_accounts(store: Store) -> None:
    """What becomes of accounts and keys is in the ledger, and of a wrong name, which may be a password, nothing."""
    token = await log_in(store, await account(store))
    found = await store.sessions.find(token)
    assert found is not None
    await store.sessions.end(found)
    await store.sessions.refused("ann")
    await store.sessions.refused(None)
    await store.reviewers.set_password("ann", "other")
    await store.reviewers.revoke("ann")
    await store.keys.create("bot", Role.CLIENT)
    await store.keys.revoke("bot")
    entries = [(e.actor, e.deed, e.subject) for e in reversed(await store.ledger.recent())]
    assert entries == [
        ("cli", Deed.REVIEWER_ADDED, "reviewer ann"),
        ("ann", Deed.LOGGED_IN, None),
        ("ann", Deed.LOGGED_OUT, None),
        ("ann", Deed.LOGIN_REFUSED, None),
        ("", Deed.LOGIN_REFUSED, None),
        ("cli", Deed.PASSWORD_SET, "reviewer ann"),
        ("cli", Deed.REVIEWER_REVOKED, "reviewer ann"),
        ("cli", Deed.KEY_CREATED, "key bot"),
        ("cli", Deed.KEY_REVOKED, "key bot"),
    ]
