"""Stores on one database alone, for what only that one can do, and the learner's lease."""

from collections.abc import AsyncIterator

import pytest

from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.keyring import Keyring
from tests.conftest import Clock, Postgres
from tests.guard.store.scenes import learner


@pytest.fixture
async def sqlite_store(guard_settings: GuardSettings, clock: Clock, keyring: Keyring) -> AsyncIterator[Store]:
    """An empty store on SQLite."""
    keyring.save(guard_settings.keyring_path, replace=False)
    async with open_store(guard_settings, clock=clock) as opened:
        yield opened


@pytest.fixture
async def postgresql_settings(guard_settings: GuardSettings, postgres: Postgres) -> AsyncIterator[GuardSettings]:
    """`guard_settings` with a PostgreSQL database that holds nothing."""
    name = await postgres.shared()
    yield guard_settings.model_copy(update={"database_url": postgres.url(name)})
    await postgres.empty(name)


@pytest.fixture
async def postgresql_store(postgresql_settings: GuardSettings, clock: Clock, keyring: Keyring) -> AsyncIterator[Store]:
    """An empty store on PostgreSQL."""
    keyring.save(postgresql_settings.keyring_path, replace=False)
    async with open_store(postgresql_settings, clock=clock) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, guard_settings: GuardSettings) -> AsyncIterator[str]:
    """The URL of a database of either kind without any table."""
    if request.param == "sqlite":
        yield guard_settings.store_url
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = await server.create()
    yield GuardSettings(database_url=server.url(name)).store_url
    await server.drop(name)


@pytest.fixture
async def fence(store: Store) -> int:
    """The fence of the learner's lease on `store`."""
    return await learner(store)
