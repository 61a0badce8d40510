"""The application: wiring only. Resources are opened and closed in one place, in reverse order."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from guard import logs
from guard.auth import Access
from guard.docs import OPENAPI, static_files
from guard.engine import Engine
from guard.exports import Exports
from guard.intake import Intake
from guard.loop import LoopGauges
from guard.metrics import Metrics
from guard.problems import HANDLERS
from guard.routes import ROUTES
from guard.settings import GuardSettings
from guard.store import open_store
from guard.watcher import Watcher

_log = structlog.get_logger()


def create_app(settings: GuardSettings | None = None) -> Litestar:
    """Return the application; its resources are opened when it starts."""
    chosen = settings or GuardSettings()
    metrics = Metrics()

    @asynccontextmanager
    async def resources(app: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(chosen))
            access = Access(store, chosen.host)
            await access.open()
            engine = Engine(chosen, metrics)
            stack.push_async_callback(asyncio.to_thread, engine.close)
            intake = Intake(store, chosen, metrics, clock=store.clock)
            stack.push_async_callback(intake.flush)
            watcher = Watcher(engine, Exports(chosen.exports_dir), chosen, metrics)
            await watcher.look()
            for task in (intake.run(), watcher.run()):
                stack.push_async_callback(_cancel, asyncio.create_task(task))
            app.state.update(
                settings=chosen,
                metrics=metrics,
                store=store,
                access=access,
                engine=engine,
                intake=intake,
                watcher=watcher,
                gauges=LoopGauges(store, metrics),
            )
            yield

    return Litestar(
        route_handlers=[*ROUTES, static_files],
        lifespan=[resources],
        exception_handlers=HANDLERS,  # type: ignore[arg-type]
        openapi_config=OPENAPI,
        request_max_body_size=chosen.max_body_bytes,
        logging_config=None,
        debug=False,
    )


def serve_app() -> ASGIApp:
    """Return what the server runs: the application inside its recorder."""
    settings = GuardSettings()
    logs.configure(settings.log_level)
    return Recorder(create_app(settings))


class Recorder:
    """Counts, times and logs every request, one line each, including those no route takes.

    Args:
        app: The application; its metrics are in its state once it has started.
    """

    def __init__(self, app: Litestar) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = secrets.token_hex(8)
        status = 500

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, record_status)
        finally:
            self._record(scope, request_id, status, time.monotonic() - began)

    def _record(self, scope: HTTPScope, request_id: str, status: int, seconds: float) -> None:
        # only paths and methods of our own become labels: what a caller invents would grow the series without end
        route = scope.get("path_template") or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics: Metrics = self._app.state.metrics
        metrics.requests.labels(method, route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        state: dict[str, Any] = scope.get("state") or {}
        caller = state.get("caller")
        _log.info(
            "request",
            id=request_id,
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            caller=caller.name if caller else None,
            model_version=state.get("model_version"),
        )


_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
