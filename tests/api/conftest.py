"""The application in this process, over HTTP's own messages but without a socket, and one real server a session."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar

from guard.app import Recorder, create_app
from guard.engine import Engine
from guard.exports import Exports
from guard.intake import Intake
from guard.metrics import Metrics
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.keyring import Keyring
from guard.watcher import Watcher
from tests.served import served
from tests.toys import publish_toy

__all__ = ["served"]

DATABASE = "guard.sqlite"


@dataclass(frozen=True)
class Running:
    """An application that has started, and a client of it."""

    app: Litestar
    client: httpx.AsyncClient

    @property
    def engine(self) -> Engine:
        """Its engine."""
        engine: Engine = self.app.state.engine
        return engine

    @property
    def intake(self) -> Intake:
        """Its way into the pool."""
        intake: Intake = self.app.state.intake
        return intake

    @property
    def store(self) -> Store:
        """Its store."""
        store: Store = self.app.state.store
        return store

    @property
    def watcher(self) -> Watcher:
        """Its watcher."""
        watcher: Watcher = self.app.state.watcher
        return watcher

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a series."""
        metrics: Metrics = self.app.state.metrics
        return metrics.registry.get_sample_value(name, labels) or 0.0

    async def classify(self, **body: Any) -> httpx.Response:
        """Post a body to /classify."""
        return await self.client.post("/classify", json=body)


Serve = Callable[[GuardSettings], AbstractAsyncContextManager[Running]]


@asynccontextmanager
async def _run(settings: GuardSettings) -> AsyncIterator[Running]:
    app = create_app(settings)
    started, ended = asyncio.Event(), asyncio.Event()

    async def live() -> None:  # a task of its own: what the lifespan opens must be closed by the task that opened it
        async with app.lifespan():
            started.set()
            await ended.wait()

    life = asyncio.create_task(live())
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({life, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set():
        waiting.cancel()
        await life
    transport = httpx.ASGITransport(Recorder(app), raise_app_exceptions=False)  # type: ignore[arg-type]
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield Running(app, client)
    finally:
        ended.set()
        await life


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the schema and no rows, to be copied: making it anew takes a tenth of a second a test."""
    settings = GuardSettings(data_dir=tmp_path_factory.mktemp("empty"))

    async def make() -> None:
        async with open_store(settings, create_keyring=True):
            pass

    asyncio.run(make())
    return settings.data_dir / DATABASE


@pytest.fixture
def serve(guard_settings: GuardSettings, keyring: Keyring, empty_database: Path) -> Serve:
    """Give what starts the application with some settings, to be used in an `async with`."""
    keyring.save(guard_settings.keyring_path, replace=False)
    shutil.copy(empty_database, guard_settings.data_dir / DATABASE)
    return _run


@pytest.fixture
def exports(guard_settings: GuardSettings) -> Exports:
    """The exports of `guard_settings`, still empty."""
    return Exports(guard_settings.exports_dir)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def resident(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """The application on SQLite with a toy champion and without keys, for tests of a module that leave it as it is.

    They need `pytestmark = pytest.mark.asyncio(loop_scope="module")`.
    """
    folder = tmp_path_factory.mktemp("resident")
    settings = GuardSettings(data_dir=folder / "var", exports_dir=folder / "exports", learner=False, threads=1)
    Keyring.load(settings, create=True)
    publish_toy(Exports(settings.exports_dir))
    async with _run(settings) as started:
        yield started


@pytest.fixture
async def running(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> AsyncIterator[Running]:
    """The application on SQLite with a toy champion and without keys."""
    publish_toy(exports)
    async with serve(guard_settings) as started:
        yield started


@pytest.fixture
async def running_on_both(serve: Serve, store_settings: GuardSettings, exports: Exports) -> AsyncIterator[Running]:
    """The application with a toy champion and without keys, once on each kind of database."""
    publish_toy(exports)
    async with serve(store_settings) as started:
        yield started


def update(settings: GuardSettings, **changes: Any) -> GuardSettings:
    """Return settings with some of them changed, validated."""
    return GuardSettings.model_validate({**settings.model_dump(), **changes})
