"""The databases that figures are taken on: SQLite in the guard's own folder, and a PostgreSQL that keeps what it was told."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from tests.conftest import Postgres


class DatabaseKind(StrEnum):
    """Which database a guard is measured on."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@contextmanager
def opened(kind: DatabaseKind) -> Iterator[str | None]:
    """Yield the URL of an empty database, None for the embedded one; whatever was started ends with it."""
    if kind is DatabaseKind.SQLITE:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="lifeguard-") as folder:
        server = Postgres(Path(folder), durable=True)
        try:
            yield server.url(asyncio.run(server.create()))
        finally:
            server.close()
