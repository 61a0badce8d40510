"""`/review/variations`: a labelled message beside what an LLM made of it; a verdict, its undoing, and on to the next pair."""

from typing import Any, Final

import msgspec
from litestar import Controller, Response, get, post
from litestar.datastructures import State

from guard.errors import Conflict, InputError, NotFound
from guard.review.difference import marked
from guard.review.guideline import Section, concerning
from guard.review.identity import DeskRequest, Form, caller_of, read_form, reviewing, session_of
from guard.review.label import count_hard_text
from guard.review.page import PROBLEMS, answer, is_page, is_part, redirect
from guard.review_schemas import MAX_ID
from guard.shares import LEAST, Holding, holding
from guard.store import Store
from guard.store.pairs import Pair
from guard.store.states import PairKind, PairVerdict
from guard.taxonomy import GRAVE, GUIDELINES, Category

PAGE: Final = "/review/variations"
_SAID: Final = {
    PairVerdict.HOLDS: "Recorded: holds.",
    PairVerdict.FLIPS: "Recorded: flips.",
    PairVerdict.UNCLEAR: "Recorded: can't tell.",
}


class PairDesk(msgspec.Struct, frozen=True):
    """What the page shows.

    Args:
        pair: The pair held; None when none is left for this reviewer.
        covered: Whether its texts are shown only when asked for: one is, or should be, self-harm or an emergency.
        boundaries: Of its one or two categories.
        cases: Where the guideline says how to tell the two apart.
        waiting: How many contrasts wait for a verdict.
        undoable: How many of the reviewer's latest verdicts stand.
        hard_texts: As on the label page.
        holding: How many variations hold, by category.
        said: What has just been done.
        reminder: That it is time for a break.
    """

    pair: Pair | None
    covered: bool
    boundaries: dict[Category, str]
    cases: tuple[Section, ...]
    waiting: int
    undoable: int
    hard_texts: int
    holding: list[Holding]
    said: str = ""
    reminder: bool = False


class VariationController(Controller):
    """Where people check what an LLM wrote."""

    path = PAGE
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/")
    async def show(self, request: DeskRequest, state: State) -> Response[Any]:
        """Lease the next pair and show it."""
        return await _next(request, state.store)

    @post("/", status_code=200)
    async def decide(self, request: DeskRequest, state: State) -> Response[Any]:
        """Record a verdict and show the next pair."""
        store: Store = state.store
        form = await read_form(request)
        kind, pair_id, verdict = _kind(form), _pair_id(form), _verdict(form)
        try:
            pair = await store.pairs.decide(kind, pair_id, verdict=verdict, reviewer=caller_of(request).name)
        except (Conflict, NotFound) as error:
            return await _next(request, store, said=error.detail, status=error.status)
        hard = form.get("hard") == "yes" and await count_hard_text(request, store)
        if is_page(request) and not is_part(request):
            return redirect(request, PAGE)
        said = _SAID[verdict] + (" This may be a good moment for a break." if hard else "")
        return await _show(request, store, pair, said=said, reminder=hard)

    @post("/undo", status_code=200)
    async def undo(self, request: DeskRequest, state: State) -> Response[Any]:
        """Take back the latest verdict and show its pair again."""
        store: Store = state.store
        try:
            await store.pairs.undo(caller_of(request).name)
        except (Conflict, NotFound) as error:
            return await _next(request, store, said=error.detail, status=error.status)
        if is_page(request) and not is_part(request):
            return redirect(request, PAGE)
        return await _next(request, store, said="Undone: here it is again.")


async def _next(request: DeskRequest, store: Store, *, said: str = "", status: int = 200) -> Response[Any]:
    """Lease the next pair and show it."""
    pair = await store.pairs.next(caller_of(request).name)
    return await _show(request, store, pair, said=said, status=status)


async def _show(
    request: DeskRequest, store: Store, pair: Pair | None, *, said: str, reminder: bool = False, status: int = 200
) -> Response[Any]:
    session = session_of(request)
    two = () if pair is None else tuple(dict.fromkeys((pair.seed_category, pair.category)))
    desk = PairDesk(
        pair=pair,
        covered=not GRAVE.isdisjoint(two),
        boundaries={category: GUIDELINES[category].boundary for category in two},
        cases=_cases(*two) if len(two) > 1 else (),
        waiting=await store.pairs.waiting(),
        undoable=await store.pairs.undoable(caller_of(request).name),
        hard_texts=session.hard_texts if session else 0,
        holding=holding(await store.pairs.strata()),
        said=said,
        reminder=reminder,
    )
    seed, text, differs = marked(pair.seed, pair.text) if pair else ("", "", False)
    return answer(request, "variations.html", desk, status=status, seed=seed, text=text, differs=differs, least=LEAST)


def _cases(one: Category, other: Category) -> tuple[Section, ...]:
    """Return the guideline's sections that concern both."""
    return tuple(section for section in concerning(one).sections if section in concerning(other).sections)


def _kind(form: Form) -> PairKind:
    chosen = form.get("kind")
    if chosen not in set(PairKind):
        raise InputError("The form lacks its kind: load the page again.")
    return PairKind(chosen)


def _verdict(form: Form) -> PairVerdict:
    chosen = form.get("verdict")
    if chosen not in set(PairVerdict):
        raise InputError(f"Choose one of {', '.join(PairVerdict)}.")
    return PairVerdict(chosen)


def _pair_id(form: Form) -> int:
    given = form.get("id", "")
    if not (given.isascii() and given.isdigit() and len(given) < len(str(MAX_ID)) and int(given) > 0):
        raise InputError("The form lacks its pair: load the page again.")
    return int(given)
