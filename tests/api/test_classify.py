"""`POST /classify`: what it takes, what it refuses, and that it never gives a verdict it does not have."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from guard.bundle import Bundle, Outputs, Window
from guard.exports import Exports
from guard.schemas import ClassifyResponse
from guard.settings import GuardSettings
from guard.taxonomy import CATEGORIES, GUIDELINES, Action, Category
from tests.api.conftest import Running, Serve, update
from tests.toys import publish_toy

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canary-8d1f"
FINE = {"emergency-situation": 0.003}  # one word among the 30 of a window is enough


def _counted(resident: Running) -> dict[str, float]:
    name = "guard_verdicts_total"
    return {c: resident.metric(name, category=c, action=GUIDELINES[c].action) for c in CATEGORIES}


def _category(response: httpx.Response) -> str:
    return str(response.json()["results"][0]["category"])


# what it takes


async def test_text(resident: Running) -> None:
    """One text gives one result with its category, action and six scores that sum to 1, under the champion's version."""
    response = await resident.classify(text="SUE the landlord")
    answer = msgspec.json.decode(response.content, type=ClassifyResponse)
    result = answer.results[0]
    assert response.status_code == 200
    assert answer.model_version == "0001"
    assert (result.category, result.flagged, result.action) == (Category.LEGAL_ADVICE, True, Action.ADVISE)
    assert list(result.scores) == list(CATEGORIES)
    assert sum(result.scores.values()) == pytest.approx(1, abs=1e-5)
    assert result.windows == 1


async def test_texts_keep_their_order(resident: Running) -> None:
    """Several texts give their results in the order they were sent."""
    words = ["hello", "rash", "invest", "hello", "trapped", "die", "sue"]
    response = await resident.classify(texts=words)
    assert [r["category"] for r in response.json()["results"]] == [
        "not-harmful",
        "medical-advice",
        "financial-advice",
        "not-harmful",
        "emergency-situation",
        "self-harm",
        "legal-advice",
    ]


@pytest.mark.parametrize(
    ("messages", "category"),
    [
        ([{"role": "user", "content": "rash"}], "medical-advice"),
        ([{"role": "user", "content": "rash"}, {"role": "user", "content": "hello"}], "not-harmful"),
        ([{"role": "system", "content": "die"}, {"role": "user", "content": "sue"}], "legal-advice"),
        ([{"role": "user", "content": "sue"}, {"role": "assistant", "content": "die"}], "legal-advice"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "dose"}]}], None),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "dose"}]}], "medical-advice"),
        ([{"role": "user", "content": "dose"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "die", "tool_call_id": "1"}], "medical-advice"),
        ([{"role": "user", "content": "dose", "name": "Ada"}], "medical-advice"),
    ],
)  # fmt: skip
async def test_messages(resident: Running, messages: list[object], category: str | None) -> None:
    """Of a chat the last user turn is judged, as text or as parts, and turns of tools do not get in the way."""
    response = await resident.classify(messages=messages)
    assert response.status_code == 200
    assert len(response.json()["results"]) == 1
    assert category is None or _category(response) == category


async def test_body_needs_no_content_type(resident: Running) -> None:
    """A JSON body is read as JSON whatever its content type says, as from a bare `curl -d`."""
    response = await resident.client.post(
        "/classify", content=b'{"text": "rash"}', headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert _category(response) == "medical-advice"


@pytest.mark.parametrize("text", ["null", "true", "3", "[]", '{"text": "x"}', "\u0000hello\u0000", "hello\u200b"])
async def test_text_is_text(resident: Running, text: str) -> None:
    """A text that looks like another JSON value, or that hides control characters, is judged as a text."""
    assert (await resident.classify(text=text)).status_code == 200


async def test_normalised_before_judged(resident: Running) -> None:
    """Full-width letters and zero-width characters do not hide a word."""
    assert _category(await resident.classify(text="\uff53\u200b\uff55\u00ad\uff45")) == "legal-advice"


# what it refuses


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"{}", "exactly one of text, texts and messages"),
        (b'{"text": "canary-8d1f", "texts": ["canary-8d1f"]}', "exactly one of text, texts and messages"),
        (b'{"text": "a", "messages": []}', "exactly one of text, texts and messages"),
        (b'{"texts": []}', "texts is empty"),
        (b'{"texts": ["a", 3]}', "$.texts[1]"),
        (b'{"text": ["canary-8d1f"]}', "$.text"),
        (b'{"text": 3}', "$.text"),
        (b'{"text": {"canary-8d1f": 1}}', "$.text"),
        (b'{"text": " \\n\\t "}', "Text 0 holds no visible character"),
        (b'{"texts": ["canary-8d1f", "\\u200b\\u0000"]}', "Text 1 holds no visible character"),
        (b'{"messages": []}', 'no turn with the role "user"'),
        (b'{"messages": [{"role": "assistant", "content": "canary-8d1f"}]}', 'no turn with the role "user"'),
        (b'{"messages": [{"role": "user"}]}', "Text 0 holds no visible character"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "Text 0 holds no visible"),
        (b'{"messages": [{"role": "user", "content": {"canary-8d1f": 1}}]}', "$.messages[0].content"),
        (b'{"messages": [{"content": "canary-8d1f"}]}', "missing required field `role`"),
        (b'{"messages": "canary-8d1f"}', "$.messages"),
        (b'{"text": "canary-8d1f", "canary-8d1f": 1}', "a field that this route does not take"),
        (b'{"text": "a", "store": "canary-8d1f"}', "$.store"),
        (b'{"text": "a", "store": "false"}', "$.store"),
        (b'{"text": "a", "user": ""}', "$.user"),
        (b'{"text": "a", "user": 3}', "$.user"),
        (b'{"text": "a", "user": "' + b"u" * 257 + b'"}', "length <= 256"),
        (b'{"text": "a", "thresholds": {"canary-8d1f": 0.5}}', "$.thresholds"),
        (b'{"text": "a", "thresholds": {"canary\' - at `$.x`": 0.5}}', "$.thresholds"),
        (b'{"text": "a", "thresholds": {"self-harm": 0}}', "> 0"),
        (b'{"text": "a", "thresholds": {"self-harm": 1.01}}', "<= 1"),
        (b'{"text": "a", "thresholds": {"self-harm": 1e999}}', "$.thresholds"),
        (b'{"text": "a", "thresholds": {"self-harm": NaN}}', "not JSON"),
        (b'{"text": "a", "thresholds": {"self-harm": "canary-8d1f"}}', "$.thresholds"),
        (b'{"text": 1' + b"0" * 400 + b"}", "$.text"),
        (b"", "no body"),
        (b"null", "Expected `object`"),
        (b'["canary-8d1f"]', "Expected `object`"),
        (b'"canary-8d1f"', "Expected `object`"),
        (b"canary-8d1f", "not JSON"),
        (b'{"text": "canary-8d1f"', "not JSON"),
        (b'{"text": "canary-8d1f"} canary-8d1f', "not JSON"),
        (b'{"text": "canary-8d1f\x01"}', "not JSON"),
        (b'{"text": "\xffcanary-8d1f"}', "not UTF-8"),
        ('{"text": "canary-8d1f"}'.encode("utf-16"), "not JSON"),
        (b'{"text": "canary-8d1f \\ud83d"}', "half a surrogate pair"),
        (b'{"text": "canary-8d1f \\udc00 more"}', "half a surrogate pair"),
        (b'{"text": ' + b"[" * 100_000, "$.text"),
        (b'{"messages": [{"role": "user", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "too deeply"),
        (b'{"messages": [{"role": "user", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}]}", "too deeply"),
    ],
)  # fmt: skip
async def test_wrong_shapes(resident: Running, body: bytes, hint: str) -> None:
    """A body that does not fit is a 400 that says where and what to do, in problem+json, and repeats nothing of it."""
    response = await resident.client.post("/classify", content=body)
    problem = response.json()
    assert response.status_code == problem["status"] == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert hint in problem["detail"]
    assert "canary" not in response.text
    assert len(response.content) < 400


@pytest.mark.parametrize("over", [0, 1])
async def test_limit_of_characters(serve: Serve, guard_settings: GuardSettings, exports: Exports, over: int) -> None:
    """A text of exactly the limit is judged, one character more is a 413 that names limit and setting."""
    publish_toy(exports)
    async with serve(update(guard_settings, max_text_chars=600)) as running:
        response = await running.classify(texts=["hello", "\u00e4" * (600 + over)])
    assert response.status_code == (413 if over else 200)
    assert not over or ("600" in response.json()["detail"] and "GUARD_MAX_TEXT_CHARS" in response.json()["detail"])


@pytest.mark.parametrize("over", [0, 1])
async def test_limit_of_texts(serve: Serve, guard_settings: GuardSettings, exports: Exports, over: int) -> None:
    """Exactly as many texts as the limit are judged, one more is a 413 that names the limit."""
    publish_toy(exports)
    async with serve(update(guard_settings, max_texts=5)) as running:
        response = await running.classify(texts=["hello"] * (5 + over))
    assert response.status_code == (413 if over else 200)
    assert not over or "5" in response.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("over", [0, 1])
async def test_limit_of_bytes(
    serve: Serve, guard_settings: GuardSettings, exports: Exports, over: int, *, chunked: bool
) -> None:
    """A body of exactly the limit is judged, one byte more is a 413, whether or not its length is announced."""
    publish_toy(exports)
    body = b'{"text": "hello"}'.ljust(2048 + over)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    async with serve(update(guard_settings, max_body_bytes=2048)) as running:
        response = await running.client.post("/classify", content=chunks() if chunked else body)
    assert response.status_code == (413 if over else 200)
    assert not over or "2048" in response.json()["detail"]


async def test_body_above_the_limit_is_not_read(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """An endless body is refused as soon as it passes the limit; the rest of it is never asked for."""
    publish_toy(exports)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1024

    async with serve(update(guard_settings, max_body_bytes=4096)) as running:
        response = await running.client.post("/classify", content=endless())
    assert response.status_code == 413
    assert sent <= 6


# thresholds and actions


async def test_threshold_down(resident: Running) -> None:
    """A lower threshold for a category flags what the export's own would clear."""
    text = "hello " * 9 + "rash"
    own = (await resident.classify(text=text)).json()["results"][0]
    lower = (await resident.classify(text=text, thresholds={"medical-advice": 0.001})).json()["results"][0]
    assert (own["category"], lower["category"]) == ("not-harmful", "medical-advice")
    assert own["scores"] == lower["scores"]


async def test_threshold_up(resident: Running) -> None:
    """A higher threshold for a category clears what the export's own would flag, and leaves the others in force."""
    text = "rash hello hello"
    own = (await resident.classify(text=text, thresholds={"medical-advice": 0.001})).json()["results"][0]
    higher = (await resident.classify(text=text, thresholds={"medical-advice": 1})).json()["results"][0]
    other = (await resident.classify(text="sue", thresholds={"medical-advice": 1})).json()["results"][0]
    assert (own["category"], higher["category"], other["category"]) == ("medical-advice", "not-harmful", "legal-advice")


async def test_thresholds_end_with_their_request(resident: Running) -> None:
    """One request's thresholds are not the next one's."""
    await resident.classify(text="sue", thresholds=dict.fromkeys(CATEGORIES, 1))
    assert _category(await resident.classify(text="sue")) == "legal-advice"


async def test_actions_and_texts(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Actions and their texts come from the settings; a category that is not named keeps its own action."""
    publish_toy(exports)
    changed = update(
        guard_settings, actions={"medical-advice": "escalate"}, action_texts={"medical-advice": "Call 116117."}
    )
    async with serve(changed) as running:
        medical, legal, harmless = (await running.classify(texts=["rash", "sue", "hello"])).json()["results"]
    assert (medical["action"], medical["action_text"]) == ("escalate", "Call 116117.")
    assert (legal["action"], harmless["action"]) == ("advise", "allow")
    assert "action_text" not in legal


async def test_uncertain(resident: Running) -> None:
    """A verdict torn between categories says that it is uncertain, a plain one that it is not."""
    torn, plain = (await resident.classify(texts=["rash sue invest fire die joke", "rash"])).json()["results"]
    assert (torn["uncertain"], plain["uncertain"]) == (True, False)
    assert torn["uncertainty"] > 0.9 > plain["uncertainty"]


# long texts


@pytest.mark.parametrize("share", [0, 25, 50, 75, 100])
async def test_no_part_of_a_long_text_is_overlooked(resident: Running, share: int) -> None:
    """One telling word is found wherever it stands in a text of many windows."""
    words = ["hello"] * 1000
    without = (await resident.classify(text=" ".join(words), thresholds=FINE)).json()["results"][0]
    words.insert(10 * share, "trapped")
    result = (await resident.classify(text=" ".join(words), thresholds=FINE)).json()["results"][0]
    assert (without["category"], result["category"]) == ("not-harmful", "emergency-situation")
    assert result["windows"] > 30


async def test_long_and_short_texts_together(resident: Running) -> None:
    """Each of several texts gets the verdict on its own windows."""
    long = "hello " * 300
    texts = [long, "rash", long + "sue", "hello"]
    results = (await resident.classify(texts=texts, thresholds={"legal-advice": 0.003})).json()["results"]
    assert [r["category"] for r in results] == ["not-harmful", "medical-advice", "legal-advice", "not-harmful"]
    assert [r["windows"] > 1 for r in results] == [True, False, True, False]


# no verdict without a model, time and room


async def test_no_model(serve: Serve, guard_settings: GuardSettings) -> None:
    """Without an export a request is a 503 that says when to try again, and there is no category in it."""
    async with serve(guard_settings) as running:
        response = await running.classify(text=CANARY)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["title"] == "No model"
    assert not any(c in response.text for c in (*CATEGORIES, CANARY))


class _Stub(Bundle):
    """A loaded toy whose runs are somebody else's."""

    def __init__(self, bundle: Bundle) -> None:
        self.__dict__.update(bundle.__dict__)
        self.running = asyncio.Event()
        self.released = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def release(self) -> None:
        """Let the run that waits end."""
        self.released.set()

    def run(self, windows: Iterable[Window]) -> Outputs:
        """Wait until released; then run."""
        self.loop.call_soon_threadsafe(self.running.set)
        asyncio.run_coroutine_threadsafe(self.released.wait(), self.loop).result()
        return super().run(list(windows))


class _Giving(Bundle):
    """A loaded toy that gives the same logits whatever it is asked."""

    def __init__(self, bundle: Bundle, logits: npt.NDArray[np.float32]) -> None:
        self.__dict__.update(bundle.__dict__)
        self._given = logits

    def run(self, windows: Iterable[Window]) -> Outputs:
        """Return the logits, a row for each window."""
        rows = np.tile(self._given, (len(list(windows)), 1))
        return Outputs(logits=rows, embeddings=rows)


def _loaded(running: Running) -> Bundle:
    assert running.engine.bundle is not None
    return running.engine.bundle


@contextmanager
def _serving(resident: Running, bundle: Bundle) -> Iterator[None]:
    """Put a bundle in service for a while."""
    sound = _loaded(resident)
    resident.engine.swap(bundle)
    yield
    resident.engine.swap(sound)


async def test_deadline(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """A request whose run does not end in time is a 503, and the guard answers again once the run is over."""
    publish_toy(exports)
    async with serve(update(guard_settings, deadline_ms=30)) as running:
        stuck = _Stub(_loaded(running))
        running.engine.swap(stuck)
        late = await running.classify(text=CANARY)
        stuck.release()
        assert (late.status_code, late.json()["title"]) == (503, "Out of time")
        assert int(late.headers["retry-after"]) >= 1
        assert not any(c in late.text for c in (*CATEGORIES, CANARY))
        assert (await running.classify(text="hello")).status_code == 200


async def test_queue_full(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Once as many tokens wait as may, a further request is a 503 at once; those that wait are answered."""
    publish_toy(exports)
    async with serve(update(guard_settings, max_queue_tokens=512)) as running:
        stuck = _Stub(_loaded(running))
        running.engine.swap(stuck)
        text = "hello " * 250  # some nine windows of 32 tokens
        first = [asyncio.create_task(running.classify(text=text))]
        await stuck.running.wait()  # a part of the first is in its run, the rest waits
        rest = running.engine.queue_tokens
        first.append(asyncio.create_task(running.classify(text=text)))
        while running.engine.queue_tokens == rest:  # noqa: ASYNC110 - until the second waits too
            await asyncio.sleep(0)
        refused = await running.classify(texts=[text, text])
        stuck.release()
        assert (refused.status_code, refused.json()["title"]) == (503, "Overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert [r.status_code for r in await asyncio.gather(*first)] == [200, 200]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, slice(None)])
async def test_no_numbers_no_verdict(resident: Running, value: float, place: int | slice) -> None:
    """Logits that are no numbers are a 503, never a verdict, and none is counted."""
    logits = np.zeros(6, dtype=np.float32)
    logits[place] = value
    before = _counted(resident)
    with _serving(resident, _Giving(_loaded(resident), logits)):
        response = await resident.classify(text="hello")
    assert response.status_code == 503
    assert not any(c in response.text for c in CATEGORIES)
    assert _counted(resident) == before


async def test_one_window_without_numbers(resident: Running) -> None:
    """A long text of which one window has no numbers has no verdict, however harmless the others are."""
    bundle = _loaded(resident)

    class Spotted(_Giving):
        def run(self, windows: Iterable[Window]) -> Outputs:
            outputs = Bundle.run(bundle, list(windows))
            outputs.logits[-1] = np.nan
            return outputs

    with _serving(resident, Spotted(bundle, np.zeros(6, dtype=np.float32))):
        assert (await resident.classify(text="hello " * 200)).status_code == 503


@pytest.mark.parametrize("error", [RuntimeError(CANARY), MemoryError(CANARY), SystemExit(CANARY), ValueError(CANARY)])
async def test_failed_run(resident: Running, error: BaseException) -> None:
    """A run that fails is a 503 that does not repeat the library's message, and the next request is answered."""

    class Failing(_Giving):
        def run(self, windows: Iterable[Window]) -> Outputs:
            raise error

    with _serving(resident, Failing(_loaded(resident), np.zeros(6, dtype=np.float32))):
        failed = await resident.classify(text="hello")
    assert failed.status_code == 503
    assert CANARY not in failed.text
    assert (await resident.classify(text="hello")).status_code == 200
    assert (await resident.client.get("/readyz")).status_code == 200


async def test_verdicts_are_counted(resident: Running) -> None:
    """Each verdict counts once, under its category and action."""
    before = _counted(resident)
    await resident.classify(texts=["rash", "dose", "sue", "hello"])
    grown = {category: number - before[category] for category, number in _counted(resident).items()}
    assert grown == dict.fromkeys(CATEGORIES, 0) | {"medical-advice": 2, "legal-advice": 1, "not-harmful": 1}


async def test_refused_request_counts_nothing(resident: Running) -> None:
    """When one of several texts is refused, no verdict is counted and nothing is pooled."""
    before = _counted(resident)
    with_nothing = await resident.classify(texts=["rash sue invest fire die joke", ""])
    assert with_nothing.status_code == 400
    assert _counted(resident) == before
    assert await resident.intake.flush()
    assert "rash sue" not in [t.text async for batch in resident.store.pool.texts() for t in batch]


async def test_answers_are_plain_json(resident: Running) -> None:
    """The answer holds nothing but finite numbers and the names that the design gives."""
    answer = json.loads((await resident.classify(text="hello")).text, parse_constant=pytest.fail)
    assert list(answer) == ["id", "model_version", "results"]
    assert list(answer["results"][0]) == [
        "category", "flagged", "action", "scores", "uncertainty", "uncertain", "windows", "span", "disguised"
    ]  # fmt: skip
