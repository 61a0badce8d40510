"""The wire types of `/review` and `/feedback`, as frozen msgspec structs; OpenAPI is made from them."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from guard.schemas import User
from guard.store.review import Held
from guard.store.states import CycleState, ReportSource
from guard.taxonomy import Category

MAX_ID: Final = 2**63 - 1  # both databases count in 64 bits


class NextPick(msgspec.Struct, frozen=True):
    """A message to label. An audit is shown blind: its `scores` are null and its `reason` says only that.

    What those who reported a verdict as wrong take the message for stands in no `reason`: it is told after the decision.
    """

    pick_id: int
    cycle_id: int
    text: str
    reason: dict[str, Any]
    scores: dict[Category, float] | None
    model_version: str
    leased_until: datetime


def next_pick(held: Held) -> NextPick:
    """Return what a reviewer may see of a message they hold."""
    return NextPick(
        pick_id=held.pick_id,
        cycle_id=held.cycle_id,
        text=held.text,
        reason={"audit": True} if held.audit else {n: v for n, v in held.reason.items() if n != "should_be"},
        scores=None if held.audit else held.scores,
        model_version=held.model_version,
        leased_until=held.leased_until,
    )


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


class BatchStatus(msgspec.Struct, frozen=True):
    """How far people are with the latest batch: `waiting` lack opinions, though `begun` of them have one already."""

    cycle_id: int
    state: CycleState
    strategy: str
    opened_at: datetime
    due_at: datetime
    size: int
    labelled: int
    unclear: int
    contested: int
    begun: int
    held: int
    waiting: int


class FeedbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That an answer was wrong, and what it should have been; a `category` of null means "wrong, but I can't say what".

    `text` and `user` are those that were judged, sent again: the guard has not kept them. `index` is the text's place
    where the request had several.
    """

    id: str
    text: str
    category: Category | None
    source: ReportSource
    user: User | None = None
    index: Annotated[int, msgspec.Meta(ge=0)] = 0


class FeedbackResponse(msgspec.Struct, frozen=True):
    """A report that is on disk."""

    report_id: int
