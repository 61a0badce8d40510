"""`/review/ledger`: who decided what, for admins, newest first and a hundred lines at a time."""

from datetime import datetime
from typing import Any, Final

import msgspec
from litestar import Controller, Response, get
from litestar.datastructures import State

from guard.errors import InputError
from guard.review.identity import DeskRequest, reviewing
from guard.review.page import PROBLEMS, answer
from guard.review_schemas import MAX_ID
from guard.store import Store
from guard.store.states import Deed, Role

_LINES: Final = 100


class Line(msgspec.Struct, frozen=True):
    """A line of the ledger, as `store.rows.LedgerLine` describes it."""

    id: int
    done_at: datetime
    actor: str
    deed: Deed
    subject: str | None
    detail: dict[str, Any]


class LedgerPage(msgspec.Struct, frozen=True):
    """Some lines, and after which the older ones begin; None at the end."""

    lines: list[Line]
    before: int | None


class LedgerController(Controller):
    """The ledger, to be read; nobody writes it over HTTP."""

    path = "/review/ledger"
    guards = [reviewing(Role.ADMIN)]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/")
    async def show(self, request: DeskRequest, state: State) -> Response[Any]:
        """Show the latest lines, or those before `?before=`."""
        store: Store = state.store
        entries = await store.ledger.recent(_LINES, before=_before(request.query_params.get("before")))
        lines = [Line(e.id, e.done_at, e.actor, e.deed, e.subject, e.detail) for e in entries]
        page = LedgerPage(lines, lines[-1].id if len(lines) == _LINES else None)
        return answer(request, "ledger.html", page)


def _before(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < len(str(MAX_ID))):
        raise InputError("before is the id of a line: follow the link to older ones.")
    return int(given)
