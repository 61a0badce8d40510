"""The wire types of Lifeguard's own routes, as frozen msgspec structs; OpenAPI is made from them."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from guard.store.states import ContrastState, ContrastVerdict, CycleState
from guard.taxonomy import Action, Category

MAX_ID: Final = 2**63 - 1  # both databases count in 64 bits


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message's content; only parts of type `text` are judged."""

    type: str
    text: str = ""


class Turn(msgspec.Struct, frozen=True):
    """One turn of a chat; a turn that only calls tools has no content."""

    role: str
    content: str | list[TextPart] | None = None


class ClassifyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of `text`, `texts` and `messages`."""

    text: str | None = None
    texts: list[str] | None = None
    messages: list[Turn] | None = None
    user: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    store: bool = True
    thresholds: dict[Category, Annotated[float, msgspec.Meta(gt=0, le=1)]] | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict on one text. `scores` are those of the window that decided, of `windows` in all."""

    category: Category
    flagged: bool
    action: Action
    scores: dict[Category, float]
    uncertainty: float
    uncertain: bool
    windows: int
    action_text: str | None = None


class ClassifyResponse(msgspec.Struct, frozen=True):
    """The verdicts, all by one version, in the order of the texts."""

    id: str
    model_version: str
    results: list[Result]


class Problem(msgspec.Struct, frozen=True):
    """An error as RFC 9457 describes it; `detail` says what to do about it."""

    type: str
    title: str
    status: int
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether the guard can classify now, and what is wrong where something is."""

    ready: bool
    model_version: str | None
    problems: list[str]


class NextPick(msgspec.Struct, frozen=True):
    """A message to label. An audit is shown blind: its `scores` are null and its `reason` says only that."""

    pick_id: int
    cycle_id: int
    text: str
    reason: dict[str, Any]
    scores: dict[Category, float] | None
    model_version: str
    leased_until: datetime


class LabelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision about a pick; a `category` of null means "can't tell"."""

    pick_id: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
    category: Category | None
    idempotency_key: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,64}$")] | None = None


class Labelled(msgspec.Struct, frozen=True):
    """A recorded decision."""

    label_id: int


class Undone(msgspec.Struct, frozen=True):
    """The pick whose decision was taken back, held again by the same reviewer."""

    pick_id: int


class ContrastPair(msgspec.Struct, frozen=True):
    """A labelled message and an LLM's edit of it, which should have another category; proposed, not yet trained on."""

    id: int
    cycle_id: int
    seed: str
    seed_category: Category
    text: str
    category: Category


class ContrastRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A verdict: the edit `flips` the label to the pair's category, the seed's label still `holds`, or `unclear`."""

    contrast_id: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
    verdict: ContrastVerdict


class ContrastDecided(msgspec.Struct, frozen=True):
    """What a pair is after a verdict; only confirmed ones are trained on."""

    state: ContrastState


class BatchStatus(msgspec.Struct, frozen=True):
    """How far people are with the latest batch."""

    cycle_id: int
    state: CycleState
    strategy: str
    opened_at: datetime
    due_at: datetime
    size: int
    labelled: int
    unclear: int
    held: int
    waiting: int
