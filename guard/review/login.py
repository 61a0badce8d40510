"""`/review/login` and `/review/logout`: name and password in, a session's cookie out."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from litestar import Controller, Response, get, post
from litestar.datastructures import State

from guard.errors import InputError, LifeguardError, NotAllowed, NotAuthenticated
from guard.passwords import is_password
from guard.review.identity import (
    CSRF_FIELD,
    LOGIN,
    DeskRequest,
    address,
    cookie,
    read_form,
    reviewing,
    session_of,
    token_of,
)
from guard.review.page import PROBLEMS, answer, is_page, redirect
from guard.store import Store
from guard.store.keys import NAME_CHARS

HOME: Final = "/review/label"
_OWN_PAGE: Final = {"same-origin", "none"}  # "none": typed in, or a client that is no browser
_HASHING: Final = ThreadPoolExecutor(1, "password")  # 46 MiB and 50 ms of a core each: one after the other


class LoginController(Controller):
    """Where a session begins and ends."""

    path = "/review"
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/login")
    async def form(self, request: DeskRequest) -> Response[Any]:
        """Show the form."""
        return answer(request, "login.html", _twin(None))

    @post("/login", status_code=200)
    async def log_in(self, request: DeskRequest, state: State) -> Response[Any]:
        """Begin a session, always a new one, and lead to the desk."""
        try:
            token = await _token(request, state.store)
        except LifeguardError as error:
            if not is_page(request):
                raise
            return answer(request, "login.html", _twin(error.detail), status=error.status)
        response = redirect(request, HOME)
        response.set_cookie(cookie(request, token))
        return response

    @post("/logout", status_code=200, guards=[reviewing()])
    async def log_out(self, request: DeskRequest, state: State) -> Response[Any]:
        """End the session."""
        store: Store = state.store
        session = session_of(request)
        response = redirect(request, LOGIN)
        if session is not None:
            await store.sessions.end(session)
            response.set_cookie(cookie(request, None))
        return response


async def _token(request: DeskRequest, store: Store) -> str:
    """Return the token of a new session for whoever sent their name and password.

    Raises:
        InputError: One is missing.
        NotAllowed: A foreign page sent the form, to have its reader work under another's name.
        NotAuthenticated: They are not those of an account in force.
        Throttled: There were too many attempts.
    """
    if request.headers.get("sec-fetch-site", "none") not in _OWN_PAGE:
        raise NotAllowed("Log in from this guard's own page.")
    form = await read_form(request)
    name, password = form.get("name", ""), form.get("password", "")
    if not name or not password:
        raise InputError("Give both name and password.")
    origin = address(request)
    await store.sessions.attempt(name, origin)
    proper = len(name) <= NAME_CHARS and name.isprintable()
    reviewer = await store.reviewers.find(name) if proper else None
    known = reviewer.password_hash if reviewer else None
    right = await asyncio.get_running_loop().run_in_executor(_HASHING, is_password, password, known)
    if reviewer is None or not right:
        await store.sessions.refused(reviewer.name if reviewer else None)
        raise NotAuthenticated("There is no account in force with this name and password.")
    return await store.sessions.open(reviewer, address=origin, replaces=token_of(request) or None)


def _twin(problem: str | None) -> dict[str, Any]:
    return {"fields": ["name", "password"], "problem": problem, "then": f"send {CSRF_FIELD} with every form"}
