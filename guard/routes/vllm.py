"""`POST /v1/classify`: verdicts in the shape of vLLM's classification endpoint, which NeMo Guardrails speaks."""

import time

from litestar import Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from guard.auth import requires
from guard.dialects import Classification, ClassificationRequest, ClassificationResponse, Usage
from guard.errors import InputError
from guard.patience import PatientOperation
from guard.problems import ENVELOPED, enveloped
from guard.receipts import Receipts
from guard.routes.judgement import judge
from guard.store.states import Role
from guard.taxonomy import CATEGORIES


@post(
    "/v1/classify",
    status_code=200,
    operation_class=PatientOperation,
    guards=[requires(Role.CLIENT)],
    exception_handlers=ENVELOPED,
    responses=enveloped(400, 401, 403, 408, 413, 503),
    tags=["drop-in"],
    summary="Judge as vLLM's classification endpoint does",
)
async def vllm_classify(
    request: Request[None, None, State], data: JSONBody[ClassificationRequest]
) -> ClassificationResponse:
    """Judge a text or several.

    `label` is the verdict, by each category's own threshold: where doubt counts as harm, it is not the likeliest one.
    """
    texts = [data.input] if isinstance(data.input, str) else data.input
    if not texts:
        raise InputError("input is empty: send at least one text.")
    receipts: Receipts = request.app.state.receipts
    judged = await judge(request, texts, user=data.user, store=data.store)
    return ClassificationResponse(
        id=receipts.issue("classify", judged, user=data.user, store=data.store),
        object="list",
        created=int(time.time()),
        model=f"lifeguard-{judged.model_version}",
        data=[
            Classification(
                index=index,
                label=verdict.category,
                probs=[round(score, 6) for score in verdict.scores],
                num_classes=len(CATEGORIES),
            )
            for index, verdict in enumerate(judged.verdicts)
        ],
        usage=Usage(prompt_tokens=judged.tokens, total_tokens=judged.tokens),
    )
