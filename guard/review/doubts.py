"""`/review/doubts`: labels that models disagree with, for somebody else to look at again; to keep them or to change them."""

from typing import Any, Final

import msgspec
from litestar import Controller, Response, get, post
from litestar.datastructures import State

from guard.errors import Conflict, NotFound
from guard.review.guideline import Section, between
from guard.review.identity import DeskRequest, caller_of, read_form, reviewing, session_of
from guard.review.label import category_of, count_hard_text, pick_id_of
from guard.review.page import PROBLEMS, answer, is_page, is_part, redirect
from guard.store import Store
from guard.store.doubts import Doubted
from guard.taxonomy import GRAVE, Category

PAGE: Final = "/review/doubts"


class SecondLook(msgspec.Struct, frozen=True):
    """A label to look at again.

    Args:
        category: The label. Who gave it is not said.
        opinion: What models that never saw it take the message for, with this mean probability.
        boundary: What the guideline says about where the two meet.
    """

    pick_id: int
    text: str
    category: Category
    opinion: Category
    probability: float
    boundary: tuple[Section, ...]


class DoubtsPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Args:
        look: The label to look at again; None when none waits for this reviewer.
        covered: Whether its text is shown only when asked for.
        waiting: How many wait for this reviewer, this one included.
        undoable: How many second looks can be taken back.
        hard_texts: How many in this session were self-harm or an emergency, by this reviewer's label.
        said: What has just been done.
        reminder: That it is time for a break.
    """

    look: SecondLook | None
    covered: bool
    waiting: int
    undoable: int
    hard_texts: int
    said: str = ""
    reminder: bool = False


class DoubtsController(Controller):
    """Second looks."""

    path = PAGE
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/")
    async def show(self, request: DeskRequest, state: State) -> Response[Any]:
        """Show the next label to look at again."""
        return await _show(request, state.store)

    @post("/", status_code=200)
    async def settle(self, request: DeskRequest, state: State) -> Response[Any]:
        """Keep the label, change it, or say that nobody can tell from the text; then the next one."""
        store: Store = state.store
        form = await read_form(request)
        category = category_of(form)
        try:
            await store.doubts.settle(pick_id_of(form), reviewer=caller_of(request).name, category=category)
        except (Conflict, NotFound) as error:
            return await _show(request, store, said=error.detail, status=error.status)
        hard = category in GRAVE and await count_hard_text(request, store)
        said = "The label stays: can't tell." if category is None else f"Settled as {category}."
        said += " This may be a good moment for a break." if hard else ""
        return await _on(request, store, said, reminder=hard)

    @post("/undo", status_code=200)
    async def undo(self, request: DeskRequest, state: State) -> Response[Any]:
        """Take back the latest second look."""
        store: Store = state.store
        try:
            await store.doubts.undo(caller_of(request).name)
        except NotFound as error:
            return await _show(request, store, said=error.detail, status=error.status)
        return await _on(request, store, "Undone: it waits again.")

    @post("/pass", status_code=200)
    async def hand_on(self, request: DeskRequest, state: State) -> Response[Any]:
        """Leave the label to another reviewer and show the next one."""
        store: Store = state.store
        try:
            await store.doubts.hand_on(pick_id_of(await read_form(request)), caller_of(request).name)
        except (Conflict, NotFound) as error:
            return await _show(request, store, said=error.detail, status=error.status)
        return await _on(request, store, "Left to another reviewer.")


async def _on(request: DeskRequest, store: Store, said: str, *, reminder: bool = False) -> Response[Any]:
    """Show what comes next; without htmx by way of a redirect, so that a reload repeats nothing."""
    if is_page(request) and not is_part(request):
        return redirect(request, PAGE)
    return await _show(request, store, said=said, reminder=reminder)


async def _show(
    request: DeskRequest, store: Store, *, said: str = "", reminder: bool = False, status: int = 200
) -> Response[Any]:
    reviewer, session = caller_of(request).name, session_of(request)
    doubted = next(iter(await store.doubts.waiting(reviewer)), None)
    page = DoubtsPage(
        look=None if doubted is None else _look(doubted),
        covered=doubted is not None and not GRAVE.isdisjoint({doubted.category, doubted.opinion, doubted.verdict}),
        waiting=await store.doubts.count(reviewer),
        undoable=await store.doubts.undoable(reviewer),
        hard_texts=session.hard_texts if session else 0,
        said=said,
        reminder=reminder,
    )
    return answer(request, "doubts.html", page, status=status)


def _look(doubted: Doubted) -> SecondLook:
    return SecondLook(
        pick_id=doubted.pick_id,
        text=doubted.text,
        category=doubted.category,
        opinion=doubted.opinion,
        probability=round(doubted.probability, 4),
        boundary=between(frozenset({doubted.category, doubted.opinion})),
    )
