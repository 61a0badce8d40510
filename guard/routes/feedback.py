"""`POST /feedback`: that an answer was wrong in, its message into the pool with a reason of its own.

See `guard.receipts` for how a report proves which answer it is about.
"""

import asyncio
from datetime import timedelta

from litestar import Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from guard.auth import Caller, requires
from guard.engine import ENCODE_INLINE_CHARS
from guard.errors import InputError, NoRoom, NotFound, Throttled
from guard.metrics import Metrics
from guard.problems import described
from guard.reading import check_length
from guard.receipts import Receipts
from guard.review_schemas import FeedbackRequest, FeedbackResponse
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.pool import FEEDBACK, NO_PROBABILITY, Arrival
from guard.store.reports import Caps
from guard.store.states import Role
from guard.text import normalise


@post(
    "/feedback",
    status_code=200,
    guards=[requires(Role.CLIENT)],
    responses=described(400, 401, 403, 404, 408, 413, 429, 503),
    tags=["classify"],
    summary="Report a wrong answer",
)
async def feedback(
    request: Request[None, None, State], data: JSONBody[FeedbackRequest], state: State
) -> FeedbackResponse:
    """Ask for a reviewer: the answer with this id was wrong. It never becomes a label by itself.

    Send the text and the user as they were judged; they are kept from now on, as a message that the guard was unsure
    about is. The same answer reported again is the same report, and what was said last stands.
    """
    metrics: Metrics = state.metrics
    try:
        return FeedbackResponse(await _report(request, data))
    except NotFound:
        metrics.feedback_refused.labels("unknown").inc()
        raise
    except Throttled:
        metrics.feedback_refused.labels("capped").inc()
        raise
    except NoRoom:
        metrics.feedback_refused.labels("no_room").inc()
        raise


async def _report(request: Request[None, None, State], data: FeedbackRequest) -> int:
    state = request.app.state
    settings: GuardSettings = state.settings
    receipts: Receipts = state.receipts
    store: Store = state.store
    metrics: Metrics = state.metrics
    caller: Caller = request.scope["state"]["caller"]
    check_length([data.text], settings.max_text_chars)
    inline = len(data.text) <= ENCODE_INLINE_CHARS
    text = normalise(data.text) if inline else await asyncio.to_thread(normalise, data.text)
    answered = receipts.read(data.id, text=text, user=data.user, index=data.index)
    if answered.at < store.clock() - timedelta(days=settings.retention_days):
        raise NotFound(
            f"This answer is more than {settings.retention_days} days old (GUARD_RETENTION_DAYS): its message may not be "
            "kept any more."
        )
    if data.category is answered.category:
        raise InputError(f"The answer was {answered.category}: say what it should have been instead, or null.")
    arrival = Arrival(
        text=text,
        user=data.user,
        reason=FEEDBACK,
        inclusion_probability=NO_PROBABILITY,
        model_version=answered.model_version,
        category=answered.category,
        scores=answered.scores,
        uncertainty=answered.uncertainty,
        seen_at=answered.at,  # what an erasure since then covers stays erased
        source="feedback",
    )
    report_id, new = await store.reports.add(
        arrival,
        answer=answered.key,
        category=data.category,
        source=data.source,
        key_name=caller.name,
        caps=Caps(settings.feedback_per_user, settings.feedback_per_key, settings.pool_max_messages),
    )
    if new:
        metrics.feedback.labels(answered.category, data.category or "unknown", data.source).inc()
    return report_id
