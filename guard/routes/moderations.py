"""`POST /v1/moderations`: verdicts in the shape of OpenAI's moderation endpoint, for every client of it."""

import time
from typing import Final, cast

from litestar import Request, post
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.params import FromQuery, JSONBody
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from guard.auth import requires
from guard.decision import Verdict
from guard.dialects import COVERED, OFFICIAL, Moderation, ModerationRequest, ModerationResponse
from guard.errors import InputError
from guard.patience import PatientOperation
from guard.problems import ENVELOPED, enveloped
from guard.receipts import Receipts
from guard.routes.judgement import judge
from guard.schemas import TextPart
from guard.store.states import Role
from guard.taxonomy import CATEGORIES

_ALL: Final = (*OFFICIAL, *(name for name in COVERED if name not in OFFICIAL))


class _Stopwatch(ASGIMiddleware):
    """Says in each answer how long it took, as OpenAI does."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Serve one request."""
        began = time.monotonic()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = str(round((time.monotonic() - began) * 1000)).encode()
                message["headers"] = [*message["headers"], (b"openai-processing-ms", took)]
            await send(message)

        await next_app(scope, receive, timed)


@post(
    "/v1/moderations",
    status_code=200,
    operation_class=PatientOperation,
    guards=[requires(Role.CLIENT)],
    middleware=[_Stopwatch()],
    exception_handlers=ENVELOPED,
    responses=enveloped(400, 401, 403, 408, 413, 503),
    tags=["drop-in"],
    summary="Judge as OpenAI's moderation endpoint does",
)
async def moderations(
    request: Request[None, None, State],
    data: JSONBody[ModerationRequest],
    strict_categories: FromQuery[bool] = True,  # noqa: FBT002 - Litestar passes it by name
) -> ModerationResponse:
    """Judge a text, several texts, or the text parts of one message; images are not looked at.

    Hate, harassment, sexual content, violence and illicit advice are not covered: these categories are there because
    clients need them, always false and 0.0. With `strict_categories=false` only the five covered ones are given.
    """
    receipts: Receipts = request.app.state.receipts
    judged = await judge(request, _texts(data.input), user=data.user, store=data.store)
    names = _ALL if strict_categories else COVERED
    return ModerationResponse(
        id=receipts.issue("modr", judged, user=data.user, store=data.store),
        model=f"lifeguard-{judged.model_version}",
        results=[_moderation(verdict, names) for verdict in judged.verdicts],
    )


def _texts(given: str | list[str | TextPart]) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not given:
        raise InputError("input is empty: send at least one text.")
    if all(isinstance(item, str) for item in given):
        return cast("list[str]", given)
    if any(isinstance(item, str) for item in given):
        raise InputError("input mixes texts with parts of a message: send a list of one kind.")
    texts = [part.text for part in cast("list[TextPart]", given) if part.type == "text"]
    if not texts:
        raise InputError('input has no part of the type "text", and only texts are judged: leave images out.')
    return ["\n".join(texts)]  # the parts of one message get one verdict


def _moderation(verdict: Verdict, names: tuple[str, ...]) -> Moderation:
    scores = dict(zip(map(str, CATEGORIES), verdict.scores, strict=True))
    return Moderation(
        flagged=verdict.flagged,
        categories={name: verdict.flagged and name == verdict.category for name in names},
        category_scores={name: round(scores.get(name, 0.0), 6) for name in names},
        category_applied_input_types={name: ["text"] for name in names},
    )
