"""The connection to SQLite or PostgreSQL: transactions, pragmas and migrations.

Reading and writing transactions are told apart, because SQLite must know at BEGIN that a transaction will write.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from guard.errors import BadConfiguration, StoreUnavailable

BUSY_TIMEOUT_S: Final = 10
# WAL loses data in older versions when two processes write (the WAL-reset bug); the backports are listed beside the fix.
_WAL_FIXED: Final = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Return whether this SQLite may use WAL with several writing processes."""
    return any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_FIXED) or version >= _WAL_FIXED[-1]


class Database:
    """An engine with two kinds of transaction.

    Args:
        url: `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.embedded = parsed.get_backend_name() == "sqlite"
        if not self.embedded and parsed.get_backend_name() != "postgresql":
            raise BadConfiguration("GUARD_DATABASE_URL must begin with postgresql:// or sqlite:///.")
        if self.embedded and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_async_engine(
            parsed,
            connect_args={"timeout": BUSY_TIMEOUT_S},
            pool_pre_ping=not self.embedded,
            hide_parameters=True,
            pool_timeout=BUSY_TIMEOUT_S,
        )
        if self.embedded:
            event.listen(self.engine.sync_engine, "connect", _configure_sqlite)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)
        self._readers = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writers = async_sessionmaker(self.engine.execution_options(writes=True), expire_on_commit=False)
        self._writer = asyncio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Yield a session that only reads.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        with _translated():
            async with self._readers.begin() as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Yield a session whose changes are committed at the end, all or none.

        Raises:
            StoreUnavailable: The database does not answer, or stays locked.
        """
        with _translated():
            async with AsyncExitStack() as stack:
                if self.embedded:  # one writer at a time in this process: waiting here is cheaper than SQLite's polling
                    await stack.enter_async_context(self._writer)
                yield await stack.enter_async_context(self._writers.begin())

    async def migrate(self) -> None:
        """Bring the schema to this version's.

        Raises:
            BadConfiguration: The schema is newer than this program.
            StoreUnavailable: The database does not answer.
        """
        with _translated():
            async with self.engine.execution_options(writes=True).begin() as connection:
                await connection.run_sync(_upgrade)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


class _translated:  # noqa: N801 - reads as a verb where it is used
    """Turn the driver's errors into ours, without the statement and its values."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OperationalError | InterfaceError | OSError | TimeoutError) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            raise StoreUnavailable(f"The database does not answer ({type(error).__name__}).", retry_after_s=5) from None


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin event says BEGIN, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA journal_mode={'WAL' if wal_is_safe(sqlite3.sqlite_version_info) else 'DELETE'}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7150316)")
    if connection.dialect.has_table(connection, "alembic_version"):
        present = {row[0] for row in connection.exec_driver_sql("SELECT version_num FROM alembic_version")}
        if not present <= known:
            raise BadConfiguration("The database was written by a newer Lifeguard: upgrade this one.")
    command.upgrade(config, "head")
