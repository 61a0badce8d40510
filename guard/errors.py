"""The tree of everything that can go wrong, each with its HTTP status and title.

    LifeguardError                  500
    ├── InputError                  400   the request is at fault
    │   ├── EmptyText               400
    │   ├── BadRecord               400
    │   └── TooLarge                413
    ├── AccessError                 403   the caller is at fault
    │   ├── NotAuthenticated        401
    │   └── NotAllowed              403
    ├── NotFound                    404
    ├── Gone                        499   the client has hung up, nobody reads this
    ├── Conflict                    409   the world has moved on
    ├── Unavailable                 503   try again: carries Retry-After
    │   ├── NoModel
    │   ├── NoRoom
    │   ├── OutOfTime
    │   ├── StoreUnavailable
    │   └── Throttled               429   the caller has had its share
    ├── NotJudged                   502   a client's guard gave no verdict
    ├── BrokenExport                500   an export that must not serve
    └── BadConfiguration            500   a setting or a key that cannot work

A message names the thing, the value and the remedy; it never repeats a user's text.
"""

from functools import partial
from typing import Any, ClassVar


class LifeguardError(Exception):
    """Anything Lifeguard itself reports."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InputError(LifeguardError):
    """The request cannot be understood."""

    status = 400
    title = "Invalid request"


class EmptyText(InputError):
    """A text without any visible character."""

    title = "Empty text"


class BadRecord(InputError):
    """A row of a file that cannot be taken."""

    title = "Bad row"


class TooLarge(InputError):
    """A text, a list of texts or a body above its limit."""

    status = 413
    title = "Too large"


class AccessError(LifeguardError):
    """The caller may not do this."""

    status = 403
    title = "Not allowed"


class NotAuthenticated(AccessError):
    """No key, or one that is unknown or revoked."""

    status = 401
    title = "Not authenticated"


class NotAllowed(AccessError):
    """A valid key whose role does not reach."""


class NotFound(LifeguardError):
    """There is no such thing."""

    status = 404
    title = "Not found"


class Gone(LifeguardError):
    """The client closed its connection before its answer; 499 is nginx's status for it."""

    status = 499
    title = "Client gone"


class Conflict(LifeguardError):
    """The thing has changed since the caller looked at it."""

    status = 409
    title = "Conflict"


class Unavailable(LifeguardError):
    """Nothing can be answered now; the caller should try again after `retry_after_s` seconds."""

    status = 503
    title = "Unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class NoModel(Unavailable):
    """No export is loaded."""

    title = "No model"


class NoRoom(Unavailable):
    """The queue is full."""

    title = "Overloaded"


class OutOfTime(Unavailable):
    """The request's deadline passed before its verdict."""

    title = "Out of time"


class StoreUnavailable(Unavailable):
    """The database does not answer."""

    title = "Store unavailable"


class Throttled(Unavailable):
    """The caller, or the user it speaks for, has done this as often as they may for now."""

    status = 429
    title = "Too many requests"


class NotJudged(LifeguardError):
    """A guard that was asked over HTTP gave no verdict; `reason` is one of `guard.client.Reason`."""

    status = 502
    title = "Not judged"

    def __init__(self, detail: str, *, reason: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied with the reason, which a pool of processes hands back to its caller."""
        return partial(type(self), reason=self.reason), (self.detail,)


class BrokenExport(LifeguardError):
    """An export that is incomplete, altered, or fails its own self-test."""

    title = "Broken export"


class BadConfiguration(LifeguardError):
    """A setting, key or environment that cannot work; says which and how to mend it."""

    title = "Bad configuration"
