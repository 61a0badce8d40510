"""What stands around a running loop: a client that never stops and reviewers who answer from a list."""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from guard.settings import GuardSettings
from guard.store import open_store
from guard.store.rows import Cycle
from guard.store.states import Role
from guard.taxonomy import Category

POLL_S = 0.2
PAUSE_S = 0.05  # between two requests of a connection: what is tested is the loop, and training needs the cores


@dataclass
class TrafficReport:
    """What a client saw. `scores` holds the last answer for each (text, version)."""

    answers: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    versions: list[list[str]] = field(default_factory=list)
    scores: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    @property
    def steps_back(self) -> int:
        """How often a connection saw a version older than the one before."""
        return sum(int(b) < int(a) for seen in self.versions for a, b in itertools.pairwise(seen))


class Traffic:
    """Posts texts round and round from several keep-alive connections until it is left, some forty a second in all.

    Args:
        base_url: The guard.
        texts: What to post; not stored, since they are the same few again and again.
        connections: Threads, each with a connection of its own.
    """

    def __init__(
        self, base_url: str, texts: Sequence[str], *, headers: Mapping[str, str], connections: int = 2
    ) -> None:
        self._base_url = base_url
        self._texts = texts
        self._headers = dict(headers)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.report = TrafficReport(versions=[[] for _ in range(connections)])
        self._threads = [threading.Thread(target=self._post, args=(n,), daemon=True) for n in range(connections)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _post(self, number: int) -> None:
        seen = self.report.versions[number]
        with httpx.Client(base_url=self._base_url, headers=self._headers, timeout=30) as client:
            for text in itertools.cycle(self._texts[number::2] or self._texts):
                if self._stop.wait(PAUSE_S):
                    return
                try:
                    response = client.post("/classify", json={"text": text, "store": False})
                    outcome = "" if response.status_code == httpx.codes.OK else str(response.status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                with self._lock:
                    if outcome:
                        self.report.failures[outcome] += 1
                        continue
                    self.report.answers += 1
                answer = response.json()
                if not seen or seen[-1] != answer["model_version"]:
                    seen.append(answer["model_version"])
                self.report.scores[text, answer["model_version"]] = answer["results"][0]["scores"]


class Reviewer:
    """Labels whatever it is given, from a list, until it is left.

    Args:
        answers: Normalised text to category; what is not on it gets "can't tell".
    """

    def __init__(self, base_url: str, answers: Mapping[str, Category], *, headers: Mapping[str, str]) -> None:
        self._client = httpx.Client(base_url=base_url, headers=dict(headers), timeout=30)
        self._answers = answers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._label, daemon=True)
        self.labelled = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _label(self) -> None:
        while not self._stop.is_set():
            response = self._client.post("/review/next")
            if response.status_code != httpx.codes.OK:
                self._stop.wait(POLL_S)
                continue
            pick = response.json()
            decision = {
                "pick_id": pick["pick_id"],
                "category": self._answers.get(pick["text"]),
                "idempotency_key": uuid.uuid4().hex,
            }
            if self._client.post("/review/labels", json=decision).status_code == httpx.codes.CREATED:
                self.labelled += 1


def post_traffic(client: httpx.Client, texts: Sequence[str]) -> None:
    """Post each text once, each from a user of its own, as a chatbot would."""
    for number, text in enumerate(texts):
        client.post("/classify", json={"text": text, "user": f"user-{number}"}).raise_for_status()


def await_cycle(client: httpx.Client, cycle_id: int, *, timeout_s: float) -> dict[str, Any]:
    """Poll until a cycle has ended and return its batch.

    Raises:
        TimeoutError: It has not ended in time.
    """
    deadline = time.monotonic() + timeout_s
    last: dict[str, Any] = {}
    while time.monotonic() < deadline:
        response = client.get("/review/batch")
        if response.status_code == httpx.codes.OK:
            last = response.json()
            if last["cycle_id"] > cycle_id or (
                last["cycle_id"] == cycle_id and last["state"] in {"promoted", "held", "failed"}
            ):
                return last
        time.sleep(POLL_S)
    raise TimeoutError(f"cycle {cycle_id} has not ended after {timeout_s} s; the latest batch: {last}")


def await_version(client: httpx.Client, version: str, *, timeout_s: float = 30) -> None:
    """Poll until the guard serves a version.

    Raises:
        TimeoutError: It does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while client.get("/readyz").json()["model_version"] != version:
        if time.monotonic() > deadline:
            raise TimeoutError(f"version {version} is not served after {timeout_s} s")
        time.sleep(POLL_S)


async def create_keys(settings: GuardSettings) -> dict[str, dict[str, str]]:
    """Make a store with a client's key and two reviewers', and return the headers that carry them, by name."""
    async with open_store(settings, create_keyring=True) as store:
        roles = {"client": Role.CLIENT, "anna": Role.REVIEWER, "ben": Role.REVIEWER}
        return {name: {"x-api-key": await store.keys.create(name, role)} for name, role in roles.items()}


async def read_cycles(settings: GuardSettings) -> list[Cycle]:
    """Return all cycles, oldest first."""
    async with open_store(settings) as store:
        return sorted(await store.cycles.recent(), key=lambda cycle: cycle.id)
