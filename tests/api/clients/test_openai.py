"""OpenAI's own SDK against `/v1/moderations`, strict validation on."""

import ast
import asyncio
import io
from contextlib import redirect_stdout

import openai
import pytest
from openai.types import ModerationImageURLInputParam, ModerationTextInputParam
from openai.types.moderation import Categories, CategoryAppliedInputTypes, CategoryScores

from guard.dialects import OFFICIAL
from tests.api.clients.conftest import ADDRESS, Keyed, snippet
from tests.served import ServedGuard

pytestmark = pytest.mark.slow


def _client(base_url: str, key: str = "none", *, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=retries, _strict_response_validation=True)


@pytest.mark.parametrize("kind", [Categories, CategoryScores, CategoryAppliedInputTypes])
def test_official_categories_are_the_sdks(kind: type[openai.BaseModel]) -> None:
    """The categories that each answer must hold are those of the SDK's own types."""
    assert sorted(field.alias or name for name, field in kind.model_fields.items()) == sorted(OFFICIAL)


def test_a_text(keyed: Keyed) -> None:
    """A flagged text comes back with its category true, ours beside the official ones, and the request's id."""
    with _client(keyed.guard.base_url, keyed.key) as client:
        answer = client.moderations.create(model="omni-moderation-latest", input="sue")
    (result,) = answer.results
    assert result.flagged
    assert [name for name, broken in result.categories.model_dump(by_alias=True).items() if broken] == ["legal-advice"]
    assert result.category_scores.model_dump()["legal-advice"] > 0.9
    assert result.category_applied_input_types.hate == ["text"]
    assert answer.model == "lifeguard-0001"
    assert answer._request_id


def test_texts(keyed: Keyed) -> None:
    """Several texts get a result each, in their order."""
    with _client(keyed.guard.base_url, keyed.key) as client:
        answer = client.moderations.create(input=["hello", "die", "joke"])
    assert [result.flagged for result in answer.results] == [False, True, False]
    assert answer.results[1].categories.self_harm


def test_parts(keyed: Keyed) -> None:
    """The parts of one message get one result, and the image among them is not what it is about."""
    parts: list[ModerationTextInputParam | ModerationImageURLInputParam] = [
        {"type": "text", "text": "rash"},
        {"type": "image_url", "image_url": {"url": "https://example.org/rash.png"}},
    ]
    with _client(keyed.guard.base_url, keyed.key) as client:
        answer = client.moderations.create(input=parts)
    (result,) = answer.results
    assert result.flagged
    assert result.category_applied_input_types.violence == ["text"]


async def test_async_client(keyed: Keyed) -> None:
    """The asynchronous client gets the same, many requests at once."""
    async with openai.AsyncOpenAI(
        base_url=f"{keyed.guard.base_url}/v1", api_key=keyed.key, _strict_response_validation=True
    ) as client:
        answers = await asyncio.gather(*(client.moderations.create(input=word) for word in ("fire", "hello") * 8))
    assert [answer.results[0].flagged for answer in answers] == [True, False] * 8


def test_errors_are_the_sdks(keyed: Keyed) -> None:
    """What is refused is raised as the SDK's own errors, with our message, code and request id."""
    with _client(keyed.guard.base_url, keyed.key) as client:
        with pytest.raises(openai.BadRequestError) as empty:
            client.moderations.create(input=" ")
        with pytest.raises(openai.APIStatusError) as large:
            client.moderations.create(input="x" * 40_000)
    with _client(keyed.guard.base_url, "lg_wrong") as client, pytest.raises(openai.AuthenticationError) as unknown:
        client.moderations.create(input="hello")
    assert (empty.value.code, empty.value.type) == ("empty_text", "invalid_request_error")
    assert (large.value.status_code, large.value.code) == (413, "too_large")
    assert unknown.value.code == "not_authenticated"
    assert "guard keys list" in unknown.value.message
    assert empty.value.request_id


def test_no_verdict_is_an_error(modelless: ServedGuard) -> None:
    """Without a model the SDK raises, and knows when to try again; there is no answer that could be read as safe."""
    with _client(modelless.base_url) as client, pytest.raises(openai.InternalServerError) as raised:
        client.moderations.create(input="hello")
    assert (raised.value.status_code, raised.value.code) == (503, "no_model")
    assert raised.value.response.headers["retry-after"] == "5"


def test_snippet(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/clients.md shows for the SDK runs as it stands."""
    monkeypatch.setenv("LIFEGUARD_KEY", keyed.key)
    shown = io.StringIO()
    names: dict[str, openai.OpenAI] = {}
    with redirect_stdout(shown):
        exec(snippet("python", "client.moderations").replace(ADDRESS, keyed.guard.base_url), names)
    names["client"].close()
    assert "True ['legal-advice']" in shown.getvalue()


def test_snippet_for_langchain_parses() -> None:
    """What docs/clients.md shows for LangChain is Python, and points it at the guard."""
    code = snippet("python", "OpenAIModerationMiddleware")
    ast.parse(code)
    assert f'"{ADDRESS}/v1"' in code
