"""The application: wiring only. Resources are opened and closed in one place, in reverse order."""

import asyncio
import contextlib
import gc
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from guard import logs
from guard.auth import Access
from guard.body import StrictRequest
from guard.docs import OPENAPI, static_files
from guard.door import Door
from guard.engine import Engine
from guard.errors import LifeguardError
from guard.exports import Exports
from guard.intake import Intake
from guard.loop import LoopGauges
from guard.metrics import Metrics
from guard.problems import HANDLERS
from guard.receipts import Receipts
from guard.routes import ROUTES
from guard.server import LEAVE, end_with_parent
from guard.settings import GuardSettings
from guard.shadow import Shadow
from guard.store import open_store
from guard.watcher import Watcher

if TYPE_CHECKING:
    from guard.traces import Traces

RESTART_S: Final = 1.0  # before a background task that failed begins again

_log = structlog.get_logger()


def create_app(settings: GuardSettings | None = None, traces: "Traces | None" = None) -> Litestar:
    """Return the application; its resources are opened when it starts, and its spans, if any, sent when it ends."""
    chosen = settings or GuardSettings()
    metrics = Metrics()
    metrics.set_limits(chosen)

    @asynccontextmanager
    async def resources(app: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if traces is not None:
                stack.push_async_callback(asyncio.to_thread, traces.close)
            store = await stack.enter_async_context(open_store(chosen))
            access = Access(store, chosen.host)
            await access.open()
            engine = Engine(chosen, metrics, tracer=traces)
            stack.push_async_callback(asyncio.to_thread, engine.close)
            intake = Intake(store, chosen, metrics, clock=store.clock, tracer=traces)
            stack.push_async_callback(intake.close)
            gauges = LoopGauges(store, metrics)
            stack.push_async_callback(gauges.close)
            exports = Exports(chosen.exports_dir)
            watcher = Watcher(engine, exports, chosen, metrics)
            await watcher.look()
            shadow = Shadow(engine, intake, exports, chosen, metrics)
            stack.push_async_callback(asyncio.to_thread, shadow.close)
            for work in (access.run, intake.run, watcher.run, shadow.run):
                stack.push_async_callback(_cancel, asyncio.create_task(_keep(work)))
            app.state.update(
                settings=chosen,
                metrics=metrics,
                store=store,
                access=access,
                engine=engine,
                intake=intake,
                watcher=watcher,
                shadow=shadow,
                gauges=gauges,
                receipts=Receipts(store.keyring, store.clock),
                leaving=False,
            )
            yield

    return Litestar(
        route_handlers=[*ROUTES, static_files],
        lifespan=[resources],
        exception_handlers=HANDLERS,
        openapi_config=OPENAPI,
        request_class=StrictRequest,
        request_max_body_size=chosen.max_body_bytes,
        logging_config=None,
        debug=False,
    )


def serve_app() -> ASGIApp:
    """Return what the server runs: the application inside its recorder."""
    end_with_parent()
    settings = GuardSettings()
    logs.configure(settings.log_level)
    traces = _open_traces()
    recorder = Recorder(create_app(settings, traces))
    gc.freeze()  # 150,000 objects that stay: a full collection, as after each swap, stops all for 0.1 ms, not 70
    return recorder if traces is None else traces.around(recorder)


def _open_traces() -> "Traces | None":
    """Return what makes spans where OpenTelemetry's variables name an endpoint; else none of it is imported."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not any(map(os.environ.get, endpoints)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from guard.traces import Traces
    except ImportError as error:  # variables set for a whole cluster must not keep a guard from serving
        _log.warning("untraced", missing=error.name, remedy="pip install 'lifeguard[otel]'")
        return None
    return Traces()


class Recorder:
    """Counts, times and logs every request, one line each, including those no route takes.

    Args:
        app: The application; its metrics are in its state once it has started.
    """

    def __init__(self, app: Litestar) -> None:
        self._app = app
        self._door = Door(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._live(scope, receive, send)
            return
        began = time.monotonic()
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {}).update(began=began, request_id=request_id)
        status = 500

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._door(scope, receive, record_status)
        finally:
            self._record(scope, request_id, status, time.monotonic() - began)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and end the application, and say why where it cannot; told that it will leave, it is not ready any more."""
        asyncio.get_running_loop().add_signal_handler(LEAVE, self._leave)
        try:
            await self._app(scope, receive, send)
        except LifeguardError as error:
            _log.error("not_serving", reason=error.detail)
            raise
        except Exception as error:
            _log.error("not_serving", error=type(error).__name__, frames=logs.frames(error))
            raise

    def _leave(self) -> None:
        self._app.state.leaving = True
        _log.info("leaving")

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


async def _keep(work: Callable[[], Awaitable[None]]) -> None:
    """Do work that never ends by itself; if it fails after all, say so and begin again."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - a task that ended unseen would leave the guard on an old model or key
            _log.error("task_failed", task=work.__qualname__, error=type(error).__name__, frames=logs.frames(error))
        await asyncio.sleep(RESTART_S)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
