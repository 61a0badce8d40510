"""How long a caller waits for its answer: until its deadline, and until it goes away.

The routes that judge do so inside `Patience`. Granian's `receive()` tells of a client that has gone, but cancels nothing.
"""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema
from litestar.types import HTTPScope, Receive

from guard.errors import Gone, InputError
from guard.schemas import DEADLINE_HEADER

WATCH_AFTER_S: Final = 0.1  # most answers are there by then; asking the server costs some 10 µs
_MAX_DIGITS: Final = 12
_HEADER: Final = DEADLINE_HEADER.encode()


@dataclass
class PatientOperation(Operation):
    """The OpenAPI entry of a route whose callers may say how long they wait."""

    def __post_init__(self) -> None:
        """Add the header."""
        header = Parameter(
            name=DEADLINE_HEADER,
            param_in="header",
            description="Milliseconds that you still wait. What cannot be judged in time is refused at once with 503; "
            "more than GUARD_DEADLINE_MS counts as that.",
            schema=Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=10**_MAX_DIGITS - 1),
        )
        self.parameters = [*(self.parameters or []), header]


class Patience:
    """Ends the work within it when its caller has gone; entering it gives the seconds that are left.

    Args:
        scope: Of the request.
        receive: Of the request; its body has been read.
        limit_ms: The longest that anybody waits.

    Raises:
        InputError: The deadline's header is no number of milliseconds.
        Gone: The client has closed its connection.
    """

    def __init__(self, scope: HTTPScope, receive: Receive, *, limit_ms: int) -> None:
        self._receive = receive
        self._asked = _asked_ms(scope, limit_ms)
        self._began: float = scope["state"].get("began", time.monotonic())
        self._limit_ms = limit_ms
        self._disconnect: asyncio.Future[Any] | None = None
        self._gone = False

    def __enter__(self) -> float:
        """Begin to watch, and return the seconds left: of the header's from the request's first byte, of ours from now."""
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._watch)
        limit_s = self._limit_ms / 1000
        if self._asked is None:
            return limit_s
        return min(limit_s, self._began + self._asked / 1000 - time.monotonic())

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Watch no longer."""
        self._timer.cancel()
        task, self._task = self._task, None
        if self._disconnect is not None:
            self._disconnect.cancel()
        if self._gone and task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise Gone("The client closed its connection before there was a verdict.") from None

    def _watch(self) -> None:
        self._disconnect = asyncio.ensure_future(self._receive())  # Granian's is one already
        self._disconnect.add_done_callback(self._received)

    def _received(self, disconnect: "asyncio.Future[Any]") -> None:
        if self._task is None or disconnect.cancelled() or disconnect.exception() is not None:
            return
        if disconnect.result()["type"] == "http.disconnect":
            self._gone = True
            self._task.cancel()


def _asked_ms(scope: HTTPScope, limit_ms: int) -> int | None:
    for name, value in scope["headers"]:
        if name == _HEADER:
            if len(value) > _MAX_DIGITS or not value.isdigit() or int(value) == 0:
                raise InputError(
                    f"{DEADLINE_HEADER} is not a whole number of milliseconds: send at least 1; "
                    f"what is more than {limit_ms} counts as {limit_ms} (GUARD_DEADLINE_MS)."
                )
            return int(value)
    return None
