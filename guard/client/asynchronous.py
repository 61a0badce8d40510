"""The client for asyncio: one deadline over all attempts, a pool of connections, and no verdict that was not made."""

import asyncio
import logging
import math
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn, Self

import httpx
import msgspec

from guard.client import wire
from guard.client.answers import Answer, Judged, Reason, Unjudged
from guard.client.retries import Retries
from guard.client.wire import Setback
from guard.errors import BadConfiguration, NotJudged
from guard.schemas import DEADLINE_HEADER, ClassifyRequest, ClassifyResponse, Turn
from guard.taxonomy import Category

MAX_ANSWER_BYTES: Final = 4_194_304  # 128 verdicts with an action text of a page each have 1 MB
KEEPALIVE_S: Final = 30.0
NOT_COPIED: Final = "A client is not pickled or copied: make one in each process."
_KEY: Final = re.compile(r"[!-~]+")

OnFailure = Literal["block", "allow", "raise"]
Thresholds = Mapping[Category, float]

_log = logging.getLogger("guard.client")


class AsyncClient:
    """Asks a guard. For the tasks of one event loop.

    Args:
        base_url: Where the guard is, such as `http://127.0.0.1:8000`. Neither proxies nor credentials are taken from the
            environment, and redirects are not followed: texts go there and nowhere else.
        on_failure: What to make of a text that was not judged. "block" and "allow" answer with an `Unjudged`, whose
            `allowed` is False or True; "raise" raises `NotJudged`. A request that the guard does not take (400, 413) is
            never allowed: whoever writes the text could see to it.
        api_key: A client's key, where the guard wants one.
        deadline_s: Seconds for a call, from its begin to its last byte, with all attempts and waits; the guard is told.
        retries: The budget for further attempts after a 503 or a broken connection.
        max_connections: Connections at once; further calls wait, within their deadline.

    Raises:
        BadConfiguration: An argument that cannot work.
    """

    def __init__(
        self,
        base_url: str,
        *,
        on_failure: OnFailure,
        api_key: str | None = None,
        deadline_s: float = 2.0,
        retries: Retries | None = None,
        max_connections: int = 64,
    ) -> None:
        if on_failure not in {"block", "allow", "raise"}:
            raise BadConfiguration('on_failure must be "block", "allow" or "raise".')
        if not (0 < deadline_s < math.inf):
            raise BadConfiguration(f"deadline_s={deadline_s} must be a positive number of seconds.")
        if max_connections < 1:
            raise BadConfiguration(f"max_connections={max_connections} must be at least 1.")
        if api_key is not None and not _KEY.fullmatch(api_key):
            raise BadConfiguration("api_key must be printable ASCII without blanks: copy the key anew.")
        self._url = _classify_url(base_url)
        self._on_failure = on_failure
        self._deadline_s = deadline_s
        self._retries = retries or Retries()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "lifeguard"}
        self._http = httpx.AsyncClient(
            headers=headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
            verify=ssl.create_default_context(),  # the machine's certificates; SSL_CERT_FILE names others
            timeout=None,  # noqa: S113 - the deadline of the call ends every wait, of which httpx knows only single ones
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE_S,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: it may hold a key, and its connections belong to one event loop."""
        raise TypeError(NOT_COPIED)

    async def close(self) -> None:
        """Close the connections; calls under way end without a verdict."""
        await self._http.aclose()

    async def classify(
        self, text: str, *, user: str | None = None, store: bool = True, thresholds: Thresholds | None = None
    ) -> Answer:
        """Judge one text.

        Args:
            text: What a user wrote.
            user: An opaque id of whoever wrote it.
            store: Whether the guard may keep it for its reviewers.
            thresholds: Override the model's own, category by category.

        Raises:
            NotJudged: There was no verdict and `on_failure` is "raise".
        """
        _check_text(text)
        return (await self._ask(ClassifyRequest(text=text, **_options(user, store, thresholds)), 1))[0]

    async def classify_many(
        self, texts: Iterable[str], *, user: str | None = None, store: bool = True, thresholds: Thresholds | None = None
    ) -> list[Answer]:
        """Judge several texts in one request, all by one version; the answers are in the order of the texts.

        The guard takes `GUARD_MAX_TEXTS` at once. One text that it does not take leaves all of them without a verdict.

        Raises:
            NotJudged: There were no verdicts and `on_failure` is "raise".
        """
        if isinstance(texts, str):
            raise TypeError("texts must be several texts, not one: use classify for that.")
        chosen = list(texts)
        for text in chosen:
            _check_text(text)
        if not chosen:
            return []
        return await self._ask(ClassifyRequest(texts=chosen, **_options(user, store, thresholds)), len(chosen))

    async def classify_messages(
        self,
        messages: Sequence[Turn | Mapping[str, Any]],
        *,
        user: str | None = None,
        store: bool = True,
        thresholds: Thresholds | None = None,
    ) -> Answer:
        """Judge the last user turn of a chat, written as OpenAI's API has it; only roles and contents are sent.

        Raises:
            NotJudged: There was no verdict and `on_failure` is "raise".
        """
        turns = _turns(messages)
        if turns is None:
            raise TypeError("messages must be a chat: a list of turns, each with a role and a content.")
        return (await self._ask(ClassifyRequest(messages=turns, **_options(user, store, thresholds)), 1))[0]

    async def _ask(self, request: ClassifyRequest, expected: int) -> list[Answer]:
        outcome, attempts = await self._judge(wire.write(request), expected)
        if isinstance(outcome, ClassifyResponse):
            return [
                Judged(**msgspec.structs.asdict(result), id=outcome.id, model_version=outcome.model_version)
                for result in outcome.results
            ]
        unjudged = Unjudged(
            reason=outcome.reason,
            allowed=self._on_failure == "allow" and outcome.reason is not Reason.BAD_INPUT,
            status=outcome.status,
            title=outcome.title,
            attempts=attempts,
        )
        _log.warning(
            "not judged, %s: reason=%s status=%s attempts=%d texts=%d",
            self._on_failure,
            unjudged.reason,
            unjudged.status,
            attempts,
            expected,
        )
        if self._on_failure == "raise":
            raise NotJudged(unjudged.detail, reason=unjudged.reason)
        return [unjudged] * expected

    async def _judge(self, body: bytes, expected: int) -> tuple[ClassifyResponse | Setback, int]:
        """Make attempts until one succeeds, none is left, or the deadline passes; return the last one's end and number."""
        clock = asyncio.get_running_loop().time
        expires = clock() + self._deadline_s
        attempt = 1
        try:
            async with asyncio.timeout_at(expires):
                while True:
                    outcome = await self._attempt(body, expected, left_s=expires - clock())
                    if isinstance(outcome, ClassifyResponse):
                        self._retries.earn()
                        return outcome, attempt
                    left_s = expires - clock()
                    wait_s = (
                        self._retries.wait_s(attempt, retry_after_s=outcome.retry_after_s, left_s=left_s)
                        if outcome.passing
                        else None
                    )
                    if wait_s is None:
                        return outcome, attempt
                    await self._retries.pause(wait_s)
                    attempt += 1
        except TimeoutError:
            return Setback(Reason.OUT_OF_TIME), attempt

    async def _attempt(self, body: bytes, expected: int, *, left_s: float) -> ClassifyResponse | Setback:
        headers = {DEADLINE_HEADER: str(max(1, int(left_s * 1000)))}
        try:
            async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
                content = bytearray()
                async for part in response.aiter_raw():  # as it came: nothing that was packed small is unpacked here
                    content += part
                    if len(content) > MAX_ANSWER_BYTES:
                        return Setback(Reason.BAD_ANSWER, status=response.status_code)
        except httpx.TransportError:  # it holds the request: it must not become the context of another error
            return Setback(Reason.UNREACHABLE, passing=True)
        return wire.read(response.status_code, response.headers, bytes(content), expected=expected)


def _classify_url(base_url: str) -> httpx.URL:
    """Return the address to post to.

    Raises:
        BadConfiguration: It is no plain http or https address; it may hold a password and is not repeated.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise BadConfiguration(
            "base_url must be like http://127.0.0.1:8000, without name, password, query or fragment."
        )
    return url.copy_with(path=f"{url.path.rstrip('/')}/classify")


def _options(user: str | None, store: bool, thresholds: Thresholds | None) -> dict[str, Any]:  # noqa: FBT001
    return {"user": user, "store": store, "thresholds": None if thresholds is None else dict(thresholds)}


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"A text must be a str, not {type(text).__name__}.")


def _turns(messages: Sequence[Turn | Mapping[str, Any]]) -> list[Turn] | None:
    try:
        return msgspec.convert(messages, list[Turn], from_attributes=True)
    except msgspec.ValidationError:
        return None
