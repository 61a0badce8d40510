"""LiteLLM's own guardrails, configured as docs/clients.md says, against a guard that runs."""

import os
from typing import Any

import pytest
import yaml

from tests.api.clients.conftest import ADDRESS, CRISIS, Keyed, snippet
from tests.api.clients.environments import MADE_WITHIN_S, Client
from tests.served import ServedGuard, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(MADE_WITHIN_S + 60)]


def _params(kind: str, base_url: str, key: str, **changes: Any) -> dict[str, Any]:
    """Return the configuration in docs/clients.md of a guardrail, for another address and with its variables resolved."""
    configured = yaml.safe_load(snippet("yaml", "generic_guardrail_api"))["guardrails"]
    (params,) = (g["litellm_params"] for g in configured if g["litellm_params"]["guardrail"] == kind)
    assert params["api_key"] == "os.environ/LIFEGUARD_KEY"
    return {**params, "api_base": params["api_base"].replace(ADDRESS, base_url), "api_key": key, **changes}


def _user(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "die"}, *({"role": "user", "content": text} for text in texts)]


@pytest.mark.parametrize("kind", ["generic_guardrail_api", "openai_moderation"])
def test_requests(keyed: Keyed, litellm: Client, kind: str) -> None:
    """What is flagged is blocked, anything else passes; the system's prompt and what was judged before do not count."""
    params = _params(kind, keyed.guard.base_url, keyed.key)
    past = [*_user("fire"), {"role": "assistant", "content": "What burns?"}, {"role": "user", "content": "hello"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "dose"}]}]
    outcomes = litellm.ask(
        [{"params": params, "messages": m} for m in (_user("hello"), _user("sue"), past, parts, _user("sue", "joke"))],
    )
    assert [o["outcome"] for o in outcomes] == ["passed", "blocked", "passed", "blocked", "blocked"]
    assert "legal-advice" in str(outcomes[1]["said"])
    assert "medical-advice" in str(outcomes[3]["said"])


def test_answers_of_the_llm(keyed: Keyed, litellm: Client) -> None:
    """What an LLM answers is judged too, and never kept."""
    kept = keyed.intake("new") + keyed.intake("repeated")
    params = _params("generic_guardrail_api", keyed.guard.base_url, keyed.key, mode="post_call")
    outcomes = litellm.ask([{"params": params, "answer": text} for text in ("hello hello", "dose dose")])
    assert [o["outcome"] for o in outcomes] == ["passed", "blocked"]
    assert keyed.intake("new") + keyed.intake("repeated") == kept


def test_blocked_reason(keyed: Keyed, litellm: Client) -> None:
    """The user reads the category's own words; the operator finds category, action and request in the log's terms."""
    params = _params("generic_guardrail_api", keyed.guard.base_url, keyed.key)
    (outcome,) = litellm.ask([{"params": params, "messages": _user("die")}])
    assert outcome["said"].startswith(f"{CRISIS} [self-harm, escalate, request ")
    told = outcome["said"].partition(", request ")[2].partition(",")[0]
    wait_for(lambda: any(event.get("id") == told for event in keyed.guard.events))  # a line is written after its answer


def test_retried_call(keyed: Keyed, litellm: Client) -> None:
    """A call that is sent again is judged again, but enters the pool once."""
    again = keyed.intake("same_call")
    params = _params("generic_guardrail_api", keyed.guard.base_url, keyed.key)
    question = {"params": params, "messages": _user("sue the landlord"), "call": "b4f1", "user": "ada"}
    outcomes = litellm.ask([question] * 3)
    assert [o["outcome"] for o in outcomes] == ["blocked"] * 3
    assert keyed.intake("same_call") == again + 2


def test_guard_that_cannot_judge(keyed: Keyed, modelless: ServedGuard, litellm: Client) -> None:
    """Without a verdict no call passes, unless the operator lets those of an unreachable guardrail pass; a bad key is no such."""
    kind = "generic_guardrail_api"
    hello = _user("hello")
    outcomes = litellm.ask(
        [
            {"params": _params(kind, modelless.base_url, "none"), "messages": hello},
            {"params": _params(kind, modelless.base_url, "none", unreachable_fallback="fail_open"), "messages": hello},
            {"params": _params(kind, keyed.guard.base_url, "lg_wrong", unreachable_fallback="fail_open"), "messages": hello},
            {"params": _params("openai_moderation", modelless.base_url, "none"), "messages": hello},
        ],
    )  # fmt: skip
    assert [o["outcome"] for o in outcomes] == ["failed", "passed", "failed", "failed"]
    assert "503" in outcomes[0]["said"]
    assert "401" in outcomes[2]["said"]


def test_snippet_names_its_key() -> None:
    """The configuration in docs/clients.md takes the key from the environment, and fails closed."""
    assert "LIFEGUARD_KEY" not in os.environ
    assert _params("generic_guardrail_api", ADDRESS, "k")["unreachable_fallback"] == "fail_closed"
