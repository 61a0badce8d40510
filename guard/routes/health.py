"""`/healthz`, `/readyz`, `/metrics`: open to whoever reaches the port, and free of texts."""

from litestar import MediaType, Response, get
from litestar.datastructures import State
from litestar.openapi import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST

from guard.engine import Engine
from guard.loop import LoopGauges
from guard.metrics import Metrics
from guard.schemas import Readiness
from guard.watcher import Watcher


@get("/healthz", media_type=MediaType.TEXT, tags=["operate"], summary="Whether the process lives")
async def healthz() -> str:
    """Answer as long as the event loop turns."""
    return "ok"


@get(
    "/readyz",
    responses={503: ResponseSpec(Readiness, description="Service Unavailable", generate_examples=False)},
    tags=["operate"],
    summary="Whether it can classify",
)
async def readyz(state: State) -> Response[Readiness]:
    """Answer 200 when a model is loaded, its workers run, and it is not about to end, else 503 with what is wrong.

    A champion that does not load is named while the one before it stays in service and ready.
    """
    engine: Engine = state.engine
    watcher: Watcher = state.watcher
    problem = "the guard is shutting down" if state.leaving else engine.problem
    ready = problem is None
    body = Readiness(
        ready=ready,
        model_version=engine.bundle.version if engine.bundle else None,
        problems=[problem for problem in (problem, watcher.problem) if problem],
    )
    return Response(body, status_code=200 if ready else 503, headers={} if ready else {"Retry-After": "5"})


@get("/metrics", media_type=CONTENT_TYPE_LATEST, tags=["operate"], summary="Every series, for Prometheus")
async def metrics(state: State) -> Response[bytes]:
    """Return the exposition, with the loop's gauges read from the store."""
    registry: Metrics = state.metrics
    engine: Engine = state.engine
    watcher: Watcher = state.watcher
    gauges: LoopGauges = state.gauges
    await gauges.refresh()
    registry.ready.set(engine.problem is None and not state.leaving)
    registry.champion_followed.set(watcher.problem is None)
    registry.queue_tokens.set(engine.queue_tokens)
    return Response(registry.render())
