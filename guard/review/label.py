"""`/review/label`: one message a screen; a decision, its undoing, a flag, or on to the next."""

import secrets
from dataclasses import asdict, replace
from typing import Any, Final

import msgspec
from litestar import Controller, Response, get, post
from litestar.datastructures import State

from guard.errors import Conflict, InputError, NotFound
from guard.review.identity import DeskRequest, Form, caller_of, read_form, reviewing, session_of
from guard.review.login import HOME
from guard.review.page import PROBLEMS, answer, is_page, is_part, redirect
from guard.review.why import opinions, typical_words, why
from guard.review_schemas import MAX_ID, BatchStatus, NextPick, next_pick
from guard.store import Store
from guard.store.review import Held
from guard.store.surroundings import Around, Neighbour
from guard.taxonomy import GRAVE, Category

UNCLEAR: Final = "unclear"  # the form's word for "can't tell"
_MANY: Final = 5  # hard texts between two reminders
_KEY_CHARS: Final = 64


class Desk(msgspec.Struct, frozen=True):
    """What the page shows.

    Args:
        pick: The message held; None when none waits for this reviewer.
        covered: Whether its text is shown only when asked for. Audits always are, or that would tell their verdict.
        flagged: By this reviewer.
        why: It was asked, in words.
        neighbours: Labelled messages like it; of an audit none.
        batch: How far it is; None before the first one.
        undoable: How many decisions can be taken back.
        handed_on: How many picks wait for others because this reviewer handed them on.
        left_to_others: How many that this reviewer decided about are not settled: they wait for others' opinions.
        hard_texts: How many in this session were self-harm or an emergency, by this reviewer's label.
        said: What has just been done.
        reminder: That it is time for a break.
    """

    pick: NextPick | None
    covered: bool
    flagged: bool
    why: list[str]
    neighbours: list[Neighbour]
    batch: BatchStatus | None
    undoable: int
    handed_on: int
    left_to_others: int
    hard_texts: int
    said: str = ""
    reminder: bool = False


class LabelController(Controller):
    """The desk itself."""

    path = "/review"
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/", sync_to_thread=False)
    def home(self, request: DeskRequest) -> Response[Any]:
        """Lead to the desk."""
        return redirect(request, HOME)

    @get("/label")
    async def show(self, request: DeskRequest, state: State) -> Response[Any]:
        """Lease the next message and show it."""
        return await _next(request, state.store)

    @post("/label", status_code=200)
    async def label(self, request: DeskRequest, state: State) -> Response[Any]:
        """Record a category or "can't tell", and show the next message."""
        store: Store = state.store
        form = await read_form(request)
        category = category_of(form)
        key = key_of(form)
        try:
            held = await store.review.label_and_next(
                pick_id_of(form), reviewer=caller_of(request).name, category=category, idempotency_key=key
            )
        except (Conflict, NotFound) as error:
            return await _next(request, store, said=error.detail, status=error.status)
        hard = category in GRAVE and await count_hard_text(request, store)
        said = "Recorded: can't tell." if category is None else f"Labelled {category}."
        if is_page(request) and not is_part(request):
            return redirect(request, HOME)
        return await _show(request, store, held, said=said, reminder=hard, decided=pick_id_of(form))

    @post("/label/undo", status_code=200)
    async def undo(self, request: DeskRequest, state: State) -> Response[Any]:
        """Take back the latest decision and show its message again."""
        store: Store = state.store
        reviewer = caller_of(request).name
        try:
            pick_id = await store.review.undo(reviewer)
        except (Conflict, NotFound) as error:
            return await _next(request, store, said=error.detail, status=error.status)
        if is_page(request) and not is_part(request):
            return redirect(request, HOME)
        held = await store.review.next(reviewer)
        again = held is not None and held.pick_id == pick_id
        return await _show(
            request, store, held, said="Undone: here it is again." if again else "Undone: it is with others now."
        )

    @post("/label/flag", status_code=200)
    async def flag(self, request: DeskRequest, state: State) -> Response[Any]:
        """Flag the message for a second look, or take the flag off."""
        store: Store = state.store
        flagged = await store.marks.flag(pick_id_of(await read_form(request)), caller_of(request).name)
        return await _on(request, store, "Flagged for a second look." if flagged else "The flag is off.")

    @post("/label/pass", status_code=200)
    async def hand_on(self, request: DeskRequest, state: State) -> Response[Any]:
        """Leave the message to another reviewer and show the next one."""
        store: Store = state.store
        try:
            await store.marks.hand_on(pick_id_of(await read_form(request)), caller_of(request).name)
        except (Conflict, NotFound) as error:
            return await _next(request, store, said=error.detail, status=error.status)
        return await _on(request, store, "Left to another reviewer.")


async def _on(request: DeskRequest, store: Store, said: str) -> Response[Any]:
    """Show the next message after something was done; without htmx by way of a redirect, so that a reload repeats nothing."""
    if is_page(request) and not is_part(request):
        return redirect(request, HOME)
    return await _next(request, store, said=said)


async def _next(request: DeskRequest, store: Store, *, said: str = "", status: int = 200) -> Response[Any]:
    """Lease the next message and show it."""
    held = await store.review.next(caller_of(request).name)
    return await _show(request, store, held, said=said, status=status)


async def _show(
    request: DeskRequest,
    store: Store,
    held: Held | None,
    *,
    said: str,
    reminder: bool = False,
    status: int = 200,
    decided: int | None = None,
) -> Response[Any]:
    reviewer, session = caller_of(request).name, session_of(request)
    pick = None if held is None else next_pick(held)
    async with store.database.moment():
        if decided is not None:
            said += opinions(await store.reports.opinions(decided))
        batch = await store.review.batch()
        around = await store.surroundings.of(pick.cycle_id, pick.reason) if pick else Around([], [], [])
        undoable = await store.review.undoable(reviewer)
        handed_on = await store.marks.handed_on(reviewer)
        left_to_others = await store.review.left_to_others(reviewer)
    desk = Desk(
        pick=pick,
        covered=held is not None and (held.audit or held.category in GRAVE),
        flagged=held is not None and held.flagged,
        why=why(pick.reason, typical_words(around.near, around.elsewhere)) if pick else [],
        neighbours=around.neighbours,
        batch=None if batch is None else BatchStatus(**asdict(batch), waiting=batch.waiting),
        undoable=undoable,
        handed_on=handed_on,
        left_to_others=left_to_others,
        hard_texts=session.hard_texts if session else 0,
        said=f"{said} This may be a good moment for a break." if reminder else said,
        reminder=reminder,
    )
    return answer(request, "label.html", desk, status=status, key=secrets.token_urlsafe(16))


async def count_hard_text(request: DeskRequest, store: Store) -> bool:
    """Count a distressing text and return whether it is time to say so."""
    session = session_of(request)
    if session is None:
        return False
    number = await store.sessions.count_hard_text(session.id)
    request.scope["state"]["session"] = replace(session, hard_texts=number)
    return number % _MANY == 0


def category_of(form: Form) -> Category | None:
    """Return the category that a form names, None for "can't tell"."""
    chosen = form.get("category")
    if chosen == UNCLEAR:
        return None
    if chosen not in set(Category):
        raise InputError(f"Choose one of {', '.join(Category)}, or {UNCLEAR}.")
    return Category(chosen)


def key_of(form: Form) -> str:
    """Return a form's idempotency key."""
    key = form.get("key", "")
    if not 0 < len(key) <= _KEY_CHARS or not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError("The form lacks its key: load the page again.")
    return key


def pick_id_of(form: Form) -> int:
    """Return the pick that a form is about."""
    given = form.get("pick_id", "")
    if not (given.isascii() and given.isdigit() and len(given) < len(str(MAX_ID)) and int(given) > 0):
        raise InputError("The form lacks its message: load the page again.")
    return int(given)
