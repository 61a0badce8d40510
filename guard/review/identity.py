"""Who is at the desk: a key in a header or a session in a cookie come in, the caller and the session go out."""

import hmac
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie, State
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from guard.auth import LOCAL, Access, Caller, admit, has_key, host_name, is_loopback
from guard.errors import InputError, NotAllowed, NotAuthenticated
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.sessions import OpenSession
from guard.store.states import Role

LOGIN: Final = "/review/login"
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf"
_COOKIE: Final = "lifeguard"
_READS: Final = {"GET", "HEAD", "OPTIONS"}
_MAX_FIELDS: Final = 20

DeskRequest = Request[None, None, State]
Form = dict[str, str]


def reviewing(role: Role = Role.REVIEWER) -> Guard:
    """Return a Litestar guard that lets a role through, by key or by session, and notes both on the request.

    For a whole page it notes how many conflicts the caller can see, how many labels wait for their second look and how many
    contrast pairs wait, too: every page has them in its navigation.

    A key comes in a header, which no foreign page can send; what a session asks for must carry its CSRF token.
    """

    async def check(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        caller, session = await _caller(connection)
        admit(caller, role)
        connection.scope["state"].update(caller=caller, session=session)
        if session is not None and connection.scope["method"] not in _READS:  # type: ignore[typeddict-item]
            await _check_csrf(connection)  # type: ignore[arg-type]
        if "text/html" in connection.headers.get("accept", "") and "hx-request" not in connection.headers:
            store: Store = connection.app.state.store
            connection.scope["state"]["conflicts"] = await store.conflicts.count(open_too=sees_open(caller))
            connection.scope["state"]["waiting"] = await store.pairs.waiting()
            connection.scope["state"]["doubts"] = await store.doubts.count(caller.name)

    return check


def sees_open(caller: Caller) -> bool:
    """Return whether somebody sees what people differ about in the open batch: who labels there must not."""
    return caller.role is Role.ADMIN


def caller_of(request: DeskRequest) -> Caller:
    """Return whoever was let in."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def session_of(request: DeskRequest) -> OpenSession | None:
    """Return the session of whoever was let in; None when they came by a key, or sit at this machine without any."""
    session: OpenSession | None = request.scope["state"].get("session")
    return session


def csrf_token(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return what forms of this session must send: made of its token, so that it ends with it and is stored nowhere."""
    return hmac.new(token_of(connection).encode(), b"csrf", "sha256").hexdigest()


def token_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the token in the cookie, or nothing."""
    return connection.cookies.get(_cookie_name(connection), "")


def cookie(connection: ASGIConnection[Any, Any, Any, Any], token: str | None) -> Cookie:
    """Return the cookie that sets a session's token, or that deletes it."""
    name = _cookie_name(connection)
    return Cookie(
        key=name,
        value=token or "",
        max_age=None if token else 0,
        path="/",
        secure=name != _COOKIE,
        httponly=True,
        samesite="lax",
    )


def address(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return from where a request comes: with GUARD_BEHIND_PROXY, what the nearest proxy says."""
    settings: GuardSettings = connection.app.state.settings
    forwarded = connection.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if settings.behind_proxy and forwarded:
        return forwarded
    return connection.client.host if connection.client else ""


async def read_form(request: DeskRequest) -> Form:
    """Return the fields of a form.

    Raises:
        InputError: It is none.
    """
    try:
        body = (await request.body()).decode()
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:  # no UTF-8, or too many fields
        raise InputError("The form cannot be read: send it as the page does.") from None


async def _caller(connection: ASGIConnection[Any, Any, Any, Any]) -> tuple[Caller, OpenSession | None]:
    store: Store = connection.app.state.store
    access: Access = connection.app.state.access
    token = token_of(connection)
    if token and not has_key(connection.headers):
        session = await store.sessions.find(token)
        if session is None:
            raise NotAuthenticated(f"This session has ended: log in again at {LOGIN}.")
        return Caller(session.reviewer, session.role), session
    caller = access.caller(connection.headers)
    if caller is LOCAL and await store.reviewers.any():  # they have names: nobody decides without one
        raise NotAuthenticated(f"Log in at {LOGIN}, or send a key.")
    return caller, None


async def _check_csrf(request: DeskRequest) -> None:
    given = request.headers.get(CSRF_HEADER)
    if given is None and request.content_type[0] == "application/x-www-form-urlencoded":
        given = (await read_form(request)).get(CSRF_FIELD)
    if not hmac.compare_digest((given or "").encode(), csrf_token(request).encode()):
        raise NotAllowed(f"The page is of another session, or the request lacks {CSRF_HEADER}: load the page again.")


def _cookie_name(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the plain name on http://localhost; anywhere else one that browsers take and send over TLS alone."""
    settings: GuardSettings = connection.app.state.settings
    over_tls = settings.behind_proxy and connection.headers.get("x-forwarded-proto", "").lower() == "https"
    plain = is_loopback(host_name(connection.headers.get("host", ""))) and not over_tls
    return _COOKIE if plain else f"__Host-{_COOKIE}"
