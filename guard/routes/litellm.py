"""`POST /beta/litellm_basic_guardrail_api`: whether LiteLLM's proxy lets a request or a response pass."""

from typing import Final

from litestar import Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from guard.auth import requires
from guard.dialects import GuardrailParams, GuardrailRequest, GuardrailResponse, GuardrailTurn
from guard.patience import PatientOperation
from guard.problems import described
from guard.receipts import Receipts
from guard.routes.judgement import judge
from guard.settings import GuardSettings
from guard.store.states import Role
from guard.taxonomy import Action

_SEVERITY: Final = {action: rank for rank, action in enumerate(Action)}


@post(
    "/beta/litellm_basic_guardrail_api",
    status_code=200,
    operation_class=PatientOperation,
    guards=[requires(Role.CLIENT)],
    responses=described(400, 401, 403, 408, 413, 503),
    tags=["drop-in"],
    summary="Judge as a guardrail of LiteLLM",
)
async def litellm_guardrail(request: Request[None, None, State], data: JSONBody[GuardrailRequest]) -> GuardrailResponse:
    """Judge what a user asks, or what the LLM answers; the worst verdict decides.

    Of a chat the user's last turns are judged, of anything else all texts; images and tool calls are not looked at.
    Responses are never kept, and a call that is sent again enters the pool once.
    """
    texts = [text for text in _texts(data) if text.strip()]
    if not texts:
        return GuardrailResponse("NONE")  # a turn of images, or a call of tools: there is nothing that could be judged
    receipts: Receipts = request.app.state.receipts
    user = (data.request_data and data.request_data.user_api_key_end_user_id) or None
    params = data.additional_provider_specific_params or GuardrailParams()
    store = params.store and data.input_type == "request"  # the pool is of what people write
    judged = await judge(request, texts, user=user, store=store, call=data.litellm_call_id)
    settings: GuardSettings = request.app.state.settings
    worst = max(judged.verdicts, key=lambda verdict: _SEVERITY[settings.action(verdict.category)])
    action = settings.action(worst.category)
    if _SEVERITY[action] < _SEVERITY[settings.block_from]:
        return GuardrailResponse("NONE")
    words = settings.action_texts.get(worst.category, "Lifeguard holds this back: it needs care before an answer.")
    answer = receipts.issue("grd", judged, user=user, store=store)
    request_id = request.scope["state"]["request_id"]
    return GuardrailResponse("BLOCKED", f"{words} [{worst.category}, {action}, request {request_id}, answer {answer}]")


def _texts(data: GuardrailRequest) -> list[str]:
    if data.input_type == "request":
        turns = _last_user_turns(data.structured_messages or [])
        if turns:
            return [_content(turn) for turn in turns]
    return data.texts or []


def _last_user_turns(messages: list[GuardrailTurn]) -> list[GuardrailTurn]:
    """Return the last turns of the user that follow one another; what came before was judged in its own call."""
    turns: list[GuardrailTurn] = []
    for turn in reversed(messages):
        if turn.role == "user":
            turns.append(turn)
        elif turns:
            break
    return turns[::-1]


def _content(turn: GuardrailTurn) -> str:
    if isinstance(turn.content, str):
        return turn.content
    parts = (part if isinstance(part, str) else part.get("text") for part in turn.content or ())
    return "\n".join(part for part in parts if isinstance(part, str))
