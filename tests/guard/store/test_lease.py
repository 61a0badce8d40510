"""Leases: one holder at a time, and a fence that tells a late one that it is late."""

from datetime import timedelta

from guard.store import Store
from guard.store.lease import LEARNER
from tests.conftest import START, Clock

TTL = timedelta(seconds=60)


async def _take(store: Store, holder: str, name: str = LEARNER) -> int | None:
    return await store.leases.acquire(name, holder, ttl=TTL)


async def test_first(store: Store) -> None:
    """Whoever is first gets the lease for its time."""
    assert await store.leases.expires_at(LEARNER) is None
    assert await _take(store, "a") == 1
    assert await store.leases.expires_at(LEARNER) == START + TTL


async def test_one_holder(store: Store, clock: Clock) -> None:
    """While one holds it no other gets it; its holder may ask again and holds it longer, under the same fence."""
    assert await _take(store, "a") == 1
    clock.advance(seconds=59)
    assert await _take(store, "b") is None
    assert await _take(store, "a") == 1
    clock.advance(seconds=59)
    assert await _take(store, "b") is None


async def test_expired(store: Store, clock: Clock) -> None:
    """A lease that ran out goes to the next, under a higher fence, and its old holder cannot renew it."""
    await _take(store, "a")
    clock.advance(seconds=60)
    assert await _take(store, "b") == 2
    assert not await store.leases.renew(LEARNER, fence=1, ttl=TTL)
    assert await store.leases.renew(LEARNER, fence=2, ttl=TTL)
    assert await _take(store, "a") is None


async def test_fence_grows_for_the_same_holder(store: Store, clock: Clock) -> None:
    """Who takes a lease that ran out takes it anew, even if it was theirs."""
    await _take(store, "a")
    clock.advance(seconds=60)
    assert await _take(store, "a") == 2


async def test_renew(store: Store, clock: Clock) -> None:
    """Renewing prolongs from now on, even a lease that ran out, as long as nobody took it."""
    await _take(store, "a")
    clock.advance(minutes=5)
    assert await store.leases.renew(LEARNER, fence=1, ttl=TTL)
    assert await store.leases.expires_at(LEARNER) == clock() + TTL
    assert await _take(store, "b") is None


async def test_release(store: Store) -> None:
    """A lease that is given back is free at once; one that is no longer one's own is not given back."""
    await _take(store, "a")
    await store.leases.release(LEARNER, fence=1)
    assert await _take(store, "b") == 2
    await store.leases.release(LEARNER, fence=1)
    assert await _take(store, "c") is None


async def test_unknown(store: Store) -> None:
    """A lease that nobody ever held can neither be renewed nor given back."""
    assert not await store.leases.renew("x", fence=1, ttl=TTL)
    await store.leases.release("x", fence=1)
    assert await store.leases.expires_at("x") is None


async def test_by_name(store: Store) -> None:
    """Leases of different names have nothing to do with each other."""
    assert await _take(store, "a", "x") == 1
    assert await _take(store, "b", "y") == 1


async def test_clock_set_back(store: Store, clock: Clock) -> None:
    """A clock that jumps back prolongs a lease at most: it never gives it to two."""
    await _take(store, "a")
    clock.advance(hours=-1)
    assert await _take(store, "b") is None
    assert await store.leases.renew(LEARNER, fence=1, ttl=TTL)
    clock.advance(minutes=2)
    assert await _take(store, "b") == 2
