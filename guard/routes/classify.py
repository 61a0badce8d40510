"""`POST /classify`: texts in, verdicts out."""

import secrets
from collections.abc import Sequence

from litestar import Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from guard.auth import requires
from guard.engine import Engine
from guard.errors import InputError
from guard.intake import Intake
from guard.metrics import Metrics
from guard.patience import Patience, PatientOperation
from guard.problems import described
from guard.schemas import ClassifyRequest, ClassifyResponse, Result, Turn
from guard.settings import GuardSettings
from guard.shadow import Shadow
from guard.store.states import Role
from guard.taxonomy import CATEGORIES


@post(
    "/classify",
    status_code=200,
    guards=[requires(Role.CLIENT)],
    responses=described(400, 401, 403, 408, 413, 503),
    tags=["classify"],
    summary="Judge messages",
    operation_class=PatientOperation,
)
async def classify(
    request: Request[None, None, State], data: JSONBody[ClassifyRequest], state: State
) -> ClassifyResponse:
    """Judge one text, several texts, or the last user turn of a chat."""
    engine: Engine = state.engine
    intake: Intake = state.intake
    metrics: Metrics = state.metrics
    shadow: Shadow = state.shadow
    settings: GuardSettings = state.settings
    texts = _texts(data)
    with Patience(request.scope, request.receive, limit_ms=settings.deadline_ms) as deadline_s:
        judged = await engine.classify(texts, data.thresholds, deadline_s=deadline_s)
    if data.store:
        intake.offer(judged, user=data.user)
    shadow.offer(judged, thresholds=data.thresholds, user=data.user, store=data.store)
    metrics.observe_verdicts(judged.verdicts, settings.actions)
    request.scope["state"]["model_version"] = judged.model_version
    return ClassifyResponse(
        id=f"cls-{secrets.token_hex(12)}",
        model_version=judged.model_version,
        results=[
            Result(
                category=verdict.category,
                flagged=verdict.flagged,
                action=settings.action(verdict.category),
                action_text=settings.action_texts.get(verdict.category),
                scores={c: round(s, 6) for c, s in zip(CATEGORIES, verdict.scores, strict=True)},
                uncertainty=round(verdict.uncertainty, 6),
                uncertain=intake.uncertain(verdict.uncertainty),
                windows=windows,
            )
            for verdict, windows in zip(judged.verdicts, judged.windows, strict=True)
        ],
    )


def _texts(data: ClassifyRequest) -> list[str]:
    given = [name for name in ("text", "texts", "messages") if getattr(data, name) is not None]
    if len(given) != 1:
        raise InputError(
            f"Send exactly one of text, texts and messages; this request has {', '.join(given) or 'none'}."
        )
    if data.text is not None:
        return [data.text]
    if data.texts is not None:
        if not data.texts:
            raise InputError("texts is empty: send at least one.")
        return data.texts
    return [_last_user_turn(data.messages or [])]


def _last_user_turn(messages: Sequence[Turn]) -> str:
    for turn in reversed(messages):
        if turn.role == "user":
            if isinstance(turn.content, str):
                return turn.content
            return "\n".join(part.text for part in turn.content or () if part.type == "text")
    raise InputError('messages has no turn with the role "user": there is nothing to judge.')
