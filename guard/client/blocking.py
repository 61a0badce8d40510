"""The client for threads: `AsyncClient` on an event loop in a thread of its own.

That is what makes its deadline hold: a socket's timeout ends neither a name that does not resolve nor an answer that
comes byte by byte.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Final, NoReturn, Self, TypeVar

from guard.client.answers import Answer
from guard.client.asynchronous import NOT_COPIED, AsyncClient, OnFailure, Thresholds
from guard.client.retries import Retries
from guard.schemas import Turn

_T = TypeVar("_T")
_CLOSED: Final = "This client is closed: make another."


class Client:
    """Asks a guard. Threads may share it; the thread and the connections of its own begin with the first call.

    Args and Raises are those of `AsyncClient`.
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
        make = partial(
            AsyncClient,
            base_url,
            on_failure=on_failure,
            api_key=api_key,
            deadline_s=deadline_s,
            retries=retries or Retries(),
            max_connections=max_connections,
        )
        make()  # what is wrong with the arguments is said here, not at the first call
        self._make = make
        self._engine: _Engine | None = None
        self._closed = False
        self._starting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: it may hold a key, and its budget counts for one process."""
        raise TypeError(NOT_COPIED)

    def close(self) -> None:
        """Close the connections and end the thread; calls under way fail with a RuntimeError, as later ones do."""
        with self._starting:
            engine, self._engine, self._closed = self._engine, None, True
        if engine is not None and engine.pid == os.getpid():
            engine.stop()

    def classify(
        self, text: str, *, user: str | None = None, store: bool = True, thresholds: Thresholds | None = None
    ) -> Answer:
        """Judge one text; see `AsyncClient.classify`.

        Raises:
            NotJudged: There was no verdict and `on_failure` is "raise".
        """
        return self._call(lambda client: client.classify(text, user=user, store=store, thresholds=thresholds))

    def classify_many(
        self, texts: Iterable[str], *, user: str | None = None, store: bool = True, thresholds: Thresholds | None = None
    ) -> list[Answer]:
        """Judge several texts in one request; see `AsyncClient.classify_many`.

        Raises:
            NotJudged: There were no verdicts and `on_failure` is "raise".
        """
        chosen = texts if isinstance(texts, str) else list(texts)  # what yields them runs here, not in the other thread
        return self._call(lambda client: client.classify_many(chosen, user=user, store=store, thresholds=thresholds))

    def classify_messages(
        self,
        messages: Sequence[Turn | Mapping[str, Any]],
        *,
        user: str | None = None,
        store: bool = True,
        thresholds: Thresholds | None = None,
    ) -> Answer:
        """Judge the last user turn of a chat; see `AsyncClient.classify_messages`.

        Raises:
            NotJudged: There was no verdict and `on_failure` is "raise".
        """
        return self._call(
            lambda client: client.classify_messages(messages, user=user, store=store, thresholds=thresholds)
        )

    def _call(self, ask: Callable[[AsyncClient], Coroutine[Any, Any, _T]]) -> _T:
        return self._started().call(ask)

    def _started(self) -> "_Engine":
        """Return the engine of this process: a fork has neither the thread of its parent nor a right to its sockets."""
        engine = self._engine
        if engine is not None and engine.pid == os.getpid():
            return engine
        with self._starting:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if self._engine is None or self._engine.pid != os.getpid():
                self._engine = _Engine(self._make())
            return self._engine


class _Engine:
    """An event loop in a thread, and the asynchronous client on it."""

    def __init__(self, client: AsyncClient) -> None:
        self.pid = os.getpid()
        self._client = client
        self._submitting = threading.Lock()
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="guard-client", daemon=True)
        self._thread.start()

    def call(self, ask: Callable[[AsyncClient], Coroutine[Any, Any, _T]]) -> _T:
        """Run a call on the loop and wait for its end.

        Raises:
            RuntimeError: The engine was stopped before the end.
        """
        with self._submitting:
            if self._stopped:
                raise RuntimeError(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(ask(self._client), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(_CLOSED) from None
        except BaseException:
            future.cancel()  # who waited was interrupted: nobody wants the answer
            raise

    def stop(self) -> None:
        """End what is under way, close the connections and join the thread."""
        with self._submitting:  # what was submitted before is a task when `_end` looks; nothing is submitted after
            self._stopped = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()
