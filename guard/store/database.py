"""The connection to SQLite or PostgreSQL: transactions, pragmas and migrations.

Reads see one moment. Writes stand in line, one transaction at a time over all processes, on either database: whatever
a writing transaction has read stays true until it commits.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from guard.errors import BadConfiguration, LifeguardError, StoreUnavailable

BUSY_TIMEOUT_S: Final = 10.0
_RETRY_AFTER_S: Final = 5
_ADVISORY_LOCK: Final = 7150316  # any number, the same in every Lifeguard
# WAL loses data in older versions when two processes write (the WAL-reset bug); the backports are listed beside the fix.
_WAL_FIXED: Final = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
_SQLITE_CAUSES: Final = {
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened: see to the folder's rights",
    sqlite3.SQLITE_CORRUPT: "its file is damaged: restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_IOERR: "the disk does not read or write",
    sqlite3.SQLITE_NOTADB: "its file is no SQLite database: restore a backup",
    sqlite3.SQLITE_READONLY: "its file cannot be written: see to its rights, and that nobody has moved it",
}

# the session that a task's reads share, and whose it is
_MOMENT: Final[ContextVar[tuple["Database | None", AsyncSession | None]]] = ContextVar("moment", default=(None, None))


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Return whether this SQLite may use WAL with several writing processes."""
    return any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_FIXED) or version >= _WAL_FIXED[-1]


class Database:
    """An engine with two kinds of transaction.

    Args:
        url: `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        timeout_s: How long to wait for a connection or for one's turn to write; PostgreSQL may take six times as long
            over one statement.

    Raises:
        BadConfiguration: The URL names no SQLite file and no PostgreSQL.
    """

    def __init__(self, url: str, *, timeout_s: float = BUSY_TIMEOUT_S) -> None:
        parsed = _parse(url)
        self.embedded = parsed.get_backend_name() == "sqlite"
        if self.embedded:
            Path(str(parsed.database)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._timeout_s = timeout_s
        self.engine = create_async_engine(
            parsed,
            connect_args=_sqlite_arguments(timeout_s) if self.embedded else _postgresql_arguments(timeout_s),
            pool_pre_ping=not self.embedded,
            pool_timeout=timeout_s,
            hide_parameters=True,
        )
        self._polls = self.embedded and not wal_is_safe(sqlite3.sqlite_version_info)
        if self.embedded:
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)
            readers = self.engine
        else:
            event.listen(self.engine.sync_engine, "begin", _begin_postgresql)
            readers = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._readers = async_sessionmaker(readers, expire_on_commit=False)
        self._writers = async_sessionmaker(self.engine.execution_options(writes=True), expire_on_commit=False)
        self._turn = asyncio.Lock()
        self._gate = _Gate()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Yield a session that only reads; within `moment`, its session.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        whose, shared = _MOMENT.get()
        if whose is self and shared is not None:
            yield shared
            return
        with _translated():
            async with self._reading(), self._readers.begin() as session:
                yield session

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[None]:
        """Have all that this task reads meanwhile read in one transaction: it sees one moment, and costs one. Nothing is written in it.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        async with self.read() as session:
            token = _MOMENT.set((self, session))
            try:
                yield
            finally:
                _MOMENT.reset(token)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Yield a session whose changes are committed at the end, all or none, and that nobody else writes beside.

        Raises:
            StoreUnavailable: The database does not answer, or stays locked.
        """
        with _translated():
            async with asyncio.timeout(self._timeout_s):  # in line here first: cheaper than SQLite's polling, and
                await self._turn.acquire()  # those who wait hold no connection that readers could use
            try:
                async with self._writers() as session:
                    yield session
                    await session.flush()
                    async with self._committing():
                        await session.commit()
            finally:
                self._turn.release()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Keep this process's commits out of its own reads, where the database would make one poll for the other."""
        if not self._polls:
            yield
            return
        async with self._gate.reading(self._timeout_s):
            yield

    @asynccontextmanager
    async def _committing(self) -> AsyncIterator[None]:
        if not self._polls:
            yield
            return
        async with self._gate.alone(self._timeout_s):
            yield

    async def migrate(self) -> None:
        """Bring the schema to this version's.

        Raises:
            BadConfiguration: The schema is newer than this program, or the server knows no such user or database.
            StoreUnavailable: The database does not answer.
        """
        with _translated():
            async with self.engine.execution_options(writes=True).begin() as connection:
                await connection.run_sync(_upgrade)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


class _Gate:
    """Lets readers in together and whoever commits alone; who wants to commit goes before further readers.

    Without WAL a commit needs the file to itself. SQLite polls for that, in steps of up to 100 ms, and so do those who
    then want to read: ten reviewers at once waited for little else.
    """

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._readers = 0

    @asynccontextmanager
    async def reading(self, timeout_s: float) -> AsyncIterator[None]:
        """Come in with other readers."""
        async with asyncio.timeout(timeout_s):
            while not self._open.is_set():
                await self._open.wait()
        self._readers += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._empty.set()

    @asynccontextmanager
    async def alone(self, timeout_s: float) -> AsyncIterator[None]:
        """Wait until the readers inside are gone, with no others coming in; never for two at once."""
        self._open.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
            yield
        finally:
            self._open.set()


class _translated:  # noqa: N801 - reads as a verb where it is used
    """Turn the driver's errors into ours, without the statement and its values."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        translation = _translation(error)
        if translation is not None:
            raise translation from None


def _translation(error: BaseException | None) -> LifeguardError | None:
    match error:
        case IntegrityError() | ProgrammingError() | DataError():  # the caller's, or a mistake of ours
            return None
        case DBAPIError():
            return _unavailable(error.orig)
        case PoolTimeoutError():
            return StoreUnavailable(
                "The database is too busy: every connection is in use.", retry_after_s=_RETRY_AFTER_S
            )
        case OSError():  # TimeoutError too
            return _unavailable(error)
        case Exception() if type(error).__module__.startswith(
            "asyncpg."
        ):  # SQLAlchemy passes these on while connecting
            return _unavailable(error)
    return None


def _unavailable(error: BaseException | None) -> LifeguardError:
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith(("28", "3D")):  # invalid authorisation, no such database
        return BadConfiguration(
            f"PostgreSQL refuses the user or the database of GUARD_DATABASE_URL (SQLSTATE {state})."
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    cause = _SQLITE_CAUSES.get(code) or (f"SQLSTATE {state}" if state else type(error).__name__)
    return StoreUnavailable(f"The database does not answer: {cause}.", retry_after_s=_RETRY_AFTER_S)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):  # their messages repeat the URL, which may hold a password
        backend = None
    if backend not in {"sqlite", "postgresql"}:
        raise BadConfiguration("GUARD_DATABASE_URL must begin with postgresql:// or sqlite:///.")
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise BadConfiguration("GUARD_DATABASE_URL must name a file: sqlite:////var/lib/lifeguard/guard.sqlite, say.")
    if "sslmode" in parsed.query:  # libpq's name for what asyncpg calls ssl
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": parsed.query["sslmode"]})
    return parsed


class _SQLite(sqlite3.Connection):
    """A connection that sets itself up before its first use, and lets go of its locks as it is closed.

    SQLite keeps a closed connection and its locks until the last unfinished statement is gone, and the exception of a
    cancelled task refers to one for as long as anybody refers to the exception.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()
        self._ready = False

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor."""
        if not self._ready:  # not in the constructor: aiosqlite leaves a thread behind when that fails
            journal_mode = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
            for pragma in ("foreign_keys=ON", f"journal_mode={journal_mode}", "synchronous=FULL", "secure_delete=ON"):
                super().cursor().execute(f"PRAGMA {pragma}")
            self._ready = True
        cursor = super().cursor(*args, **kwargs)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        """Close, cursors first."""
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


def _sqlite_arguments(timeout_s: float) -> dict[str, Any]:
    # no isolation level: SQLAlchemy's begin event says BEGIN, not the driver
    return {"timeout": timeout_s, "isolation_level": None, "factory": _SQLite}


def _postgresql_arguments(timeout_s: float) -> dict[str, Any]:
    statement_s = 6 * timeout_s
    return {
        "timeout": timeout_s,
        "command_timeout": statement_s,
        "server_settings": {
            "application_name": "lifeguard",
            "lock_timeout": str(round(timeout_s * 1000)),
            # a process stopped in the middle of a transaction must not hold up all others for ever
            "idle_in_transaction_session_timeout": str(round(statement_s * 1000)),
        },
    }


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE: SQLite must know at BEGIN that a transaction will write, or it does not wait for the lock
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if _writes(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("writes", False))


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if connection.dialect.has_table(connection, "alembic_version"):
        present = {row[0] for row in connection.exec_driver_sql("SELECT version_num FROM alembic_version")}
        if not present <= known:
            raise BadConfiguration("The database was written by a newer Lifeguard: upgrade this one.")
    command.upgrade(config, "head")
