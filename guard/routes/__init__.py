"""The HTTP resources, one module each. A handler parses, asks the engine or the store, and answers."""

from litestar.types import ControllerRouterHandler

from guard.review.agreement import AgreementController
from guard.review.doubts import DoubtsController
from guard.review.guideline import GuidelineController
from guard.review.label import LabelController
from guard.review.ledger import LedgerController
from guard.review.login import LoginController
from guard.review.loop import LoopController
from guard.review.variations import VariationController
from guard.routes.classify import classify
from guard.routes.feedback import feedback
from guard.routes.health import healthz, metrics, readyz
from guard.routes.litellm import litellm_guardrail
from guard.routes.moderations import moderations
from guard.routes.review import ReviewController
from guard.routes.vllm import vllm_classify

ROUTES: list[ControllerRouterHandler] = [
    classify,
    moderations,
    litellm_guardrail,
    vllm_classify,
    feedback,
    healthz,
    readyz,
    metrics,
    ReviewController,
    LoginController,
    LabelController,
    AgreementController,
    DoubtsController,
    GuidelineController,
    LedgerController,
    LoopController,
    VariationController,
]
