"""Both clients against a real guard over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guard.client import Client, Judged, NotJudged, Reason, Unjudged
from guard.schemas import TextPart, Turn
from guard.taxonomy import CATEGORIES, Action, Category
from tests.guard.client.conftest import Ask
from tests.served import ServedGuard
from tests.toys import publish_toy


async def test_one_text(ask: Ask, served: ServedGuard) -> None:
    """A text is answered with its verdict, typed, and with the version that made it."""
    answer = await ask(served.base_url, "my landlord")
    assert isinstance(answer, Judged)
    assert answer.judged
    assert (answer.category, answer.flagged, answer.action) == (Category.LEGAL_ADVICE, True, Action.ADVISE)
    assert set(answer.scores) == set(CATEGORIES)
    assert answer.model_version == "0001"
    assert answer.id.startswith("cls-")
    assert not answer.allowed


async def test_harmless_text_is_allowed(ask: Ask, served: ServedGuard) -> None:
    """What is judged harmless may be answered as always."""
    answer = await ask(served.base_url, "hello")
    assert (answer.judged, answer.flagged, answer.allowed) == (True, False, True)


async def test_many_texts(ask: Ask, served: ServedGuard) -> None:
    """Several texts get their verdicts in their order, by one request."""
    answers = await ask(served.base_url, ["hello", "sue", "fire", "dose"])
    assert [a.category for a in answers] == [
        Category.NOT_HARMFUL,
        Category.LEGAL_ADVICE,
        Category.EMERGENCY_SITUATION,
        Category.MEDICAL_ADVICE,
    ]
    assert len({a.id for a in answers}) == 1


async def test_no_texts(ask: Ask) -> None:
    """No texts have no verdicts, and nobody is asked."""
    assert await ask("http://127.0.0.1:1", []) == []


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "die", "refusal": None}],
        [
            {"role": "user", "content": "die"},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
                    {"type": "text", "text": "hello"},
                ],
            },
        ],
        [Turn("user", "die"), Turn("user", [TextPart("text", "hello")])],
    ],
)
async def test_messages(ask: Ask, served: ServedGuard, messages: list[object]) -> None:
    """Of a chat, as OpenAI's clients write it or as our turns, the last user turn is judged."""
    answer = await ask(served.base_url, messages)
    assert answer.category is Category.NOT_HARMFUL


async def test_thresholds(ask: Ask, served: ServedGuard) -> None:
    """Thresholds given with a call are those it is judged by."""
    lenient = await ask(served.base_url, "sue xyzzy xyzzy", options={"thresholds": {Category.NOT_HARMFUL: 1.0}})
    assert lenient.flagged


async def test_lone_surrogates(ask: Ask, served: ServedGuard) -> None:
    """Half a surrogate pair, which UTF-8 cannot carry, hides nothing and breaks nothing; two halves are one character."""
    answer = await ask(served.base_url, "s\ud800ue \ud83d\ude00")
    assert answer.category is Category.LEGAL_ADVICE


@pytest.mark.parametrize("text", ["", " ", "\ud800", "x" * 40_000])
async def test_refused_text_is_never_allowed(ask: Ask, served: ServedGuard, text: str) -> None:
    """What the guard does not take is not judged, and not allowed even where failures are: its writer chose it."""
    answer = await ask(served.base_url, text, on_failure="allow")
    assert isinstance(answer, Unjudged)
    assert (answer.reason, answer.allowed, answer.attempts) == (Reason.BAD_INPUT, False, 1)
    assert answer.title == ("Too large" if len(text) > 1 else "Empty text")
    assert answer.status == (413 if len(text) > 1 else 400)


async def test_one_refused_text_leaves_all_unjudged(ask: Ask, served: ServedGuard) -> None:
    """Where one of several texts is not taken, no text of the request has a verdict."""
    answers = await ask(served.base_url, ["hello", " "])
    assert [a.judged for a in answers] == [False, False]


@pytest.mark.slow
def test_keys(tmp_path: Path) -> None:
    """With a key the guard answers; without, or with a wrong one, nothing is judged and the policy decides."""
    guard = ServedGuard(tmp_path)
    publish_toy(guard.exports)
    created = guard.run("keys", "create", "chatbot")
    with guard:
        with Client(guard.base_url, on_failure="raise", api_key=created.stdout.strip(), deadline_s=30) as client:
            assert client.classify("hello").judged
        for key in (None, "lg_wrong"):
            with Client(guard.base_url, on_failure="allow", api_key=key, deadline_s=30) as client:
                answer = client.classify("hello")
            assert isinstance(answer, Unjudged)
            assert (answer.reason, answer.allowed, answer.status) == (Reason.NOT_ALLOWED, True, 401)


@pytest.mark.slow
def test_no_model(tmp_path: Path) -> None:
    """A guard without a model leaves a text unjudged, in the guard's own word for it."""
    with (
        ServedGuard(tmp_path, ready=False) as guard,
        Client(guard.base_url, on_failure="raise", deadline_s=3) as client,
        pytest.raises(NotJudged, match="No model") as caught,
    ):
        client.classify("hello")
    assert caught.value.reason is Reason.UNAVAILABLE


def test_threads_share_a_client(served: ServedGuard) -> None:
    """Threads that use one client at once each get the verdict on their own text."""
    words = {"hello": Category.NOT_HARMFUL, "sue": Category.LEGAL_ADVICE, "dose": Category.MEDICAL_ADVICE}
    texts = [*words] * 50
    with (
        Client(served.base_url, on_failure="raise", deadline_s=30, max_connections=4) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = list(threads.map(client.classify, texts))
    assert [a.category for a in answers if a.judged] == [words[t] for t in texts]
