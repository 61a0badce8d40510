"""`/review/…` as JSON: the next message, a decision, its undoing, and how far the batch is."""

from dataclasses import asdict
from typing import Final

from litestar import Controller, Response, get, post
from litestar.datastructures import State
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody

from guard.errors import NotFound
from guard.problems import described
from guard.review.identity import DeskRequest, caller_of, reviewing
from guard.review_schemas import (
    BatchStatus,
    Labelled,
    LabelRequest,
    NextPick,
    Undone,
    next_pick,
)
from guard.store import Store

_NONE: Final = {204: ResponseSpec(None, description="No message waits", generate_examples=False)}


def _reviewer(request: DeskRequest) -> str:
    return caller_of(request).name


class ReviewController(Controller):
    """What a reviewer does by a program; the key's name is the reviewer's. A session works too, with its CSRF token."""

    path = "/review"
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    tags = ["review"]  # noqa: RUF012

    @post("/next", status_code=200, responses=_NONE | described(401, 403, 503), summary="Hold the next message")
    async def next(self, request: DeskRequest, state: State) -> Response[NextPick | None]:
        """Lease a message to the reviewer: the one they hold already, else the next. 204 when none waits."""
        store: Store = state.store
        held = await store.review.next(_reviewer(request))
        if held is None:
            return Response(None, status_code=204)
        return Response(next_pick(held), headers={"Cache-Control": "no-store"})

    @post(
        "/labels",
        status_code=201,
        responses=described(400, 401, 403, 404, 408, 409, 413, 503),
        summary="Decide about a message",
    )
    async def label(self, request: DeskRequest, data: JSONBody[LabelRequest], state: State) -> Labelled:
        """Record a category, or null for "can't tell". The answer means that the label is on disk."""
        store: Store = state.store
        label_id = await store.review.label(
            data.pick_id, reviewer=_reviewer(request), category=data.category, idempotency_key=data.idempotency_key
        )
        return Labelled(label_id)

    @post(
        "/undo", status_code=200, responses=described(401, 403, 404, 409, 503), summary="Take back the latest decision"
    )
    async def undo(self, request: DeskRequest, state: State) -> Undone:
        """Take back the reviewer's latest decision in the open batch and hold its message again."""
        store: Store = state.store
        return Undone(await store.review.undo(_reviewer(request)))

    @get("/batch", responses=described(401, 403, 404, 503), summary="How far the batch is")
    async def batch(self, state: State) -> BatchStatus:
        """Return the state and the counts of the latest batch."""
        store: Store = state.store
        batch = await store.review.batch()
        if batch is None:
            raise NotFound("No batch was opened yet: the pool is still filling.")
        return BatchStatus(**asdict(batch), waiting=batch.waiting)
