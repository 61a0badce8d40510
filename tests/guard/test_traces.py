"""Traces of a real guard, as a real collector receives them: whole, in their callers' traces, and free of texts."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.guard.collector import Collector, Received
from tests.served import ServedGuard, free_port, wait_for
from tests.toys import publish_toy

CALLER: Final = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
CANARY: Final = "canary"
_QUICK: Final = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


class Traced:
    """A guard and the collector of its traces."""

    def __init__(self, guard: ServedGuard, collector: Collector) -> None:
        self.guard = guard
        self.collector = collector

    def post(self, path: str = "/classify", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Post a body."""
        return httpx.post(f"{self.guard.base_url}{path}", json=body, headers=headers, trust_env=False, timeout=30)

    def trace(self, trace_id: str, *, spans: int) -> dict[str, list[Received]]:
        """Wait for the spans of a trace and return them by name."""

        def found() -> list[Received]:
            names = set(self.collector.names)
            return [span for name in names for span in self.collector.spans(name) if span.trace_id == trace_id]

        wait_for(lambda: len(found()) >= spans)
        assert len(found()) == spans
        return {name: [s for s in found() if s.name == name] for name in {s.name for s in found()}}


def _headers(number: int, flags: str = "01") -> dict[str, str]:
    """Return the headers of a caller whose trace has a number."""
    return {"traceparent": f"00-{number:032x}-{CALLER[1]}-{flags}"}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A guard that keeps every verdict and sends its traces to a collector."""
    with Collector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **_QUICK}
        folder = tmp_path_factory.mktemp("traced")
        guard = ServedGuard(folder, environment=environment, audit_rate=1, intake_flush_ms=1)
        publish_toy(guard.exports, default=None, strength=60)
        with guard:
            yield Traced(guard, collector)


def test_a_request_is_followed(traced: Traced) -> None:
    """A request, its wait and its run are one trace, the caller's, with what was judged and how, one after the other."""
    sent = time.time_ns()
    answer = traced.post(texts=["sue them", "hello"], headers=_headers(1))
    spans = traced.trace(f"{1:032x}", spans=3)
    (request,), (queue,), (run,) = spans["POST /classify"], spans["queue"], spans["run"]
    assert request.parent_id == CALLER[1]
    assert queue.parent_id == run.parent_id == request.span_id
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "lifeguard.request_id": answer.headers["x-request-id"],
        "lifeguard.model_version": "0001",
        "lifeguard.texts": 2,
        "lifeguard.windows": 2,
        "lifeguard.tokens": 7,
        "lifeguard.verdicts.legal-advice": 1,
        "lifeguard.verdicts.not-harmful": 1,
    }
    assert run.attributes["lifeguard.model_version"] == "0001"
    assert sent <= request.start_ns <= queue.start_ns <= queue.end_ns == run.start_ns < run.end_ns <= time.time_ns()
    assert request.service["service.name"] == "lifeguard"


def test_a_write_is_linked(traced: Traced) -> None:
    """The write that brings a verdict into the pool is a trace of its own, linked to the request, with the fates."""
    traced.post(text="rash", headers=_headers(2))
    (request,) = traced.trace(f"{2:032x}", spans=3)["POST /classify"]
    wait_for(lambda: any(request.span_id in pool.links for pool in traced.collector.spans("pool")))
    (pool,) = (pool for pool in traced.collector.spans("pool") if request.span_id in pool.links)
    assert pool.parent_id == ""
    fates = [pool.attributes[f"lifeguard.pool.{fate}"] for fate in ("new", "repeated", "dropped_full")]
    assert sum(fates) == pool.attributes["lifeguard.verdicts"] >= 1


def test_requests_at_once_are_told_apart(traced: Traced) -> None:
    """Whatever shares a run, each request's spans are in its own trace, with its own share of the windows."""
    numbers = range(100, 140)

    def send(number: int) -> int:
        return traced.post(texts=["joke"] * (number % 3 + 1), headers=_headers(number)).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, numbers)) == {200}
    traces = {f"{number:032x}" for number in numbers}
    for name in ("POST /classify", "run", "queue"):  # the latter two are made while the answer is on its way
        wait_for(lambda name=name: traces <= {s.trace_id for s in traced.collector.spans(name)})  # type: ignore[misc]
    for number in numbers:
        mine = [s for name in ("queue", "run", "POST /classify") for s in traced.collector.spans(name)]
        mine = [span for span in mine if span.trace_id == f"{number:032x}"]
        windows = number % 3 + 1
        (request,) = (span for span in mine if span.name == "POST /classify")
        assert request.attributes["lifeguard.windows"] == windows
        runs = [span for span in mine if span.name == "run"]
        assert sum(run.attributes["lifeguard.windows"] for run in runs) == windows
        assert all(run.attributes["lifeguard.run.windows"] >= run.attributes["lifeguard.windows"] for run in runs)
        assert len([span for span in mine if span.name == "queue"]) == 1


def test_without_a_caller_it_is_a_trace_of_its_own(traced: Traced) -> None:
    """Without `traceparent`, with a broken one or with two, a request begins a trace."""
    for given in ([], [("traceparent", "00-zz-11-01")], [("traceparent", _headers(7)["traceparent"])] * 2):
        before = traced.collector.names.count("GET /review/batch")
        httpx.get(f"{traced.guard.base_url}/review/batch", headers=given, trust_env=False)
        wait_for(lambda before=before: traced.collector.names.count("GET /review/batch") > before)  # type: ignore[misc]
        assert traced.collector.spans("GET /review/batch")[-1].parent_id == ""


def test_a_caller_may_leave_a_request_out(traced: Traced) -> None:
    """What a caller did not draw for its trace is not traced here either."""
    assert traced.post(text="hello", headers=_headers(8, flags="00")).status_code == 200
    traced.post(text="hello", headers=_headers(9))
    traced.trace(f"{9:032x}", spans=3)
    assert f"{8:032x}" not in {
        span.trace_id for name in traced.collector.names for span in traced.collector.spans(name)
    }


def test_what_cannot_be_judged(traced: Traced) -> None:
    """A refused request has its status and no verdicts; what is the caller's mistake is no error of ours."""
    assert traced.post(text="", headers=_headers(10)).status_code == 400
    (request,) = traced.trace(f"{10:032x}", spans=1)["POST /classify"]
    assert request.attributes["http.response.status_code"] == 400
    assert not request.failed
    assert not any(name.startswith("lifeguard.verdicts") for name in request.attributes)


def test_probes_are_not_traced(traced: Traced) -> None:
    """What machines ask every few seconds makes no spans."""
    for path in ("/healthz", "/readyz", "/metrics"):
        httpx.get(f"{traced.guard.base_url}{path}", headers=_headers(11), trust_env=False)
    traced.post(text="hello", headers=_headers(11))
    assert traced.trace(f"{11:032x}", spans=3).keys() == {"POST /classify", "queue", "run"}


def test_nothing_of_a_user_leaves(traced: Traced) -> None:
    """No text, user, key, path, query or header that a caller chose is in what is sent, only their trace's id."""
    headers = {
        **_headers(12),
        **dict.fromkeys(("tracestate", "baggage"), f"{CANARY}={CANARY}"),
        **dict.fromkeys(("x-api-key", "user-agent", "x-forwarded-for"), CANARY),
    }
    traced.post(f"/classify?{CANARY}={CANARY}", headers=headers, text=f"{CANARY} sue", user=CANARY)
    traced.post(f"/{CANARY}", headers=headers, text=CANARY)
    httpx.request(CANARY.upper(), f"{traced.guard.base_url}/classify", headers=headers, trust_env=False)
    traced.trace(f"{12:032x}", spans=5)
    assert traced.collector.bodies
    assert not any(CANARY.encode() in body.lower() for body in traced.collector.bodies)


def test_what_waits_is_sent_at_the_end(tmp_path: Path) -> None:
    """Spans that wait to be sent when the guard ends are sent."""
    with Collector() as collector:
        slow = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        guard = ServedGuard(tmp_path, environment=slow, audit_rate=0)
        publish_toy(guard.exports)
        with guard:
            Traced(guard, collector).post(text="hello")
            assert collector.names == []
            assert guard.stop() == 0
        assert sorted(collector.names) == ["POST /classify", "queue", "run"]


@pytest.mark.slow
def test_a_collector_that_is_away_harms_nobody(tmp_path: Path) -> None:
    """While nobody takes the spans the guard judges, stops in time, and its log names no more than the library."""
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", **_QUICK}
    guard = ServedGuard(tmp_path, environment=away, drain_s=0)
    publish_toy(guard.exports)
    with guard:
        for _ in range(20):
            body = {"text": CANARY}
            assert httpx.post(f"{guard.base_url}/classify", json=body, trust_env=False, timeout=30).status_code == 200
        wait_for(lambda: "opentelemetry" in guard.log)
        began = time.monotonic()
        assert guard.stop() == 0
        assert time.monotonic() - began < 15
    assert CANARY not in guard.log
    assert {event["event"] for event in guard.events if "opentelemetry" in str(event)} == {"library_warned"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}],
    ids=["no endpoint", "switched off"],
)
def test_off_costs_nothing(environment: dict[str, str]) -> None:
    """Without an endpoint, or switched off, neither the module nor the SDK is imported, and nothing stands around the guard."""
    code = (
        "import sys; from guard.app import serve_app, Recorder; app = serve_app();"
        "parts = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.trace', 'guard.traces');"
        "print(type(app) is Recorder, [name for name in sys.modules if name.startswith(parts)])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.stdout.strip() == "True []", ended.stderr


def test_not_installed() -> None:
    """An endpoint without the packages is said, and the guard serves all the same."""
    code = (
        "import sys; sys.modules['opentelemetry.context'] = None;"
        "from guard.app import serve_app, Recorder; print(type(serve_app()) is Recorder)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.stdout.strip() == "True", ended.stderr
    assert "lifeguard[otel]" in ended.stderr
