"""An OpenAI-compatible endpoint: a prompt goes out, the answer's text comes back, or nothing when none is to be had.

Every call ends in time, every answer is small, redirects are not followed, retries and spending are bounded, and an
endpoint that keeps failing is left alone. Texts appear in no log and no error.
"""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2
import msgspec
import structlog
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError, omit

from guard.errors import BadConfiguration
from learner.prompts import Prompt
from learner.settings import LearnerSettings

Pause = Callable[[float], Awaitable[None]]

NO_KEY: Final = "no LLM key: set OPENAI_API_KEY or LEARNER_LLM_API_KEY"

_ATTEMPTS: Final = 3  # of one call
_MAX_FAILURES: Final = 3  # calls in a row, all their attempts used up, before the endpoint is left alone
_BACKOFF_S: Final = 1.0  # doubled with every attempt
_MAX_WAIT_S: Final = 20.0  # whatever Retry-After says
_MAX_ANSWER_BYTES: Final = 1_048_576  # an honest answer has some 2,000
_BYTES_PER_TOKEN: Final = 3  # where the endpoint does not say what it charged; English has 4
_HOPELESS: Final = frozenset({401, 403, 404})  # a key, model or path that will be as wrong for the next call
_UNUSUAL_FORM: Final = frozenset({400, 422})  # how endpoints refuse a parameter they do not know
_PASSING: Final = frozenset({408, 409, 425, 429})  # and every 5xx
_PLAINEST: Final = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an LLM said; `refused` when it declined by protocol (a refusal or a content filter)."""

    content: str
    refused: bool


@dataclass(slots=True)
class Spending:
    """Calls and tokens spent on a cycle, against their caps; `report` says what is new since it was last asked."""

    max_calls: int
    max_tokens: int
    calls: int = 0
    tokens: int = 0
    _reported: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._reported = (self.calls, self.tokens)

    @property
    def exhausted(self) -> str | None:
        """Which cap is reached, if any."""
        if self.calls >= self.max_calls:
            return f"spending cap: LEARNER_LLM_MAX_CALLS={self.max_calls}"
        if self.tokens >= self.max_tokens:
            return f"spending cap: LEARNER_LLM_MAX_TOKENS={self.max_tokens}"
        return None

    def report(self) -> dict[str, int]:
        """Return the calls and tokens since the last report."""
        calls, tokens = self._reported
        self._reported = (self.calls, self.tokens)
        return {"calls": self.calls - calls, "tokens": self.tokens - tokens}


class LLM:
    """One endpoint, for one stage.

    Args:
        client: Makes one HTTP request a call; it must not retry by itself.
        spending: What may still be spent.
        settings: `llm_request_s` is the deadline of one request, from connecting to the last byte; `llm_stage_s` that
            of everything, from now.
        pause: Waits before a retry; injected in tests.
        clock: Tells the time, for a Retry-After that is a date.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        *,
        spending: Spending,
        settings: LearnerSettings,
        pause: Pause,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._spending = spending
        self._request_s = settings.llm_request_s
        self._stage_s = settings.llm_stage_s
        self._deadline = asyncio.get_running_loop().time() + self._stage_s
        self._pause = pause
        self._clock = clock
        self._failures = 0
        self._plainness = 0
        self._given_up: str | None = None

    @property
    def ended(self) -> str | None:
        """Why no further call will be made, if so."""
        if self._given_up is None and self._left_s() <= 0:
            self._given_up = f"deadline: LEARNER_LLM_STAGE_S={self._stage_s:g}"
        return self._given_up or self._spending.exhausted

    async def ask(self, prompt: Prompt, *, model: str, temperature: float) -> Answer | None:
        """Return the answer to a prompt; None when the call failed or may not be made (see `ended`)."""
        attempt = 1
        plainness = self._plainness
        while self.ended is None:
            try:
                answer = await self._request(prompt, model, temperature, plainness)
            except _Failure as failure:
                _log.warning("llm_call_failed", prompt=prompt.name, model=model, reason=failure.reason, attempt=attempt)
                if failure.status in _UNUSUAL_FORM and plainness < _PLAINEST:
                    plainness += 1
                elif failure.passing and attempt < _ATTEMPTS:
                    wait_s = min(failure.retry_after_s or _BACKOFF_S * 2 ** (attempt - 1), _MAX_WAIT_S)
                    attempt += 1
                    await self._pause(min(wait_s, self._left_s()))
                else:
                    self._count(failure)
                    return None
            else:
                self._failures = 0
                self._plainness = max(self._plainness, plainness)
                return answer
        return None

    async def _request(self, prompt: Prompt, model: str, temperature: float, plainness: int) -> Answer:
        """Make one request within its deadline and the stage's, and account for it."""
        estimate = (len(prompt.system.encode()) + len(prompt.user.encode())) // _BYTES_PER_TOKEN
        self._spending.calls += 1
        self._spending.tokens += estimate  # before the answer, so that calls at the same time see it
        try:
            async with asyncio.timeout(min(self._request_s, self._left_s())):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=model,
                    messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
                    temperature=temperature if plainness < _PLAINEST else omit,
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": prompt.name, "strict": True, "schema": dict(prompt.schema)},
                    }
                    if plainness == 0
                    else omit,
                )
        except TimeoutError:
            raise _Failure("no answer in time", passing=True) from None
        except _UnacceptableAnswer as error:
            raise _Failure(str(error)) from None
        except APIStatusError as error:
            status = error.status_code
            raise _Failure(
                f"HTTP {status}",
                status=status,
                passing=status in _PASSING or status >= 500,  # noqa: PLR2004 - the class of server errors
                retry_after_s=_retry_after_s(error.response.headers.get("retry-after"), self._clock()),
            ) from None
        except APIConnectionError as error:
            raise _Failure(type(error.__cause__ or error).__name__, passing=True) from None
        except (OpenAIError, httpx2.HTTPError, UnicodeError) as error:
            raise _Failure(type(error).__name__) from None
        answer, tokens = _read(raw.content)
        self._spending.tokens += tokens if tokens is not None else len(raw.content) // _BYTES_PER_TOKEN
        self._spending.tokens -= estimate if tokens is not None else 0
        return answer

    def _count(self, failure: "_Failure") -> None:
        """Count a failed call; give the endpoint up when it is hopeless or the calls before failed too."""
        self._failures += 1
        if self.ended is not None:
            return
        if failure.status in _HOPELESS:
            self._given_up = f"the LLM endpoint answers {failure.reason}: check its address, key and model"
        elif self._failures >= _MAX_FAILURES:
            self._given_up = f"the LLM failed {self._failures} calls in a row, the last with: {failure.reason}"

    def _left_s(self) -> float:
        return max(0.0, self._deadline - asyncio.get_running_loop().time())


def connect(settings: LearnerSettings) -> AsyncOpenAI:
    """Return a client of the settings' endpoint, to be closed after use; nothing is sent yet.

    Raises:
        BadConfiguration: There is no key, or the key or the address cannot work.
    """
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else os.environ.get("OPENAI_API_KEY", "")
    address = settings.llm_base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    key = key.strip()
    if not key:
        raise BadConfiguration(NO_KEY)
    if not (key.isascii() and key.isprintable()):
        raise BadConfiguration("the LLM key holds characters that no HTTP header can carry")
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadConfiguration("the LLM address must be https:// or http:// with a host: see LEARNER_LLM_BASE_URL")
    try:
        http = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=None,  # `LLM` sets a total deadline instead, which an answer in drops cannot prolong
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_bound]},
        )
    except (ImportError, OSError, ValueError) as error:
        raise BadConfiguration(
            f"the HTTP client cannot be made ({type(error).__name__}): check the proxy and certificate variables"
        ) from None
    return AsyncOpenAI(api_key=key, base_url=url, max_retries=0, timeout=None, http_client=http)


class _Failure(Exception):
    """A request without an answer: its reason is a status or a type, never a body."""

    def __init__(
        self, reason: str, *, status: int | None = None, passing: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.passing = passing
        self.retry_after_s = retry_after_s


class _UnacceptableAnswer(Exception):
    """An answer that is not worth reading to its end."""


class _BoundStream(httpx2.AsyncByteStream):
    """A body that breaks off above the limit."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for part in self._body:
            size_bytes += len(part)
            if size_bytes > _MAX_ANSWER_BYTES:
                raise _UnacceptableAnswer(f"answer above {_MAX_ANSWER_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: httpx2.Response) -> None:
    """Bound a body before any of it is read; a compressed one, which was not asked for, could grow without bound."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _UnacceptableAnswer("compressed answer")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _BoundStream(response.stream)


def _read(body: bytes) -> tuple[Answer, int | None]:
    """Return the answer in a chat completion and the tokens it was charged, where it says so."""
    try:
        completion = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Failure("answer is no JSON") from None
    match completion:
        case {"choices": [{"message": {**message}, **choice}, *_]}:
            content = message.get("content")
            refused = bool(message.get("refusal")) or choice.get("finish_reason") == "content_filter"
            answer = Answer(content if isinstance(content, str) else "", refused)
        case {"choices": _}:
            answer = Answer("", refused=False)
        case _:
            raise _Failure("answer is no chat completion")
    return answer, _charged(completion.get("usage"))


def _charged(usage: Any) -> int | None:
    match usage:
        case {"total_tokens": int(tokens)} if tokens > 0 and not isinstance(tokens, bool):
            return tokens
    return None


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """Return how many seconds a Retry-After header asks for; None when it says nothing that can be followed."""
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        wait_s = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return wait_s if math.isfinite(wait_s) and wait_s > 0 else None
