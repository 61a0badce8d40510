"""Errors into answers: the one place that maps them, to RFC 9457 problem+json and, for `/v1/…`, to OpenAI's envelope.

Never repeats what a caller sent.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent

from guard.dialects import Fault, FaultEnvelope
from guard.errors import LifeguardError, Unavailable
from guard.logs import frames
from guard.schemas import Problem

MEDIA_TYPE: Final = "application/problem+json"
ENVELOPED_PATHS: Final = "/v1/"

_log = structlog.get_logger()


def described(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the OpenAPI entry of each status that is answered with a problem."""
    return {
        status: ResponseSpec(
            Problem, description=HTTPStatus(status).phrase, media_type=MEDIA_TYPE, generate_examples=False
        )
        for status in statuses
    }


def enveloped(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the OpenAPI entry of each status that is answered with an envelope."""
    return {
        status: ResponseSpec(FaultEnvelope, description=HTTPStatus(status).phrase, generate_examples=False)
        for status in statuses
    }


def from_lifeguard(_: Request[Any, Any, Any], error: LifeguardError) -> Response[Problem]:
    """Answer one of our own errors with its status, title and detail."""
    retry = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Unavailable) else {}
    challenge = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    return _answer(error.status, error.title, error.detail, headers=retry | challenge)


def from_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Answer Litestar's own errors: routing, method, no body or too much of it."""
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            detail = "There is nothing at this path: /docs lists what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            detail = "This path does not take this method: /docs lists what it takes."
        case HTTPStatus.REQUEST_TIMEOUT:
            detail = "The body did not come in time: send it at once."
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            limit = request.app.state.settings.max_body_bytes
            detail = f"The body is larger than {limit} bytes: send less at once (GUARD_MAX_BODY_BYTES)."
        case status if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            detail = "The request has no body, or is not what this route takes: /docs shows what it takes."
        case _:
            return from_unexpected(request, error)
    title = HTTPStatus(error.status_code).phrase.capitalize()
    return _answer(error.status_code, title, detail, headers=dict(error.headers or {}))


def from_unexpected(_: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer what nobody foresaw, and log its type and place."""
    _log.error("unexpected", error=type(error).__name__, frames=frames(error))
    return _answer(500, "Internal error", "Something went wrong here; no verdict was made. The log says where.")


def refusal(path: str, error: Unavailable) -> tuple[HTTPResponseStartEvent, HTTPResponseBodyEvent]:
    """Return the answer to a request that is refused before the application sees it, for 20 µs instead of 300."""
    problem = _problem(error.status, error.title, error.detail)
    enveloped = path.startswith(ENVELOPED_PATHS)
    body = msgspec.json.encode(_fault(problem) if enveloped else problem)
    headers = [
        (b"content-type", b"application/json" if enveloped else MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % error.retry_after_s),
    ]
    return (
        {"type": "http.response.start", "status": error.status, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    )


def _problem(status: int, title: str, detail: str) -> Problem:
    return Problem(type="about:blank", title=title, status=status, detail=detail)


def _answer(status: int, title: str, detail: str, *, headers: dict[str, str] | None = None) -> Response[Problem]:
    problem = _problem(status, title, detail)
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers or {})


_Answer = Callable[[Request[Any, Any, Any], Any], Response[Any]]
HANDLERS: Final[dict[int | type[Exception], _Answer]] = {
    LifeguardError: from_lifeguard,
    HTTPException: from_http,
    Exception: from_unexpected,
}


def _fault(problem: Problem) -> FaultEnvelope:
    fault = Fault(
        message=problem.detail,
        type="server_error" if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error",
        param=None,
        code=problem.title.lower().replace(" ", "_"),
    )
    return FaultEnvelope(fault)


def _in_envelope(handler: _Answer) -> _Answer:
    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[FaultEnvelope]:
        response = handler(request, error)
        return Response(_fault(response.content), status_code=response.status_code, headers=response.headers)

    return answer


ENVELOPED: Final = {kind: _in_envelope(handler) for kind, handler in HANDLERS.items()}
