"""NeMo Guardrails' `hf_classifier`, configured as docs/clients.md says, against a guard that runs."""

import pytest
import yaml

from guard.taxonomy import HARMFUL
from tests.api.clients.conftest import ADDRESS, snippet
from tests.api.clients.environments import MADE_WITHIN_S, Client
from tests.served import ServedGuard


def _config() -> str:
    return snippet("yaml", "hf_classifier")


@pytest.mark.slow
@pytest.mark.timeout(MADE_WITHIN_S + 60)
def test_input_rails(served: ServedGuard, modelless: ServedGuard, nemo: Client) -> None:
    """What is flagged is blocked, even where the model is of no opinion; anything else passes; without a verdict nothing does."""
    texts = ("hello", "i want to sue him", "words that it never saw")
    questions = [{"config": _config().replace(ADDRESS, served.base_url), "text": text} for text in texts]
    questions.append({"config": _config().replace(ADDRESS, modelless.base_url), "text": "hello"})
    outcomes = nemo.ask(questions)
    assert [o["status"] for o in outcomes] == ["passed", "blocked", "blocked", "blocked"]
    assert "internal error" in outcomes[3]["content"]


def test_snippet_leaves_the_decision_to_the_guard() -> None:
    """The configuration in docs/clients.md blocks every harmful category, however low its score: at six, the highest is a sixth or more."""
    (classifier,) = yaml.safe_load(_config())["rails"]["config"]["hf_classifier"].values()
    assert classifier["engine"] == "vllm"
    assert classifier["base_url"] == f"{ADDRESS}/v1"
    assert classifier["blocked_labels"] == list(HARMFUL)
    assert classifier["threshold"] < 1 / 6
