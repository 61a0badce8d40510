"""`POST /classify`: texts in, verdicts out."""

from collections.abc import Sequence

from litestar import Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from guard.auth import requires
from guard.errors import InputError
from guard.patience import PatientOperation
from guard.problems import described
from guard.receipts import Receipts
from guard.routes.judgement import judge
from guard.schemas import ClassifyRequest, ClassifyResponse, Turn, results
from guard.settings import GuardSettings
from guard.store.states import Role


@post(
    "/classify",
    status_code=200,
    operation_class=PatientOperation,
    guards=[requires(Role.CLIENT)],
    responses=described(400, 401, 403, 408, 413, 503),
    tags=["classify"],
    summary="Judge messages",
)
async def classify(
    request: Request[None, None, State], data: JSONBody[ClassifyRequest], state: State
) -> ClassifyResponse:
    """Judge one text, several texts, or the last user turn of a chat."""
    settings: GuardSettings = state.settings
    receipts: Receipts = state.receipts
    judged = await judge(request, _texts(data), user=data.user, store=data.store, thresholds=data.thresholds)
    return ClassifyResponse(
        id=receipts.issue("cls", judged, user=data.user, store=data.store),
        model_version=judged.model_version,
        results=results(judged, settings),
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
