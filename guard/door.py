"""In front of the application: what cannot be judged in time is refused here, at a tenth of what it costs inside."""

import asyncio
from typing import Final

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import HTTPReceiveMessage, Receive, Scope, Send

from guard.body import BODY_S
from guard.engine import Engine
from guard.errors import NoRoom
from guard.patience import PatientOperation
from guard.problems import refusal
from guard.settings import GuardSettings

LEAST_TOKENS: Final = 8  # of a request that nobody has looked into


class Door:
    """Passes requests on, but those for a verdict only while there is room for them.

    It waits for a request's body before it decides: from there to the queue the application runs without a pause, so
    that of a thousand requests at once each finds those before it in the queue.

    Args:
        app: The application; its engine is in its state once it has started.
    """

    def __init__(self, app: Litestar) -> None:
        self._app = app
        self._judging = frozenset(
            route.path
            for route in app.routes
            if any(
                getattr(h, "operation_class", None) is PatientOperation for h in getattr(route, "route_handlers", ())
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.HTTP or scope["path"] not in self._judging:
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        await body.begin()
        engine: Engine = self._app.state.engine
        settings: GuardSettings = self._app.state.settings
        try:
            engine.check(LEAST_TOKENS, timeout_s=settings.deadline_ms / 1000)
        except NoRoom as error:
            scope["path_template"] = scope["path"]  # as the router would have done
            for message in refusal(scope["path"], error):
                await send(message)
            return
        await self._app(scope, body, send)


class _Body:
    """A `receive` whose first message has been waited for already."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._first: HTTPReceiveMessage | TimeoutError | None = None

    async def begin(self) -> None:
        try:
            async with asyncio.timeout(BODY_S):
                self._first = await self._receive()  # type: ignore[assignment] # of an HTTP request
        except TimeoutError as error:
            self._first = error  # the application's to answer

    async def __call__(self) -> HTTPReceiveMessage:
        first, self._first = self._first, None
        if isinstance(first, TimeoutError):
            raise first
        return first or await self._receive()  # type: ignore[return-value]
