"""The wire types of other people's APIs that the guard speaks: OpenAI's moderation, LiteLLM's guardrail, vLLM's classes.

Their clients send fields that mean nothing here, and new ones with every release: unknown fields are let pass.
"""

from typing import Any, Final, Literal

import msgspec

from guard.schemas import TextPart, User
from guard.taxonomy import HARMFUL, Category

# OpenAI's thirteen categories: a client that validates strictly fails where one is missing
OFFICIAL: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
COVERED: Final = tuple(str(category) for category in HARMFUL)


class ModerationRequest(msgspec.Struct, frozen=True):
    """A text, several texts, or the parts of one message; `user` and `store` are Lifeguard's own, `model` is ignored."""

    input: str | list[str | TextPart]
    model: str | None = None
    user: User | None = None
    store: bool = True


class Moderation(msgspec.Struct, frozen=True):
    """The verdict on one text, in three maps over the same categories."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationResponse(msgspec.Struct, frozen=True):
    """The verdicts in the order of the texts; `model` names the version that gave them."""

    id: str
    model: str
    results: list[Moderation]


class Fault(msgspec.Struct, frozen=True):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class FaultEnvelope(msgspec.Struct, frozen=True):
    """An error as OpenAI's clients expect it."""

    error: Fault


class GuardrailTurn(msgspec.Struct, frozen=True):
    """One turn of a chat as LiteLLM passes it on; parts may be of any provider's kinds."""

    role: str
    content: str | list[str | dict[str, Any]] | None = None


class GuardrailCaller(msgspec.Struct, frozen=True):
    """Who made the call, as far as it is used here."""

    user_api_key_end_user_id: str | None = None


class GuardrailParams(msgspec.Struct, frozen=True):
    """What LiteLLM's configuration adds to each request."""

    store: bool = True


class GuardrailRequest(msgspec.Struct, frozen=True):
    """A request to an LLM, or its response, as LiteLLM shows it to a guardrail."""

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    structured_messages: list[GuardrailTurn] | None = None
    litellm_call_id: str | None = None
    request_data: GuardrailCaller | None = None
    additional_provider_specific_params: GuardrailParams | None = None


class GuardrailResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether LiteLLM lets the call go on, and what it says where it does not."""

    action: Literal["BLOCKED", "NONE"]
    blocked_reason: str | None = None


class ClassificationRequest(msgspec.Struct, frozen=True):
    """A text or several; `store` is Lifeguard's own, `model` is ignored."""

    input: str | list[str]
    model: str | None = None
    user: User | None = None
    store: bool = True


class Classification(msgspec.Struct, frozen=True):
    """The verdict on one text: its category, and six probabilities in the order of the taxonomy."""

    index: int
    label: Category
    probs: list[float]
    num_classes: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ClassificationResponse(msgspec.Struct, frozen=True):
    """The verdicts in the order of the texts; `model` names the version that gave them."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Classification]
    usage: Usage
