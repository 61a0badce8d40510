"""Errors into answers: the one place that maps them to RFC 9457 problem+json. Never repeats what a caller sent."""

import re
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE

from guard.errors import LifeguardError, Unavailable
from guard.logs import frames
from guard.schemas import Problem

MEDIA_TYPE = "application/problem+json"
# msgspec repeats an invalid enum value, an unknown field or a bad string in quotes or backticks after these words
_REPEATED = re.compile(r"(Invalid enum value|unknown field|Invalid value) ['\"`].*?['\"`](?= - at |$)", re.DOTALL)

_log = structlog.get_logger()


def from_lifeguard(_: Request[Any, Any, Any], error: LifeguardError) -> Response[Problem]:
    """Answer one of our own errors with its status, title and detail."""
    retry = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Unavailable) else {}
    challenge = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}  # noqa: PLR2004
    return _answer(error.status, error.title, error.detail, headers=retry | challenge)


def from_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Answer Litestar's own errors: routing, method, body."""
    if error.status_code >= 500:  # noqa: PLR2004
        return from_unexpected(request, error)
    errors = [
        {"field": str(e.get("key", "")), "reason": _scrub(str(e.get("message", "")))}
        for e in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(e, dict)
    ]
    match error.status_code:
        case 404:
            detail = "There is nothing at this path: /docs lists what there is."
        case 405:
            detail = "This path does not take this method: /docs lists what it takes."
        case status if status == HTTP_413_REQUEST_ENTITY_TOO_LARGE:
            limit = request.app.state.settings.max_body_bytes
            detail = f"The body is larger than {limit} bytes: send less at once (GUARD_MAX_BODY_BYTES)."
        case _:
            detail = "The request is not what this route takes: see errors, or /docs."
            if not errors:
                errors = [{"field": "body", "reason": _scrub(error.detail)}]
    return _answer(error.status_code, "Invalid request", detail, errors=errors, headers=dict(error.headers or {}))


def from_unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer what nobody foresaw, and log its type and place."""
    _log.error("unexpected", error=type(error).__name__, frames=frames(error))
    return _answer(500, "Internal error", "Something went wrong here; no verdict was made. The log says where.")


def _scrub(message: str) -> str:
    return _REPEATED.sub(r"\1", message)[:200]


def _answer(
    status: int,
    title: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response[Problem]:
    problem = Problem(type="about:blank", title=title, status=status, detail=detail, errors=errors or [])
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers or {})


HANDLERS = {LifeguardError: from_lifeguard, HTTPException: from_http, Exception: from_unexpected}
