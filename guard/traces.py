"""Requests, runs and writes to the pool come in, OpenTelemetry spans go out over OTLP/HTTP.

Imported only where an endpoint is set (see `app`). A span holds versions, counts, routes and
states: never a text, a user, a key or an exception's message, and of the caller's context nothing but `traceparent`.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPMethod
from typing import Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from guard.engine import Judged

CLOSE_S: Final = 2.0  # what the collector has not taken by then is lost: nobody's stop waits for it
UNTRACED: Final = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds by machines
_FAULT: Final = 500
_METHODS: Final = frozenset(HTTPMethod)


class Mark:
    """Which request some work belongs to, and whether its first run has begun.

    Args:
        context: That of the request's span.
    """

    __slots__ = ("context", "ran")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ran = False


class Traces:
    """Makes the spans: of a request, within it of the queue and the runs, and of a write to the pool, linked to both.

    Where they go, how many are drawn, and what the service is called is said by OpenTelemetry's own variables.
    """

    def __init__(self) -> None:
        resource = Resource.create({"service.name": "lifeguard"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("guard")
        self._propagator = TraceContextTextMapPropagator()

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return an application that serves each request within a span, as part of its caller's trace if it has one."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP or scope["path"] in UNTRACED:
                await app(scope, receive, send)
                return
            status: int | None = None

            async def note_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            span = self._tracer.start_span("request", context=self._parent(scope), kind=SpanKind.SERVER)
            try:
                with use_span(span, record_exception=False, set_status_on_exception=False):
                    await app(scope, receive, note_status)
            finally:
                if span.is_recording():
                    _describe(span, scope, status)
                span.end()

        return traced

    def mark(self) -> Mark | None:
        """Return which request is being served; None where none is, or its trace was not drawn."""
        span = get_current_span()
        return Mark(set_span_in_context(span, Context())) if span.is_recording() else None

    def ran(self, parts: Iterable[tuple[Mark | None, float, int]], *, began: float, model_version: str) -> None:
        """Make the spans of a run that has just ended, in each request that had a part in it; called from any thread.

        Args:
            parts: Of each window the request's mark, when it was queued, and its tokens.
            began: When the run began; this and the other times are those of `time.monotonic`.
        """
        ended = time.monotonic()
        epoch = time.time_ns() - int(ended * 1e9)
        windows: Counter[Mark] = Counter()
        tokens: Counter[Mark] = Counter()
        since: dict[Mark, float] = {}
        total = 0
        for mark, queued, length in parts:
            total += 1
            if mark is not None:
                windows[mark] += 1
                tokens[mark] += length
                since[mark] = queued
        for mark, queued in since.items():
            if not mark.ran:
                mark.ran = True
                waited = self._tracer.start_span("queue", context=mark.context, start_time=epoch + int(queued * 1e9))
                waited.end(epoch + int(began * 1e9))
            attributes: dict[str, str | int] = {
                "lifeguard.model_version": model_version,
                "lifeguard.windows": windows[mark],
                "lifeguard.tokens": tokens[mark],
                "lifeguard.run.windows": total,
            }
            start = epoch + int(began * 1e9)
            run = self._tracer.start_span("run", context=mark.context, start_time=start, attributes=attributes)
            run.end(epoch + int(ended * 1e9))

    @contextmanager
    def writing(self, marks: Sequence[Mark | None]) -> Iterator[dict[str, int]]:
        """Make the span of a write to the pool around it, linked to the requests that it is of.

        Yields:
            Counts by fate, to be filled in.
        """
        requests = [get_current_span(mark.context).get_span_context() for mark in marks if mark is not None]
        links = {request.span_id: Link(request) for request in requests}  # a request may bring several verdicts
        fates: dict[str, int] = {}
        span = self._tracer.start_span("pool", context=Context(), links=list(links.values()))
        span.set_attribute("lifeguard.verdicts", len(marks))
        try:
            yield fates
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            span.set_attributes({f"lifeguard.pool.{fate}": number for fate, number in fates.items()})
            span.end()

    def close(self) -> None:
        """Send what waits, for at most `CLOSE_S`."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _parent(self, scope: HTTPScope) -> Context:
        """Return the caller's context; `tracestate` and baggage could hold anything, and so are left."""
        given = [value for name, value in scope["headers"] if name == b"traceparent"]
        if len(given) != 1:
            return Context()
        return self._propagator.extract({"traceparent": given[0].decode("latin-1")}, context=Context())


def _describe(span: Span, scope: HTTPScope, status: int | None) -> None:
    """Say of a request what its line in the log says, and of its verdicts how many there were of each category."""
    # of paths and methods only our own: what a caller invents is theirs
    route = scope.get("path_template")
    state = scope.get("state") or {}
    if route is not None:
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"  # OpenTelemetry's word for it
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.request.method": method, "http.route": route})
    if "request_id" in state:
        span.set_attribute("lifeguard.request_id", state["request_id"])
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    if status is None or status >= _FAULT:
        span.set_status(Status(StatusCode.ERROR))
    judged: Judged | None = state.get("judged")
    if judged is not None:
        counts = Counter(verdict.category.value for verdict in judged.verdicts)
        span.set_attributes(
            {
                "lifeguard.model_version": judged.model_version,
                "lifeguard.texts": len(judged.texts),
                "lifeguard.windows": sum(judged.windows),
                "lifeguard.tokens": judged.tokens,
                **{f"lifeguard.verdicts.{category}": number for category, number in counts.items()},
            }
        )
