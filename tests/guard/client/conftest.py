"""A served guard for the session, and clients of either kind behind one face."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from guard.client import AsyncClient, Client, Retries
from tests.served import served

__all__ = ["served"]

Ask = Callable[..., Awaitable[Any]]


class Pauses:
    """Waits for nothing, and remembers how long it should have."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Take note of a wait."""
        self.seconds.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    """What the retries of a test wait with."""
    return Pauses()


@pytest.fixture
def retries(pauses: Pauses) -> Retries:
    """A budget with a seed that never waits."""
    return Retries(seed=7, pause=pauses)


@pytest.fixture(params=[AsyncClient, Client], ids=["async", "sync"])
async def ask(request: pytest.FixtureRequest, retries: Retries) -> AsyncIterator[Ask]:
    """Make a client of either kind, have it judge something, and return what it says.

    `ask(base_url, text)`; a list of str is several texts, any other list a chat. Named arguments are the client's.
    """
    opened: list[AsyncClient | Client] = []

    async def judge(base_url: str, given: Any, *, options: dict[str, Any] | None = None, **settings: Any) -> Any:
        client = request.param(base_url, **({"on_failure": "block", "deadline_s": 30, "retries": retries} | settings))
        opened.append(client)
        if isinstance(given, str):
            said = client.classify(given, **(options or {}))
        elif all(isinstance(part, str) for part in given):
            said = client.classify_many(given, **(options or {}))
        else:
            said = client.classify_messages(given, **(options or {}))
        return await said if inspect.isawaitable(said) else said

    yield judge
    for client in opened:
        closed = client.close()
        if closed is not None:
            await closed
