"""Answers of the desk: a page for browsers, a part of one for htmx, the same as JSON for programs, and its problems."""

from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException

from guard.errors import LifeguardError
from guard.problems import HANDLERS
from guard.review.identity import LOGIN, DeskRequest, csrf_token, session_of
from guard.review.shown import shown
from guard.store.states import Role
from guard.taxonomy import CATEGORIES, GUIDELINES

# `same-origin`, not `no-referrer`: with that, browsers would say of their own forms that they come from nowhere
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept, HX-Request",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_TEMPLATES.filters["shown"] = shown
_TEMPLATES.filters["percent"] = lambda share: f"{100 * share:.0f} %"
_TEMPLATES.globals.update(categories=CATEGORIES, guidelines=GUIDELINES)


def is_part(request: DeskRequest) -> bool:
    """Return whether htmx asks, and puts the answer into the page it has."""
    return request.headers.get("hx-request") == "true"


def is_page(request: DeskRequest) -> bool:
    """Return whether a person asks, not a program."""
    return is_part(request) or "text/html" in request.headers.get("accept", "")


def answer(request: DeskRequest, name: str, twin: Any, *, status: int = 200, **context: Any) -> Response[Any]:
    """Answer with the page of a name, its part for htmx, or its twin as JSON.

    Args:
        name: Of the template; the part's is the same with an underscore before it.
        twin: What the page says, as `it` in the template.
        status: Of the answer.
        context: What only people need.
    """
    if not is_page(request):
        return Response(twin, status_code=status, headers=HEADERS)
    session = session_of(request)
    caller = request.scope["state"].get("caller")
    rendered = _TEMPLATES.get_template(f"_{name}" if is_part(request) else name).render(
        it=twin,
        caller=caller.name if caller else None,
        admin=caller is not None and caller.role is Role.ADMIN,
        csrf=csrf_token(request) if session else "",
        session=session,
        part=is_part(request),
        conflicts=request.scope["state"].get("conflicts", 0),
        waiting=request.scope["state"].get("waiting", 0),
        doubts=request.scope["state"].get("doubts", 0),
        **context,
    )
    body = rendered.encode(errors="replace")
    return Response(body, status_code=status, media_type=MediaType.HTML, headers=HEADERS)


def redirect(request: DeskRequest, path: str) -> Response[Any]:
    """Send a person on; the path is ours."""
    if is_part(request):
        return Response(b"", status_code=200, media_type=MediaType.HTML, headers={**HEADERS, "HX-Redirect": path})
    return Response(b"", status_code=303, media_type=MediaType.HTML, headers={**HEADERS, "Location": path})


def _problem(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answer a program as every other route does, a person with a page; whoever has to log in is led there."""
    kind = next(kind for kind in (LifeguardError, HTTPException, Exception) if isinstance(error, kind))
    response = HANDLERS[kind](request, error)
    if not is_page(request):
        response.headers.update(HEADERS)
        return response
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        return redirect(request, LOGIN)
    page = answer(request, "problem.html", response.content, status=response.content.status)
    page.headers.update({name: value for name, value in response.headers.items() if name.lower() == "retry-after"})
    return page


PROBLEMS: Final[dict[int | type[Exception], Any]] = {
    LifeguardError: _problem,
    HTTPException: _problem,
    Exception: _problem,
}
