"""Guards as clients meet them: one that takes a key and keeps everything, one that takes none, one without a model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.api.clients.environments import Client
from tests.served import ServedGuard
from tests.toys import publish_toy

ADDRESS = "http://127.0.0.1:8000"
PAGE = (Path(__file__).parents[3] / "docs" / "clients.md").read_text()
CRISIS = "You are not alone: call 988."


@dataclass(frozen=True)
class Keyed:
    """A guard that takes one key."""

    guard: ServedGuard
    key: str

    def intake(self, fate: str) -> float:
        """Return how many verdicts had a fate on their way into the pool."""
        series = httpx.get(f"{self.guard.base_url}/metrics").text
        (value,) = re.findall(rf'^guard_intake_total{{fate="{fate}"}} (\S+)$', series, flags=re.MULTILINE)
        return float(value)


def snippet(language: str, containing: str) -> str:
    """Return the block of docs/clients.md in a language that contains some words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if containing in block)
    return str(found)


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A guard that takes a key, keeps every verdict, and has words for self-harm."""
    guard = ServedGuard(
        tmp_path_factory.mktemp("keyed"), audit_rate=1, intake_flush_ms=1, action_texts={"self-harm": CRISIS}
    )
    publish_toy(guard.exports, default=None, strength=60)
    created = guard.run("keys", "create", "clients", "--role", "client")
    assert created.returncode == 0, created.stderr
    (key,) = re.findall(r"lg_\S+", created.stdout)
    with guard:
        yield Keyed(guard, key)


@pytest.fixture(scope="session")
def modelless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGuard]:
    """A guard without a model, which can judge nothing, and without keys."""
    with ServedGuard(tmp_path_factory.mktemp("modelless"), ready=False) as guard:
        yield guard


@pytest.fixture(scope="session")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """LiteLLM, which passes chats through its guardrails."""
    with Client("litellm", tmp_path_factory.mktemp("litellm") / "log") as client:
        yield client


@pytest.fixture(scope="session")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """NeMo Guardrails, which checks messages with its input rails."""
    with Client("nemo", tmp_path_factory.mktemp("nemo") / "log") as client:
        yield client
