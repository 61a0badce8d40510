"""`/review/agreement`: what people differ about, side by side, for an admin to settle; and how alike they label."""

import secrets
from datetime import datetime
from typing import Any, Final

import msgspec
from litestar import Controller, Response, get, post
from litestar.datastructures import State

from guard.alike import Alike, alike
from guard.errors import Conflict, NotFound
from guard.review.guideline import Section, between
from guard.review.identity import DeskRequest, caller_of, read_form, reviewing, sees_open
from guard.review.label import category_of, key_of, pick_id_of
from guard.review.page import PROBLEMS, answer, is_page, is_part, redirect
from guard.store import Store
from guard.store.conflicts import Contested
from guard.store.states import Role
from guard.taxonomy import CATEGORIES, GRAVE, GUIDELINES, Category

PAGE: Final = "/review/agreement"
_SHOWN: Final = 20  # conflicts a page


class Side(msgspec.Struct, frozen=True):
    """What somebody said; a `category` of null means "can't tell"."""

    reviewer: str
    category: Category | None
    decided_at: datetime


class Difference(msgspec.Struct, frozen=True):
    """A message about which people differ.

    Args:
        covered: Whether its text is shown only when asked for.
        open: Whether its batch is open still.
        asked: Whether a third reviewer is asked meanwhile.
        opinions: In the order in which they were given.
        boundaries: Of the categories that people named.
        sections: Of the guideline, where two of them meet.
    """

    pick_id: int
    cycle_id: int
    text: str
    covered: bool
    open: bool
    asked: bool
    opinions: list[Side]
    boundaries: dict[Category, str]
    sections: tuple[Section, ...]


class AgreementPage(msgspec.Struct, frozen=True):
    """What the page shows.

    Args:
        conflicts: The oldest ones; of the open batch only for admins, who do not label what is contested.
        total: How many there are of them.
        withheld: How many of the open batch are not shown.
        undoable: How many of this admin's decisions can be taken back.
        said: What has just been done.
    """

    conflicts: list[Difference]
    total: int
    withheld: int
    undoable: int
    agreement: Alike
    said: str = ""


class AgreementController(Controller):
    """The agreement page, and an admin's decisions on it."""

    path = PAGE
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/")
    async def show(self, request: DeskRequest, state: State) -> Response[Any]:
        """Show it."""
        return await _show(request, state.store)

    @post("/", status_code=200, guards=[reviewing(Role.ADMIN)])
    async def settle(self, request: DeskRequest, state: State) -> Response[Any]:
        """Settle a conflict and show the next one."""
        store: Store = state.store
        form = await read_form(request)
        category = category_of(form)
        try:
            await store.conflicts.adjudicate(
                pick_id_of(form), adjudicator=caller_of(request).name, category=category, idempotency_key=key_of(form)
            )
        except (Conflict, NotFound) as error:
            return await _show(request, store, said=error.detail, status=error.status)
        return await _on(request, store, "Settled: nobody can tell." if category is None else f"Settled as {category}.")

    @post("/undo", status_code=200, guards=[reviewing(Role.ADMIN)])
    async def undo(self, request: DeskRequest, state: State) -> Response[Any]:
        """Take back the latest decision."""
        store: Store = state.store
        try:
            await store.conflicts.undo(caller_of(request).name)
        except (Conflict, NotFound) as error:
            return await _show(request, store, said=error.detail, status=error.status)
        return await _on(request, store, "Undone: it is contested again.")


async def _on(request: DeskRequest, store: Store, said: str) -> Response[Any]:
    """Show what is left; without htmx by way of a redirect, so that a reload repeats nothing."""
    if is_page(request) and not is_part(request):
        return redirect(request, PAGE)
    return await _show(request, store, said=said)


async def _show(request: DeskRequest, store: Store, *, said: str = "", status: int = 200) -> Response[Any]:
    caller = caller_of(request)
    total, everywhere = await store.conflicts.count(open_too=sees_open(caller)), await store.conflicts.count()
    page = AgreementPage(
        conflicts=[_difference(one) for one in await store.conflicts.contested(_SHOWN, open_too=sees_open(caller))],
        total=total,
        withheld=everywhere - total,
        undoable=await store.conflicts.undoable(caller.name) if caller.role is Role.ADMIN else 0,
        agreement=alike(await store.conflicts.doubled()),
        said=said,
    )
    request.scope["state"]["conflicts"] = total
    return answer(request, "agreement.html", page, status=status, key=secrets.token_urlsafe(16))


def _difference(one: Contested) -> Difference:
    named = frozenset(opinion.category for opinion in one.opinions if opinion.category is not None)
    return Difference(
        pick_id=one.pick_id,
        cycle_id=one.cycle_id,
        text=one.text,
        covered=one.audit or not GRAVE.isdisjoint({one.verdict, *named}),
        open=one.open,
        asked=one.asked,
        opinions=[Side(opinion.reviewer, opinion.category, opinion.decided_at) for opinion in one.opinions],
        boundaries={category: GUIDELINES[category].boundary for category in CATEGORIES if category in named},
        sections=between(named),
    )
