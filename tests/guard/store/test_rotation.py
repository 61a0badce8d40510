"""Rotation of the encryption key: every text sealed anew, none unreadable at any time."""

from copy import copy

import pytest
from sqlalchemy import select

from guard.errors import BadConfiguration
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.keyring import Keyring
from guard.store.rows import Contrast, Message, Variation
from guard.taxonomy import Category
from tests.guard.store.scenes import add, arrival, label_all, open_batch, pooled

TEXTS = [f"text {n}" for n in range(7)]
ALL = {*TEXTS, "variation 0", "variation 1"}


async def _fill(store: Store, fence: int) -> None:
    """Fill a store with seven messages, two of them labelled and varied."""
    cycle = await open_batch(store, fence, *TEXTS)
    await label_all(store, Category.SELF_HARM, Category.SELF_HARM)
    for n, seed in enumerate(await store.variations.pending(cycle.id)):
        await store.variations.record(cycle.id, seed, [f"variation {n}"], fence=fence, llm="m", template="t", fates={})


async def _read(store: Store, keyring: Keyring) -> dict[str, str]:
    """Return each stored text with the key it is sealed under, opened by a keyring."""
    found = {}
    async with store.database.read() as session:
        for table in (Message, Variation, Contrast):
            sealed = await session.execute(select(table.ciphertext, table.key_id, table.fingerprint))
            for ciphertext, key_id, fingerprint in sealed:
                found[keyring.open(ciphertext, key_id=key_id, owner=fingerprint)] = key_id
    return found


async def test_rotate(store: Store, fence: int, keyring: Keyring) -> None:
    """After a rotation all texts, variations included, are sealed under the new key and open without the old one."""
    await _fill(store, fence)
    rotated = keyring.rotated()
    assert await store.rotate(rotated, batch=2) == 9
    assert await _read(store, rotated.retired()) == dict.fromkeys(ALL, "k2")
    with pytest.raises(BadConfiguration):
        await _read(store, keyring)


def _breaking_off(keyring: Keyring, *, after: int) -> Keyring:
    """Return the same ring, with which sealing breaks off after so many texts."""
    ring = copy(keyring)
    seal = ring.seal
    sealed: list[str] = []

    def break_off(text: str, *, owner: bytes) -> bytes:
        if len(sealed) == after:
            raise ZeroDivisionError
        sealed.append(text)
        return seal(text, owner=owner)

    ring.seal = break_off  # type: ignore[method-assign]
    return ring


async def test_half_way(store: Store, fence: int, keyring: Keyring) -> None:
    """A rotation that breaks off leaves every text readable with both keys, and the next one does the rest."""
    await _fill(store, fence)
    rotated = keyring.rotated()
    with pytest.raises(ZeroDivisionError):
        await store.rotate(_breaking_off(rotated, after=5), batch=2)
    half = await _read(store, rotated)
    assert set(half) == ALL
    assert sorted(half.values()).count("k2") == 4
    assert await store.rotate(rotated) == 5
    assert set((await _read(store, rotated.retired())).values()) == {"k2"}


async def test_twice(store: Store, fence: int, keyring: Keyring) -> None:
    """Rotating again under the same key has nothing to do; another rotation starts from the second key."""
    await _fill(store, fence)
    second = keyring.rotated()
    await store.rotate(second)
    assert await store.rotate(second) == 0
    third = second.retired().rotated()
    assert await store.rotate(third) == 9
    assert await _read(store, third.retired()) == dict.fromkeys(ALL, "k3")


async def test_service_goes_on(store_settings: GuardSettings, store: Store, fence: int, keyring: Keyring) -> None:
    """A store with the rotated ring reads old and new texts, knows them again, and seals under the new key."""
    await _fill(store, fence)
    await add(store, arrival("waiting"))
    rotated = keyring.rotated()
    rotated.save(store_settings.keyring_path, replace=True)
    async with open_store(store_settings, clock=store.clock) as other:
        added = await add(other, arrival("waiting"), arrival("new"))
        assert (added.new, added.repeated) == (1, 1)
        assert [p.text for p in await pooled(other)] == ["waiting", "new"]
        assert await other.variations.known(["variation 0", "text 0"]) == {"variation 0", "text 0"}
        assert (await _read(other, rotated))["new"] == "k2"
        assert await other.rotate(rotated) == 10
    rotated.retired().save(store_settings.keyring_path, replace=True)
    async with open_store(store_settings, clock=store.clock) as last:
        assert [p.text for p in await pooled(last)] == ["waiting", "new"]


async def test_without_the_old_key(store: Store, fence: int, keyring: Keyring) -> None:
    """A rotation with a ring that lacks the old key is refused before anything is sealed anew."""
    await _fill(store, fence)
    with pytest.raises(BadConfiguration, match="key k1"):
        await store.rotate(keyring.rotated().retired())
    assert await _read(store, keyring) == dict.fromkeys(ALL, "k1")


async def test_process_with_the_old_ring(store: Store, fence: int, keyring: Keyring) -> None:
    """A process that was not restarted seals nothing under a key that is about to go, from the first batch on."""
    await _fill(store, fence)
    rotated = keyring.rotated()
    assert keyring.holds("k1")
    assert not keyring.holds("k2")
    with pytest.raises(ZeroDivisionError):
        await store.rotate(_breaking_off(rotated, after=2), batch=2)
    assert sorted((await _read(store, rotated)).values()).count("k2") == 2
    with pytest.raises(BadConfiguration, match="rotated to k2 since this process read it: restart it"):
        await add(store, arrival("late"))
    await store.rotate(rotated)
    assert set(await _read(store, rotated.retired())) == ALL
