"""The database: its schema, its transactions, and what becomes of its failures."""

import asyncio
import socket
import sqlite3
import traceback
from collections.abc import AsyncIterator, Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from guard.errors import BadConfiguration, StoreUnavailable
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store import database as database_module
from guard.store.database import Database, wal_is_safe
from guard.store.keyring import Keyring
from guard.store.rows import Key, Row
from guard.store.states import Role
from guard.taxonomy import Category
from tests.conftest import Postgres
from tests.guard import processes
from tests.guard.store.scenes import add, arrival, label_all, learner, open_batch, pooled

CANARY = "canary-in-a-statement"
LEASE = "INSERT INTO lease VALUES ('x', 'y', 1, CURRENT_TIMESTAMP)"


@pytest.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    """A database of either kind without tables, that waits at most a fifth of a second."""
    opened = Database(empty_url, timeout_s=0.2)
    yield opened
    await opened.close()


# the schema


async def test_migrations_make_the_rows_tables(database: Database) -> None:
    """What the migrations make is, to the last column and index, what the rows declare."""
    await database.migrate()

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Row.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrations_can_be_undone(database: Database) -> None:
    """Undoing every migration leaves no table of ours."""
    await database.migrate()

    def downgrade(connection: Connection) -> list[str]:
        config = Config()
        config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return inspect(connection).get_table_names()

    async with database.engine.execution_options(writes=True).begin() as connection:
        assert await connection.run_sync(downgrade) == ["alembic_version"]


_BEFORE_AGREEMENT = (
    "INSERT INTO message (id, fingerprint, ciphertext, key_id, source, reason, inclusion_probability, model_version,"
    " category, scores, uncertainty, seen_count, anonymous, first_seen_at, last_seen_at, state) VALUES ({id}, '{id}', '',"
    " 'k', 's', 'audit', 1, '1', 'self-harm', '[]', 1, 1, true, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, '{state}')"
)
_CYCLE = (
    "INSERT INTO cycle (id, state, strategy, seed, batch_size, labels_spent, champion, opened_at, due_at, timeline,"
    " figures, reasons) VALUES (1, 'held', 'import', 0, 0, 0, '1', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, '[]', '{}', '[]')"
)
_PICK = "INSERT INTO pick (id, cycle_id, message_id, position, reason, state) VALUES ({id}, 1, {id}, {id}, '{{}}', '{state}')"
_LABEL = (
    "INSERT INTO label (id, pick_id, message_id, reviewer, category, decided_at, undone_at)"
    " VALUES ({id}, {pick}, {pick}, '{reviewer}', {category}, CURRENT_TIMESTAMP, {undone})"
)


async def test_migration_to_agreement(database: Database) -> None:
    """Picks labelled before get their category, the latest where a file brought several; nobody has two opinions."""
    statements = [_CYCLE]
    for id_, state in enumerate(("labelled", "unclear", "waiting", "labelled"), 1):
        statements += [template.format(id=id_, state=state) for template in (_BEFORE_AGREEMENT, _PICK)]
    labels = [
        (1, "ann", "'self-harm'", "CURRENT_TIMESTAMP"),
        (1, "ann", "'legal-advice'", "NULL"),
        (2, "ann", "NULL", "NULL"),
        (4, "import", "'self-harm'", "NULL"),
        (4, "bob", "'self-harm'", "NULL"),
        (4, "import", "'legal-advice'", "NULL"),
    ]
    for id_, (pick, reviewer, category, undone) in enumerate(labels, 1):
        statements.append(_LABEL.format(id=id_, pick=pick, reviewer=reviewer, category=category, undone=undone))

    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        for statement in statements:
            connection.exec_driver_sql(statement)

    async with database.engine.execution_options(writes=True).begin() as connection:
        await connection.run_sync(upgrade)
    await database.migrate()
    async with database.read() as session:
        picks = (await session.execute(text("SELECT category, wanted, state FROM pick ORDER BY id"))).all()
        standing = await session.scalars(
            text("SELECT id FROM label WHERE undone_at IS NULL AND NOT adjudicates ORDER BY id")
        )
        assert list(standing) == [2, 3, 5, 6]
    assert [tuple(pick) for pick in picks] == [
        ("legal-advice", 1, "labelled"),
        (None, 1, "unclear"),
        (None, 1, "waiting"),
        ("legal-advice", 1, "labelled"),
    ]


async def test_migrate_twice(database: Database) -> None:
    """Migrating what is up to date changes nothing."""
    await database.migrate()
    await database.migrate()


async def test_migrate_at_once(empty_url: str) -> None:
    """Guard and learner may start at the same time on an empty database: both find it ready."""
    databases = [Database(empty_url) for _ in range(4)]
    await asyncio.gather(*(database.migrate() for database in databases))
    for database in databases:
        async with database.read() as session:
            assert await session.scalar(select(func.count()).select_from(Key)) == 0
        await database.close()


def _migrate(url: str, start: Event) -> None:
    async def migrate() -> None:
        database = Database(url)
        await database.migrate()
        await database.close()

    start.wait()
    asyncio.run(migrate())


@pytest.mark.slow
async def test_migrate_in_processes(empty_url: str) -> None:
    """The same holds for processes."""
    start = processes.CONTEXT.Event()
    migrating = [processes.start(_migrate, empty_url, start) for _ in range(3)]
    start.set()
    assert [processes.finish(process) for process in migrating] == [0, 0, 0]


async def test_newer_schema(database: Database) -> None:
    """A database that a newer Lifeguard has written is refused, and left as it is."""
    await database.migrate()
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadConfiguration, match="newer Lifeguard: upgrade"):
        await database.migrate()


async def test_migration_breaks_off(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that breaks off half-way leaves nothing, and the next one starts afresh."""

    def break_off(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.batch_alter_table", break_off)
        with pytest.raises(ZeroDivisionError):
            await database.migrate()
    async with database.engine.connect() as connection:
        assert await connection.run_sync(lambda c: inspect(c).get_table_names()) == []
    await database.migrate()


def test_migrations_are_packaged() -> None:
    """The migrations are among the packages that are built, though they hold no `__init__`."""
    setuptools = pytest.importorskip("setuptools")
    root = Path(database_module.__file__).parents[2]
    assert "guard.store.migrations.versions" in setuptools.find_namespace_packages(str(root), include=["guard*"])


# the connection


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_safe(version: tuple[int, int, int], safe: bool) -> None:  # noqa: FBT001
    """WAL is used only with a SQLite that has the fix for its loss of data, or a backport of it."""
    assert wal_is_safe(version) is safe


@pytest.mark.parametrize(("safe", "mode"), [(True, "wal"), (False, "delete")])
async def test_pragmas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool, mode: str) -> None:  # noqa: FBT001
    """SQLite syncs every commit, overwrites what is deleted, holds foreign keys, and uses WAL only where it is safe."""
    monkeypatch.setattr(database_module, "wal_is_safe", lambda _: safe)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/guard.sqlite", timeout_s=3)
    async with database.engine.connect() as connection:
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys", "busy_timeout")
        }
    await database.close()
    assert found == {
        "journal_mode": mode,
        "synchronous": 2,
        "secure_delete": 1,
        "foreign_keys": 1,
        "busy_timeout": 3000,
    }


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hush",
        "mysql://u:hush@h/d",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "postgresql+hush://h:x/d",
    ],
)
def test_impossible_url(url: str) -> None:
    """A URL that cannot work is refused with what it should be, and without its password."""
    with pytest.raises(BadConfiguration, match="GUARD_DATABASE_URL must") as caught:
        Database(url)
    assert "hush" not in str(caught.value)


async def test_sslmode() -> None:
    """`sslmode`, which every PostgreSQL provider's URL carries, is understood."""
    database = Database("postgresql+asyncpg://u@h/d?sslmode=require&x=1")
    assert dict(database.engine.url.query) == {"x": "1", "ssl": "require"}
    await database.close()


@pytest.mark.parametrize("what", ["nobody@/postgres", "postgres@/nowhere"])
async def test_unknown_to_the_server(postgres: Postgres, what: str) -> None:
    """A user or a database that PostgreSQL does not know is a matter of configuration: waiting does not help."""
    database = Database(f"postgresql+asyncpg://{what}?host={postgres.folder}")
    with pytest.raises(BadConfiguration, match="refuses the user or the database"):
        await database.migrate()
    await database.close()


@pytest.mark.parametrize("where", ["localhost:1", "/?host=/nowhere"])
async def test_no_server(where: str) -> None:
    """A PostgreSQL that is not there is unavailable."""
    database = Database(f"postgresql+asyncpg://postgres@{where}", timeout_s=2)
    with pytest.raises(StoreUnavailable) as caught:
        await database.migrate()
    assert caught.value.retry_after_s == 5
    await database.close()


async def test_silent_server() -> None:
    """A server that never answers is unavailable after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        database = Database(f"postgresql+asyncpg://postgres@{where}/d?ssl=disable", timeout_s=0.2)
        with pytest.raises(StoreUnavailable):
            await database.migrate()
        await database.close()


# transactions


async def test_all_or_none(store: Store) -> None:
    """A transaction that fails leaves nothing of what it wrote."""

    async def fail() -> None:
        async with store.database.write() as session:
            await session.execute(text(LEASE))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with store.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM lease")) == 0


async def test_one_writer(store_settings: GuardSettings, store: Store) -> None:
    """Of transactions that read, think and write none overlap, not even over several connections: nothing is lost."""
    others = [Database(store_settings.store_url) for _ in range(3)]
    await store.leases.acquire("x", "a", ttl=store.clock() - store.clock())

    async def count(database: Database) -> None:
        async with database.write() as session:
            value = await session.scalar(text("SELECT fence FROM lease"))
            await session.execute(text("UPDATE lease SET fence = :value"), {"value": value + 1})

    await asyncio.gather(*(count(database) for database in [store.database, *others] for _ in range(5)))
    async with store.database.read() as session:
        assert await session.scalar(text("SELECT fence FROM lease")) == 21
    for database in others:
        await database.close()


async def test_reads_see_one_moment(postgresql_store: Store) -> None:
    """Two questions in one reading transaction are answered as of the same moment, whatever is written between."""
    store = postgresql_store
    async with store.database.read() as session:
        count = select(func.count()).select_from(Key)
        before = await session.scalar(count)
        await store.keys.create("ann", Role.REVIEWER)
        assert await session.scalar(count) == before == 0
    assert len(await store.keys.all()) == 1


async def test_reader_cannot_write(postgresql_store: Store) -> None:
    """PostgreSQL refuses a write in a reading transaction."""
    with pytest.raises(StoreUnavailable, match="25006"):
        async with postgresql_store.database.read() as session:
            await session.execute(text("DELETE FROM lease"))


async def test_cancelled_writer(store: Store) -> None:
    """A writer that is cancelled leaves nothing behind, and its turn to the next."""
    begun = asyncio.Event()

    async def write() -> None:
        async with store.database.write() as session:
            await session.execute(text(LEASE))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await begun.wait()
    waiting = asyncio.create_task(store.keys.create("bob", Role.CLIENT))
    await asyncio.sleep(0)
    waiting.cancel()
    task.cancel()
    assert [type(r) for r in await asyncio.gather(task, waiting, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    await store.keys.create("ann", Role.CLIENT)
    async with store.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM lease")) == 0


async def test_cancelled_at_any_point(store: Store) -> None:
    """Wherever in a transaction its task is cancelled, all of it is there or none, and its locks are gone."""
    endings: list[object] = []  # whoever keeps the exception must not keep the lock
    for steps in range(0, 60, 2):
        task = asyncio.create_task(add(store, arrival(f"text {steps}", "ann")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        endings += await asyncio.gather(task, return_exceptions=True)
        assert all(text.user_hashes for text in await pooled(store))
        await add(store, arrival(f"text {steps}", "ann"))
    assert await store.pool.size() == 30
    assert any(isinstance(ending, asyncio.CancelledError) for ending in endings)


# failures


async def _count_leases(database: Database, transaction: Callable[[], Any] | None = None) -> int:
    async with (transaction or database.write)() as session:
        return int(await session.scalar(text("SELECT count(*) FROM lease")))


async def test_long_queue(database: Database) -> None:
    """Whoever waits for a turn to write longer than the time-out is told to come back."""
    await database.migrate()
    async with database.write():
        with pytest.raises(StoreUnavailable):
            async with database.write():
                pass


async def test_locked_elsewhere(database: Database, empty_url: str) -> None:
    """A database that another process keeps locked is unavailable after the time-out, and fine afterwards."""
    await database.migrate()
    other = Database(empty_url)
    cause = "locked by another process" if other.embedded else "SQLSTATE 55P03"
    async with other.write() as blocking:
        await blocking.execute(text(LEASE))
        with pytest.raises(StoreUnavailable, match=cause):
            await _count_leases(database)
    assert await _count_leases(database) == 1
    await other.close()


async def test_exclusive_lock(tmp_path: Path) -> None:
    """A SQLite file that another program holds exclusively can neither be read nor written, until it lets go."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/guard.sqlite", timeout_s=0.1)
    await database.migrate()
    other = sqlite3.connect(tmp_path / "guard.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for transaction in (database.read, database.write):
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await _count_leases(database, transaction)
    other.execute("ROLLBACK")
    other.close()
    assert await _count_leases(database) == 0
    await database.close()


async def test_busy_connections(database: Database) -> None:
    """When every connection is in use for longer than the time-out, the store is unavailable."""
    await database.migrate()
    sessions = [database.read() for _ in range(15)]  # SQLAlchemy's pool of 5, and 10 over
    for session in sessions:
        await (await session.__aenter__()).execute(text("SELECT 1"))
    with pytest.raises(StoreUnavailable, match="every connection is in use"):
        async with database.read() as late:
            await late.execute(text("SELECT 1"))
    for session in sessions:
        await session.__aexit__(None, None, None)


async def test_disk_full(sqlite_store: Store) -> None:
    """On a full disk nothing is acknowledged, nothing half-written, and all is well when there is room again."""
    store = sqlite_store
    fence = await learner(store)
    await open_batch(store, fence, "a", "b")

    def limit(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count={cursor.fetchone()[0]}")
        cursor.close()

    await store.database.engine.dispose()
    event.listen(store.database.engine.sync_engine, "connect", limit)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await add(store, *(arrival(f"text {n}", "ann") for n in range(200)))
    event.remove(store.database.engine.sync_engine, "connect", limit)
    await store.database.engine.dispose()
    assert sum((await store.pool.counts()).values()) == 2
    assert len(await label_all(store, Category.SELF_HARM, None)) == 2


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: b"garbage " * 100, "no SQLite database: restore a backup"),
        (lambda content: content[:5000], "damaged: restore a backup"),
        (lambda content: content[:4096] + b"\xff" * (len(content) - 4096), "damaged: restore a backup"),
    ],
)
async def test_damaged_file(
    guard_settings: GuardSettings, keyring: Keyring, harm: Callable[[bytes], bytes], message: str
) -> None:
    """A damaged file is refused with the remedy, and never made anew over what may yet be saved."""
    keyring.save(guard_settings.keyring_path, replace=False)
    async with open_store(guard_settings) as store:
        await add(store, arrival("a"))
    file = guard_settings.data_dir / "guard.sqlite"
    damaged = harm(file.read_bytes())
    file.write_bytes(damaged)
    with pytest.raises(StoreUnavailable, match=message):
        async with open_store(guard_settings):
            pass
    assert file.read_bytes() == damaged


async def test_deleted_file(guard_settings: GuardSettings, sqlite_store: Store) -> None:
    """When the file is deleted under a running guard, a label is refused, not acknowledged into nowhere."""
    await open_batch(sqlite_store, await learner(sqlite_store), "a")
    (guard_settings.data_dir / "guard.sqlite").unlink()
    with pytest.raises(StoreUnavailable, match="nobody has moved it"):
        await label_all(sqlite_store, Category.SELF_HARM)


async def test_errors_carry_no_values(store: Store) -> None:
    """The values of a statement that fails are in no error and no traceback."""

    async def fail() -> None:
        async with store.database.write() as session:
            await session.execute(text("SELECT * FROM nowhere WHERE x = :v"), {"v": CANARY})

    with pytest.raises((StoreUnavailable, DBAPIError)) as caught:
        await fail()
    assert CANARY not in "".join(traceback.format_exception(caught.value))


async def test_server_crash(postgresql_store: Store, postgres: Postgres) -> None:
    """When PostgreSQL dies the store is unavailable; when it is back, so is the store, with all that was acknowledged."""
    store = postgresql_store
    await add(store, arrival("a"))
    with pytest.raises(StoreUnavailable):
        await _crash_while_reading(store, postgres)
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await add(store, arrival("b"))
    finally:
        postgres.restart()
    await add(store, arrival("c"))
    assert [p.text for p in await pooled(store)] == ["a", "c"]


async def _crash_while_reading(store: Store, postgres: Postgres) -> None:
    async with store.database.read() as session:
        await session.execute(text("SELECT 1"))
        postgres.crash()
        await session.execute(text("SELECT 1"))


@pytest.mark.slow
async def test_server_freeze(postgres: Postgres) -> None:
    """When PostgreSQL stops answering the store is unavailable, soon, and again at once; afterwards it goes on."""
    name = await postgres.create()
    database = Database(GuardSettings(database_url=postgres.url(name)).store_url, timeout_s=0.2)
    await database.migrate()
    postgres.freeze()
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                await _count_leases(database)
    finally:
        postgres.thaw()
    assert await _count_leases(database) == 0
    await database.close()
    await postgres.drop(name)


async def test_reads_of_one_moment(store: Store) -> None:
    """Reads within a moment share one transaction, which sees nothing of what others write meanwhile; after it they do not."""
    async with store.database.moment():
        async with store.database.read() as first, store.database.read() as second:
            assert first is second
        assert await store.review.undoable("ann") == 0
    async with store.database.read() as session:
        assert session is not first


async def test_commits_wait_for_readers(guard_settings: GuardSettings) -> None:
    """Without WAL a commit waits for the readers of its process without polling, and goes before further ones."""
    order: list[str] = []
    database = Database(guard_settings.store_url)
    database._polls = True
    inside, leave = asyncio.Event(), asyncio.Event()

    async def read(name: str) -> None:
        async with database.read():
            inside.set()
            await leave.wait()
            order.append(name)

    async def write() -> None:
        async with database.write() as session:
            await session.execute(text("SELECT 1"))

    event.listen(database.engine.sync_engine, "commit", lambda _: order.append("committed"))
    reader = asyncio.create_task(read("first"))
    await inside.wait()
    writer = asyncio.create_task(write())
    while database._gate._open.is_set():  # noqa: ASYNC110 - nobody is told that it closes
        await asyncio.sleep(0)
    late = asyncio.create_task(read("late"))
    leave.set()
    await asyncio.gather(reader, writer, late)
    assert order == ["first", "committed", "late"]
    await database.close()
