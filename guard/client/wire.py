"""Requests into bytes, and what came back into verdicts or a setback. Knows HTTP's words, makes no connection."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec

from guard import errors
from guard.client.answers import Reason
from guard.errors import LifeguardError
from guard.schemas import ClassifyRequest, ClassifyResponse, Problem
from guard.taxonomy import Category

_REASONS: Final[Mapping[int, Reason]] = {
    HTTPStatus.BAD_REQUEST: Reason.BAD_INPUT,
    HTTPStatus.UNAUTHORIZED: Reason.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: Reason.NOT_ALLOWED,
    HTTPStatus.REQUEST_TIMEOUT: Reason.UNAVAILABLE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Reason.BAD_INPUT,
    HTTPStatus.UNPROCESSABLE_ENTITY: Reason.BAD_INPUT,
    HTTPStatus.TOO_MANY_REQUESTS: Reason.UNAVAILABLE,
}
# a guard's problems have these titles; any other was written by somebody who may repeat what was sent
_TITLES: Final = {
    kind.title for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LifeguardError)
}


class Setback(msgspec.Struct, frozen=True):
    """An attempt without a verdict; `passing` when the next one may have another end."""

    reason: Reason
    passing: bool = False
    status: int | None = None
    title: str | None = None
    retry_after_s: float | None = None


def write(request: ClassifyRequest) -> bytes:
    """Return a request's body; halves of surrogate pairs, which UTF-8 cannot carry, are left out as the guard would."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError:  # it holds the text: it must not become the context of another error
        pass
    return msgspec.json.encode(_mended(msgspec.to_builtins(request)))


def read(status: int, headers: Mapping[str, str], content: bytes, *, expected: int) -> ClassifyResponse | Setback:
    """Return what an answer says.

    Args:
        status: The HTTP status.
        headers: The headers, by any case.
        content: The body.
        expected: How many verdicts were asked for.
    """
    if status == HTTPStatus.OK:
        response = _verdicts(content)
        if response is None or len(response.results) != expected:
            return Setback(Reason.BAD_ANSWER, status=status)
        return response
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    busy = status == HTTPStatus.SERVICE_UNAVAILABLE
    return Setback(
        reason=Reason.UNAVAILABLE if failed else _REASONS.get(status, Reason.BAD_ANSWER),
        passing=busy,
        status=status,
        title=_title(content),
        retry_after_s=retry_after_s(headers.get("retry-after", ""), datetime.now(UTC)) if busy else None,
    )


def retry_after_s(value: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After asks for, which may be a number or a date; None when it is neither."""
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):  # the latter for a year that no date has
        return None


def _verdicts(content: bytes) -> ClassifyResponse | None:
    """Decode a body; None when it is not what a guard sends, or a verdict contradicts itself."""
    try:
        response = msgspec.json.decode(content, type=ClassifyResponse)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if any(result.flagged is (result.category is Category.NOT_HARMFUL) for result in response.results):
        return None
    return response


def _title(content: bytes) -> str | None:
    try:
        title = msgspec.json.decode(content, type=Problem).title
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return title if title in _TITLES else None


def _mended(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        case list():
            return [_mended(part) for part in value]
        case dict():
            return {_mended(key): _mended(part) for key, part in value.items()}
    return value
