"""API keys: shown once, stored as digests."""

import pytest

from guard.errors import Conflict, InputError, NotFound
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.keys import PREFIX, digest
from guard.store.states import Role
from tests.conftest import START, Clock


@pytest.mark.parametrize("role", Role)
async def test_create(store: Store, role: Role) -> None:
    """A key is random, recognisable, and found by its digest, with its name and role."""
    secret = await store.keys.create("bot", role)
    (key,) = await store.keys.all()
    assert secret.startswith(PREFIX)
    assert len(secret) == len(PREFIX) + 43  # 32 bytes in base64
    assert (key.name, key.role, key.digest, key.created_at, key.revoked_at) == (
        "bot",
        role,
        digest(secret),
        START,
        None,
    )


async def test_never_stored(sqlite_store: Store, guard_settings: GuardSettings) -> None:
    """The key itself is nowhere on disk."""
    secret = await sqlite_store.keys.create("bot", Role.CLIENT)
    contents = [path.read_bytes() for path in guard_settings.data_dir.iterdir()]
    assert contents
    assert not any(secret.removeprefix(PREFIX).encode() in content for content in contents)


async def test_keys_differ(store: Store) -> None:
    """No two keys are alike, and they are listed by name."""
    secrets = {await store.keys.create(name, Role.CLIENT) for name in ("b", "c", "a")}
    assert len(secrets) == 3
    assert [key.name for key in await store.keys.all()] == ["a", "b", "c"]


async def test_taken_name(store: Store) -> None:
    """A name is given once, even after its key was revoked: labels and log lines name their author by it."""
    await store.keys.create("ann", Role.REVIEWER)
    await store.keys.revoke("ann")
    with pytest.raises(Conflict, match="'ann' already: choose another"):
        await store.keys.create("ann", Role.ADMIN)
    assert len(await store.keys.all()) == 1


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb", "a\x00b", "\u202eann"])
async def test_impossible_name(store: Store, name: str) -> None:
    """A name that is empty, longer than its column, or would garble a log line is refused."""
    with pytest.raises(InputError, match="1 to 64 printable"):
        await store.keys.create(name, Role.CLIENT)
    assert await store.keys.all() == []


async def test_longest_name(store: Store) -> None:
    """A name of 64 characters of any script fits."""
    await store.keys.create("ж" * 64, Role.CLIENT)
    assert [key.name for key in await store.keys.all()] == ["ж" * 64]


async def test_revoke(store: Store, clock: Clock) -> None:
    """A revoked key stays listed with its time, and is revoked once."""
    await store.keys.create("ann", Role.REVIEWER)
    clock.advance(hours=1)
    await store.keys.revoke("ann")
    (key,) = await store.keys.all()
    assert key.revoked_at == clock()
    for name in ("ann", "nobody"):
        with pytest.raises(NotFound, match="guard keys list"):
            await store.keys.revoke(name)
