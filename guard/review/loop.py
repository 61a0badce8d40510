"""`/review/loop`: how the loop does, for whoever runs it; and, for admins, promote, hold and roll back with a reason."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from litestar import Controller, Response, get, post
from litestar.datastructures import State

from guard.errors import Conflict, InputError
from guard.exports import Exports
from guard.review.identity import DeskRequest, Form, caller_of, read_form, reviewing
from guard.review.overview import read
from guard.review.page import PROBLEMS, answer, is_page, redirect
from guard.review.pictures import Pictures, duration
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.states import Deed, Role

PAGE: Final = "/review/loop"
_READ_ONLY: Final = "The exports cannot be written from here: use `guard models` where the learner runs"
_REASON_CHARS: Final = 500
_VERSION_CHARS: Final = 16


class LoopController(Controller):
    """The loop page and its deeds."""

    path = PAGE
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/")
    async def show(self, request: DeskRequest, state: State) -> Response[Any]:
        """Show the loop."""
        return await _show(request, state)

    @post("/promote", status_code=200, guards=[reviewing(Role.ADMIN)])
    async def promote(self, request: DeskRequest, state: State) -> Response[Any]:
        """Make a version the champion, whatever the gate said."""
        form, by = await read_form(request), caller_of(request).name
        reason, version, exports = _reason(form), _version(form, "version"), _exports(state)
        move = partial(exports.promote, version, by=by, reason=reason, expected=_version(form, "champion"))
        return await _do(request, state, Deed.PROMOTED, reason, move, said=f"{version} is the champion.", of=version)

    @post("/rollback", status_code=200, guards=[reviewing(Role.ADMIN)])
    async def roll_back(self, request: DeskRequest, state: State) -> Response[Any]:
        """Go back to the champion before this one."""
        form, by = await read_form(request), caller_of(request).name
        reason, champion, exports = _reason(form), _version(form, "champion"), _exports(state)
        move = partial(exports.rollback, by=by, reason=reason, expected=champion)
        said = f"{champion} is no longer the champion."
        return await _do(request, state, Deed.ROLLED_BACK, reason, move, said=said, of=champion)

    @post("/hold", status_code=200, guards=[reviewing(Role.ADMIN)])
    async def hold(self, request: DeskRequest, state: State) -> Response[Any]:
        """Have the learner promote nothing until the hold is ended."""
        reason = _reason(await read_form(request))
        set_hold = partial(_exports(state).set_hold, by=caller_of(request).name, reason=reason)
        return await _do(request, state, Deed.HOLD_SET, reason, set_hold, said="Promotions are on hold.")

    @post("/release", status_code=200, guards=[reviewing(Role.ADMIN)])
    async def release(self, request: DeskRequest, state: State) -> Response[Any]:
        """End the hold."""
        reason = _reason(await read_form(request))
        said = "The hold is ended: what passes the gate is promoted."
        return await _do(request, state, Deed.HOLD_ENDED, reason, _exports(state).end_hold, said=said)


async def _do(
    request: DeskRequest,
    state: State,
    deed: Deed,
    reason: str,
    move: Callable[[], object],
    *,
    said: str,
    of: str | None = None,
) -> Response[Any]:
    """Do a deed and enter it into the ledger; say so, or why it was not done."""
    store: Store = state.store
    subject = None if of is None else f"version {of}"
    try:
        async with store.moves.entered(deed, actor=caller_of(request).name, reason=reason, subject=subject):
            try:
                await asyncio.to_thread(move)
            except OSError as error:  # in its container the guard reads its models and writes none
                raise Conflict(f"{_READ_ONLY} ({type(error).__name__}).") from None
    except Conflict as error:
        return await _show(request, state, said=error.detail, status=error.status)
    return redirect(request, PAGE) if is_page(request) else await _show(request, state, said=said)


async def _show(request: DeskRequest, state: State, *, said: str = "", status: int = 200) -> Response[Any]:
    loop = await read(state.store, _exports(state), said)
    may = caller_of(request).role is Role.ADMIN
    return answer(request, "loop.html", loop, status=status, pictures=Pictures(loop), duration=duration, may=may)


def _exports(state: State) -> Exports:
    settings: GuardSettings = state.settings
    return Exports(settings.exports_dir)


def _reason(form: Form) -> str:
    reason = " ".join(form.get("reason", "").split())
    if not 0 < len(reason) <= _REASON_CHARS:
        raise InputError(f"Write why, in 1 to {_REASON_CHARS} characters: it is kept.")
    return reason


def _version(form: Form, field: str) -> str:
    version = form.get(field, "")
    if not (version.isascii() and version.isdigit() and len(version) <= _VERSION_CHARS):
        raise InputError(f"The form lacks its {field}: load the page again.")
    return version
