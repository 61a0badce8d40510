"""The endpoint: deadlines, sizes, retries, spending, and an end to bothering one that fails."""

import asyncio
import gzip
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from guard.errors import BadConfiguration
from learner.llm import LLM, Spending, connect
from learner.prompts import Prompt
from learner.settings import LearnerSettings
from tests.conftest import START
from tests.fakes.llm import FakeLLM, Reply, completion, error, raw

PROMPT = Prompt("verdicts", "You sort messages.", '<<<ab\n"a secret text"\nab>>>', {"type": "object"})
KEY = "sk-fake-key"


class Pauses(list[float]):
    """A pause that takes no time and remembers how long it would have been."""

    async def __call__(self, seconds: float) -> None:
        """Pause."""
        self.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    """Pauses that take no time."""
    return Pauses()


def _settings(llm: FakeLLM | str, **changes: Any) -> LearnerSettings:
    url = llm if isinstance(llm, str) else llm.base_url
    return LearnerSettings(llm_base_url=url, llm_api_key=KEY, **changes)


@asynccontextmanager
async def _endpoint(
    llm: FakeLLM | str, pauses: Pauses, *, spending: Spending | None = None, **changes: Any
) -> AsyncIterator[LLM]:
    settings = _settings(llm, **changes)
    async with connect(settings) as client:
        spending = spending or Spending(settings.llm_max_calls, settings.llm_max_tokens)
        yield LLM(client, spending=spending, settings=settings, pause=pauses, clock=lambda: START)


async def _ask(llm: LLM) -> str | None:
    answer = await llm.ask(PROMPT, model="fake", temperature=0.0)
    return None if answer is None else answer.content


async def test_request_is_the_prompt(pauses: Pauses) -> None:
    """A call sends the two messages, the model, the temperature and the schema, with the key, once."""
    with FakeLLM(completion("yes")) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) == "yes"
            assert llm.ended is None
    (request,) = fake.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.json == {
        "model": "fake",
        "temperature": 0.0,
        "messages": [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdicts", "strict": True, "schema": {"type": "object"}},
        },
    }


async def test_address_and_key_come_from_openais_variables(monkeypatch: pytest.MonkeyPatch, pauses: Pauses) -> None:
    """Without settings of its own the learner goes where every OpenAI client would."""
    with FakeLLM(completion("yes")) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other\n")
        async with connect(LearnerSettings()) as client:
            llm = LLM(client, spending=Spending(9, 999), settings=LearnerSettings(), pause=pauses, clock=lambda: START)
            assert await _ask(llm) == "yes"
    assert fake.requests[0].headers["authorization"] == "Bearer sk-other"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"llm_api_key": None}, "OPENAI_API_KEY"),
        ({"llm_api_key": "  "}, "OPENAI_API_KEY"),
        ({"llm_api_key": "sk-\u00e9"}, "LLM key"),
        ({"llm_api_key": "sk-a\nX-Evil: 1"}, "LLM key"),
        ({"llm_api_key": KEY, "llm_base_url": "localhost:11434"}, "LEARNER_LLM_BASE_URL"),
        ({"llm_api_key": KEY, "llm_base_url": "http://[::1"}, "LEARNER_LLM_BASE_URL"),
        ({"llm_api_key": KEY, "llm_base_url": "file:///etc/passwd"}, "LEARNER_LLM_BASE_URL"),
        ({"llm_api_key": KEY, "llm_base_url": "https:///v1"}, "LEARNER_LLM_BASE_URL"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], named: str) -> None:
    """A missing or impossible key or address is said before anything is sent, without repeating the key."""
    with pytest.raises(BadConfiguration, match=named) as caught:
        connect(LearnerSettings(**settings))
    assert "sk-" not in caught.value.detail


def test_broken_proxy_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the HTTP client cannot use is the operator's to mend, not a crash of the cycle."""
    monkeypatch.setenv("ALL_PROXY", "gopher://proxy:70")
    with pytest.raises(BadConfiguration, match="proxy"):
        connect(_settings("http://llm.example/v1"))


async def test_endpoint_without_schemas_is_asked_plainly(pauses: Pauses) -> None:
    """One that refuses the schema, then the temperature, gets neither, at once and for the rest of the stage."""

    def old(request: dict[str, Any]) -> Reply:
        return error(400) if "response_format" in request or "temperature" in request else completion("yes")

    with FakeLLM(old) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) == "yes"
            assert await _ask(llm) == "yes"
    sent = [("response_format" in r.json, "temperature" in r.json) for r in fake.requests]
    assert sent == [(True, True), (False, True), (False, False), (False, False)]
    assert pauses == []


async def test_one_bad_request_does_not_spoil_the_form(pauses: Pauses) -> None:
    """A prompt that is refused in every form fails alone: the next one is asked with its schema again."""
    with FakeLLM(error(400), error(400), error(400), completion("yes")) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) is None
            assert await _ask(llm) == "yes"
    assert "response_format" in fake.requests[-1].json


@pytest.mark.parametrize(
    ("header", "waits"),
    [
        ("1", [1.0, 1.0]),
        ("2.5", [2.5, 2.5]),
        ("121", [20.0, 20.0]),
        ("1e999", [1.0, 2.0]),
        ("NaN", [1.0, 2.0]),
        ("-1", [1.0, 2.0]),
        ("0", [1.0, 2.0]),
        ("soon", [1.0, 2.0]),
        ("", [1.0, 2.0]),
        ("Fri, 20 Nov 2026 12:00:07 GMT", [7.0, 7.0]),
        ("Fri, 20 Nov 2026 12:00:07", [7.0, 7.0]),
        ("Fri, 20 Nov 2026 14:00:07 +0200", [7.0, 7.0]),
        ("Fri, 20 Nov 2026 13:00:00 GMT", [20.0, 20.0]),
        ("Fri, 20 Nov 2020 12:00:00 GMT", [1.0, 2.0]),
        ("Fri, 99 Nov 2026 99:00:00 GMT", [1.0, 2.0]),
        (None, [1.0, 2.0]),
    ],
)
async def test_retry_after_is_honoured_within_reason(header: str | None, waits: list[float], pauses: Pauses) -> None:
    """A number or a date is followed up to 20 s; what says nothing sensible leaves our own doubling pause."""
    headers = {} if header is None else {"retry_after": header}
    with FakeLLM(error(429, **headers)) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) is None
    assert pauses == waits
    assert len(fake.requests) == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_passing_trouble_is_tried_again(status: int, pauses: Pauses) -> None:
    """An endpoint that recovers answers the same call."""
    with FakeLLM(error(status), error(status), completion("yes")) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) == "yes"
    assert len(fake.requests) == 3


async def test_storm_ends_in_leaving_the_endpoint_alone(pauses: Pauses) -> None:
    """After three failed calls of three attempts each nothing more is sent, whatever is asked."""
    with FakeLLM(error(500)) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert [await _ask(llm) for _ in range(10)] == [None] * 10
            assert llm.ended == "the LLM failed 3 calls in a row, the last with: HTTP 500"
    assert len(fake.requests) == 9
    assert sum(pauses) == 9.0


async def test_single_failures_do_not_add_up(pauses: Pauses) -> None:
    """An answer in between makes the endpoint trusted again."""
    rounds = itertools.cycle([error(413), error(413), completion("yes")])
    with FakeLLM(lambda _: next(rounds)) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert [await _ask(llm) for _ in range(9)] == [None, None, "yes"] * 3
            assert llm.ended is None


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_hopeless_answers_end_it_at_once(status: int, pauses: Pauses) -> None:
    """A refused key or an unknown model is not asked twice, and the reason says what to check."""
    with FakeLLM(error(status)) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) is None
            assert await _ask(llm) is None
            assert llm.ended == f"the LLM endpoint answers HTTP {status}: check its address, key and model"
    assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int, pauses: Pauses) -> None:
    """Neither the text nor the key goes to a host the operator did not name."""
    with FakeLLM(completion("stolen")) as elsewhere:
        there = Reply(status, {"Location": f"{elsewhere.base_url}/chat/completions"})
        with FakeLLM(there) as fake:
            async with _endpoint(fake, pauses) as llm:
                assert await _ask(llm) is None
    assert elsewhere.requests == []
    assert len(fake.requests) == 1


async def test_refused_connection_is_a_failed_call(pauses: Pauses) -> None:
    """An endpoint that is down costs three attempts a call and no exception."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with _endpoint(f"http://127.0.0.1:{closed.getsockname()[1]}/v1", pauses) as llm:
            assert [await _ask(llm) for _ in range(4)] == [None] * 4
            assert llm.ended == "the LLM failed 3 calls in a row, the last with: ConnectError"
    assert pauses == [1.0, 2.0] * 3


async def test_unknown_host_is_a_failed_call(pauses: Pauses, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is trouble like any other."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with _endpoint("http://nowhere.invalid/v1", pauses) as llm:
        assert await _ask(llm) is None
    assert len(pauses) == 2


async def test_plain_http_behind_https_is_a_failed_call(pauses: Pauses) -> None:
    """A TLS handshake that fails is trouble like any other."""
    with FakeLLM(completion("yes")) as fake:
        async with _endpoint(fake.base_url.replace("http:", "https:"), pauses) as llm:
            assert await _ask(llm) is None
    assert fake.requests == []


async def test_silence_ends_at_the_deadline(pauses: Pauses) -> None:
    """An endpoint that never answers costs the request's deadline for each attempt."""
    with FakeLLM(Reply(hangs=True)) as fake:
        async with _endpoint(fake, pauses, llm_request_s=0.3) as llm:
            started = time.monotonic()
            assert await _ask(llm) is None
            assert time.monotonic() - started < 5
    assert len(fake.requests) == 3


async def test_drops_do_not_prolong_the_deadline(pauses: Pauses) -> None:
    """An answer that comes byte by byte, each in time, is cut at the total deadline all the same."""
    drops = Reply(parts=[b" "] * 100_000, pause_s=0.005)
    with FakeLLM(drops, drops, completion("yes")) as fake:
        async with _endpoint(fake, pauses, llm_request_s=0.5) as llm:
            started = time.monotonic()
            assert await _ask(llm) == "yes"
            assert time.monotonic() - started < 5


async def test_stage_deadline_holds_over_calls(pauses: Pauses) -> None:
    """When the stage's time is up, the call in flight ends, no other begins, and the reason says which setting."""
    with FakeLLM(Reply(hangs=True)) as fake:
        async with _endpoint(fake, pauses, llm_stage_s=0.2) as llm:
            started = time.monotonic()
            assert [await _ask(llm) for _ in range(5)] == [None] * 5
            assert time.monotonic() - started < 5
            assert llm.ended == "deadline: LEARNER_LLM_STAGE_S=0.2"
    assert len(fake.requests) <= 1


async def test_no_pause_outlasts_the_stage(pauses: Pauses) -> None:
    """A long Retry-After is cut to the time the stage has left."""
    with FakeLLM(error(429, retry_after="19")) as fake:
        async with _endpoint(fake, pauses, llm_stage_s=5) as llm:
            assert await _ask(llm) is None
    assert pauses
    assert max(pauses) <= 5


async def test_endless_body_is_cut(pauses: Pauses) -> None:
    """Of a body without end about a megabyte is read, and the call is not repeated."""
    endless = Reply(parts=itertools.repeat(b" " * 65_536))
    with FakeLLM(endless) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) is None
    assert len(fake.requests) == 1
    assert fake.sent_bytes < 16 * 1_048_576


@pytest.mark.parametrize("status", [200, 500])
async def test_compressed_body_is_not_unpacked(status: int, pauses: Pauses) -> None:
    """A compressed answer, which was not asked for, is refused before it can grow."""
    bomb = gzip.compress(b" " * 50_000_000)
    with FakeLLM(Reply(status, {"Content-Encoding": "gzip"}, [bomb])) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) is None
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>portal</html>", b"null", b"[]", b"{}", b'{"error": {}}', b"\xff\xfe", b"[" * 100_000, b'{"choices"'],
)
async def test_bodies_that_are_no_completion_are_failures(body: bytes, pauses: Pauses) -> None:
    """A page, a fragment or another protocol's answer is a failed call, not an exception."""
    with FakeLLM(raw(body)) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) is None
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": []}',
        '{"choices": null}',
        '{"choices": [{}]}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {"content": ["yes"]}}]}',
        '{"choices": {"message": {"content": "yes"}}}',
        '{"choices": [{"message": {"content": null}}], "usage": null}',
    ],
)
async def test_completions_without_text_are_empty_answers(body: str, pauses: Pauses) -> None:
    """No choices or no content is an answer that says nothing."""
    with FakeLLM(raw(body)) as fake:
        async with _endpoint(fake, pauses) as llm:
            assert await _ask(llm) == ""
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        (completion(None, refusal="I can't help with that."), True),
        (completion("partial", finish_reason="content_filter"), True),
        (completion("cut off", finish_reason="length"), False),
        (completion("yes", refusal=""), False),
    ],
)
async def test_refusals_by_protocol_are_recognised(reply: Reply, *, refused: bool, pauses: Pauses) -> None:
    """A refusal field or a content filter says that the LLM declined."""
    with FakeLLM(reply) as fake:
        async with _endpoint(fake, pauses) as llm:
            answer = await llm.ask(PROMPT, model="fake", temperature=1.0)
    assert answer is not None
    assert answer.refused is refused


async def test_calls_stop_at_their_cap(pauses: Pauses) -> None:
    """Exactly the allowed number of requests is made, retries included, also when many are asked at once."""
    with FakeLLM(error(500), completion("yes")) as fake:
        spending = Spending(max_calls=5, max_tokens=10**6)
        async with _endpoint(fake, pauses, spending=spending) as llm:
            answers = await asyncio.gather(*(_ask(llm) for _ in range(20)))
            assert llm.ended == "spending cap: LEARNER_LLM_MAX_CALLS=5"
    assert answers.count("yes") == 4
    assert len(fake.requests) == spending.calls == 5


async def test_tokens_stop_at_their_cap(pauses: Pauses) -> None:
    """Once the endpoint has charged the allowed tokens, no further call is made."""
    with FakeLLM(completion("yes", tokens=400)) as fake:
        spending = Spending(max_calls=100, max_tokens=1_000)
        async with _endpoint(fake, pauses, spending=spending) as llm:
            assert [await _ask(llm) for _ in range(6)] == ["yes"] * 3 + [None] * 3
            assert llm.ended == "spending cap: LEARNER_LLM_MAX_TOKENS=1000"
    assert spending.tokens == 1_200


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": "many"}, {"total_tokens": -5}, {"total_tokens": True}, 7])
async def test_unstated_charges_are_estimated(usage: Any, pauses: Pauses) -> None:
    """An endpoint that does not say what it charged is not free of charge."""
    body = json.dumps({"choices": [{"message": {"content": "yes " * 100}}], "usage": usage})
    with FakeLLM(raw(body)) as fake:
        spending = Spending(max_calls=100, max_tokens=10**6)
        async with _endpoint(fake, pauses, spending=spending) as llm:
            assert await _ask(llm)
    assert 100 < spending.tokens < 400


def test_spending_reports_what_is_new() -> None:
    """Each report holds what was spent since the one before; what a cycle had spent already is not new."""
    spending = Spending(max_calls=10, max_tokens=100, calls=4, tokens=50)
    assert spending.report() == {"calls": 0, "tokens": 0}
    spending.calls += 2
    spending.tokens += 7
    assert spending.report() == {"calls": 2, "tokens": 7}
    assert spending.report() == {"calls": 0, "tokens": 0}


async def test_logs_hold_types_and_codes_only(pauses: Pauses, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the prompt, the body nor the key is logged, by us or by the client at its most talkative."""
    caplog.set_level("DEBUG")
    with FakeLLM(error(500), raw("leaked body"), completion("leaked body")) as fake, capture_logs() as logs:
        async with _endpoint(fake, pauses) as llm:
            await _ask(llm)
            await _ask(llm)
    ours = [entry for entry in logs if entry["event"].startswith("llm_")]  # other threads of the process log, too
    assert [(entry["event"], entry["reason"]) for entry in ours] == [
        ("llm_call_failed", "HTTP 500"),
        ("llm_call_failed", "answer is no JSON"),
    ]
    said = str(logs) + caplog.text
    assert "POST" in caplog.text
    for secret in ("a secret text", "You sort messages", "leaked body", KEY):
        assert secret not in said
