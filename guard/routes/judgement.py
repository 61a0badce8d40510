"""What every route that judges does between its own parsing and its own answer: engine, pool, shadow, metrics, log."""

from collections.abc import Mapping, Sequence

from litestar import Request
from litestar.datastructures import State

from guard.engine import Engine, Judged
from guard.intake import Intake
from guard.metrics import Metrics
from guard.patience import Patience
from guard.settings import GuardSettings
from guard.shadow import Shadow
from guard.taxonomy import Category


async def judge(
    request: Request[None, None, State],
    texts: Sequence[str],
    *,
    user: str | None,
    store: bool,
    call: str | None = None,
    thresholds: Mapping[Category, float] | None = None,
) -> Judged:
    """Judge texts, offer them to the pool, count the verdicts, and note them for the log and the trace.

    Args:
        request: Whose texts they are.
        texts: As users sent them, at least one.
        user: The caller's opaque user id.
        store: Whether the texts may enter the pool.
        call: The id of the call that brings them; what a call brings again enters the pool once.
        thresholds: Override the export's, category by category.

    Raises:
        LifeguardError: There is no verdict; see `Engine.classify` and `Patience`.
    """
    state = request.app.state
    engine: Engine = state.engine
    intake: Intake = state.intake
    metrics: Metrics = state.metrics
    shadow: Shadow = state.shadow
    settings: GuardSettings = state.settings
    with Patience(request.scope, request.receive, limit_ms=settings.deadline_ms) as deadline_s:
        judged = await engine.classify(texts, thresholds, deadline_s=deadline_s)
    if store:
        intake.offer(judged, user=user, call=call)
    shadow.offer(judged, thresholds=thresholds, user=user, store=store)
    metrics.observe_verdicts(judged.verdicts, settings.actions)
    request.scope["state"].update(judged=judged, model_version=judged.model_version)
    return judged
