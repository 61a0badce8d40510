"""Other people's APIs: what `/v1/moderations`, `/v1/classify` and LiteLLM's guardrail take, refuse and keep.

That their own clients understand the answers is shown in `clients/`.
"""

from typing import Any

import httpx
import pytest

from guard.dialects import COVERED, OFFICIAL
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.taxonomy import CATEGORIES, Action
from tests.api.conftest import Running, Serve, update
from tests.toys import publish_toy

MODERATIONS, CLASSES, GUARDRAIL = "/v1/moderations", "/v1/classify", "/beta/litellm_basic_guardrail_api"
resident_loop = pytest.mark.asyncio(loop_scope="module")


async def _guardrail(running: Running, **body: Any) -> httpx.Response:
    return await running.client.post(GUARDRAIL, json={"input_type": "request", **body})


async def _kept(running: Running) -> float:
    """Return how many texts went into the pool, once everything is written."""
    assert await running.intake.flush()
    return sum(running.metric("guard_intake_total", fate=fate) for fate in ("new", "repeated"))


# OpenAI's moderations


@resident_loop
async def test_official_categories_are_there(resident: Running) -> None:
    """All official categories and ours are in each map; those that are not judged are false and zero."""
    response = await resident.client.post(MODERATIONS, json={"input": "sue", "model": "omni-moderation-latest"})
    (result,) = response.json()["results"]
    names = {*OFFICIAL, *COVERED}
    assert result["categories"] == {name: name == "legal-advice" for name in names}
    assert {name for name, score in result["category_scores"].items() if score} == set(COVERED)
    assert set(result["category_scores"]) == names
    assert result["category_applied_input_types"] == {name: ["text"] for name in names}


@resident_loop
async def test_only_what_is_judged(resident: Running) -> None:
    """With `strict_categories=false` the five categories that are judged are given and no others."""
    response = await resident.client.post(f"{MODERATIONS}?strict_categories=false", json={"input": "hello"})
    (result,) = response.json()["results"]
    assert not result["flagged"]
    assert list(result["categories"]) == list(result["category_scores"]) == list(COVERED)


@resident_loop
async def test_headers(resident: Running) -> None:
    """Each answer names its request and says how long it took, in good and in ill."""
    for body, status in (({"input": "hello"}, 200), ({"input": []}, 400)):
        response = await resident.client.post(MODERATIONS, json=body)
        assert response.status_code == status
        assert response.headers["x-request-id"]
        assert int(response.headers["openai-processing-ms"]) >= 0


@resident_loop
async def test_parts_are_one_message(resident: Running) -> None:
    """The texts among a message's parts are judged together."""
    parts = [{"type": "text", "text": "hello"}, {"type": "image_url"}, {"type": "text", "text": "die die"}]
    response = await resident.client.post(MODERATIONS, json={"input": parts})
    (result,) = response.json()["results"]
    assert result["categories"]["self-harm"]


@resident_loop
@pytest.mark.parametrize(
    ("path", "given", "code"),
    [
        (MODERATIONS, [], "invalid_request"),
        (MODERATIONS, ["hello", {"type": "text", "text": "hello"}], "invalid_request"),
        (MODERATIONS, [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}], "invalid_request"),
        (MODERATIONS, 7, "invalid_request"),
        (MODERATIONS, " ", "empty_text"),
        (CLASSES, [], "invalid_request"),
        (CLASSES, ["hello", " "], "empty_text"),
    ],
)
async def test_refusals_are_in_openais_envelope(resident: Running, path: str, given: Any, code: str) -> None:
    """What cannot be judged is a 400 with OpenAI's four fields, and no verdict."""
    response = await resident.client.post(path, json={"input": given})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert error == {"message": error["message"], "type": "invalid_request_error", "param": None, "code": code}


# vLLM's classes


@resident_loop
async def test_classes(resident: Running) -> None:
    """Each text has its category, six probabilities in the taxonomy's order, and all of them their tokens."""
    answer = (await resident.client.post(CLASSES, json={"model": "lifeguard", "input": ["hello", "sue him"]})).json()
    assert [(item["index"], item["label"]) for item in answer["data"]] == [(0, "not-harmful"), (1, "legal-advice")]
    for item in answer["data"]:
        assert item["num_classes"] == len(item["probs"]) == len(CATEGORIES)
        assert sum(item["probs"]) == pytest.approx(1, abs=1e-5)
    assert answer["data"][1]["probs"][CATEGORIES.index("legal-advice")] == max(answer["data"][1]["probs"])
    assert (answer["object"], answer["model"]) == ("list", "lifeguard-0001")
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}  # with [CLS] and [SEP]


# LiteLLM's guardrail


@resident_loop
@pytest.mark.parametrize(
    "body",
    [
        {"texts": ["hello", "sue"]},
        {"texts": ["hello"], "structured_messages": [{"role": "user", "content": [{"type": "text", "text": "sue"}]}]},
        {"texts": ["sue"], "structured_messages": [{"role": "system", "content": "hello"}]},
        {"texts": None, "structured_messages": [{"role": "user", "content": "sue"}], "images": None, "new": 1},
        {"input_type": "response", "texts": ["sue"], "structured_messages": [{"role": "user", "content": "hello"}]},
    ],
)
async def test_blocked(resident: Running, body: dict[str, Any]) -> None:
    """The user's last turns decide, where there are none the texts, and of an answer its texts."""
    answer = (await _guardrail(resident, **body)).json()
    assert answer["action"] == "BLOCKED"
    assert "[legal-advice, advise, request " in answer["blocked_reason"]


@resident_loop
@pytest.mark.parametrize(
    "body", [{}, {"texts": []}, {"texts": [" "]}, {"texts": None, "images": ["a"]}, {"texts": ["hello"]}]
)
async def test_passed(resident: Running, body: dict[str, Any]) -> None:
    """What is not harmful passes, and so does what holds no text at all."""
    response = await _guardrail(resident, **body)
    assert (response.status_code, response.json()) == (200, {"action": "NONE"})


async def test_block_from(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Told to block from `escalate`, the guard lets `advise` pass; the worst of several texts decides."""
    publish_toy(exports)
    async with serve(update(guard_settings, block_from=Action.ESCALATE)) as running:
        answers = [
            (await _guardrail(running, texts=texts)).json() for texts in (["sue"], ["die"], ["sue", "die", "hello"])
        ]
    assert [answer["action"] for answer in answers] == ["NONE", "BLOCKED", "BLOCKED"]
    assert "[self-harm, escalate," in answers[2]["blocked_reason"]


# what enters the pool


async def test_pool(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """What users write is kept unless the caller says otherwise; what an LLM answers never is; a call sent again is not."""
    publish_toy(exports)
    chat = [{"role": "user", "content": "sue the landlord"}]
    steps: list[tuple[str, dict[str, Any], int]] = [
        (MODERATIONS, {"input": "one"}, 1),
        (MODERATIONS, {"input": "two", "store": False}, 1),
        (CLASSES, {"input": ["three", "four"]}, 3),
        (CLASSES, {"input": "five", "store": False}, 3),
        (GUARDRAIL, {"input_type": "request", "structured_messages": chat, "litellm_call_id": "a"}, 4),
        (GUARDRAIL, {"input_type": "request", "structured_messages": chat, "litellm_call_id": "a"}, 4),
        (GUARDRAIL, {"input_type": "request", "structured_messages": chat, "litellm_call_id": "b"}, 5),
        (GUARDRAIL, {"input_type": "request", "texts": ["six"], "additional_provider_specific_params": {"store": False}}, 5),
        (GUARDRAIL, {"input_type": "response", "texts": ["seven"]}, 5),
    ]  # fmt: skip
    async with serve(update(guard_settings, audit_rate=1)) as running:
        for path, body, kept in steps:
            response = await running.client.post(path, json=body)
            assert response.status_code == 200, body
            assert await _kept(running) == kept, body
        assert running.metric("guard_intake_total", fate="same_call") == 1


async def test_no_verdict_without_a_model(serve: Serve, guard_settings: GuardSettings) -> None:
    """Without a model each of them is a 503 that says when to try again, which no client can read as safe."""
    async with serve(guard_settings) as running:
        for path, body in (
            (MODERATIONS, {"input": "hello"}),
            (CLASSES, {"input": "hello"}),
            (GUARDRAIL, {"input_type": "request", "texts": ["hello"]}),
        ):
            response = await running.client.post(path, json=body)
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert not {"results", "data", "action"} & set(response.json())
