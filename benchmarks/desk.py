"""How long a reviewer waits from a key to the next message: ten at once, while the guard classifies for chatbots.

    python -m benchmarks.desk --exports exports

Over HTTP with real sessions, sending what the page's htmx sends; then once more with one of the ten in a real Chromium.
A guard of its own on each database; everything shares the cores with it.
"""

import asyncio
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import typer
from playwright.sync_api import Page
from rich.console import Console
from rich.table import Table

from benchmarks.databases import DatabaseKind, opened
from benchmarks.peers.corpus import project_texts
from benchmarks.peers.load import Load, arrivals, open_loop, post
from benchmarks.peers.machine import machine
from guard.passwords import hash_password
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.states import CycleState, Role
from guard.taxonomy import CATEGORIES, Category
from tests.e2e.browser import launched
from tests.e2e.reviewers import PASSWORD, DeskReviewer
from tests.guard.store.scenes import arrival, pooled
from tests.served import ServedGuard

RESULTS: Final = Path(__file__).parent / "results"
REVIEWERS: Final = 10
CLASSIFY_PER_S: Final = 20.0
PAUSE_S: Final = (0.7, 1.3)  # between a message and its key: faster than people read
AIM_MS: Final = 150.0
NEAR: Final = 12  # as `learner.surroundings` notes them
LABELLED: Final = 3
_KNOWN: Final = 60  # messages labelled in a cycle before, from which neighbours come
_POOL: Final = 3_000  # messages, the labelled ones among them
_MOST_PER_S: Final = 150.0  # labels: no batch is used up sooner
_WAITS: Final = """() => {
  window.waits = [];
  let pressed = null;
  const shown = () => document.querySelector(".choices input[name=pick_id]")?.value;
  let before = shown();
  document.addEventListener("keydown", (event) => { if (event.key === "6") pressed = event.timeStamp; }, true);
  new MutationObserver(() => {
    if (pressed === null || shown() === before) return;
    window.waits.push(performance.now() - pressed);
    [pressed, before] = [null, shown()];
  }).observe(document.getElementById("main"), {childList: true, subtree: true});
}"""


@dataclass
class Waits:
    """What reviewers saw in one run: milliseconds from key to next message, and what went wrong."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def row(self, load: Load) -> dict[str, Any]:
        """Return the figures, with those of the chatbots' requests beside them."""
        quantiles = {f"p{q}_ms": round(float(np.quantile(self.ms, q / 100)), 1) for q in (50, 95, 99)}
        return {
            **quantiles,
            "greatest_ms": round(max(self.ms), 1),
            "labels": len(self.ms),
            "labels_per_minute": round(60 * len(self.ms) / self.seconds),
            "failed": self.failed,
            "classified": load.answered,
            "classify_failed": load.failed,
            "classify_p50_ms": round(load.latency_ms(0.5), 1),
            "classify_p95_ms": round(load.latency_ms(0.95), 1),
        }


def main(
    exports: Annotated[Path, typer.Option(help="Folder with a champion.")] = Path("exports"),
    seconds: Annotated[float, typer.Option(min=2, help="Of each of the three runs on a database.")] = 15,
    database: Annotated[list[DatabaseKind] | None, typer.Option(help="By default both.")] = None,
) -> None:
    """Measure and print; rows of a database that is not measured now stay as they were."""
    before = {
        **machine(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("litestar", "granian")},
    }
    file = RESULTS / "desk.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for kind in database or list(DatabaseKind):
        rows[kind.value] = _measure(kind, exports.absolute(), seconds)
    content = {"machine": before, "reviewers": REVIEWERS, "classify_per_s": CLASSIFY_PER_S, "aim_p95_ms": AIM_MS}
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({**content, "seconds": seconds, "rows": rows}, indent=2) + "\n")
    Console().print(json.dumps(before))
    Console().print(_table(rows))


def _table(rows: dict[str, Any]) -> Table:
    heads = ("p50_ms", "p95_ms", "p99_ms", "labels_per_minute", "failed", "classify_p50_ms", "classify_p95_ms")
    table = Table("database", "reviewers", *(head.replace("_", " ") for head in heads))
    for database, found in rows.items():
        for name, figures in found.items():
            table.add_row(database, name, *(str(figures[head]) for head in heads))
    return table


def _measure(kind: DatabaseKind, exports: Path, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lifeguard-desk-") as folder, opened(kind) as url:
        guard = ServedGuard(
            Path(folder), exports_dir=exports, environment={} if url is None else {"GUARD_DATABASE_URL": url}
        )
        settings = GuardSettings(data_dir=guard.data_dir, exports_dir=exports, database_url=url)
        asyncio.run(_prepare(settings))
        with guard:
            found = {}
            for name, pause_s in (("a label a second each", PAUSE_S), ("without a pause", (0.0, 0.0))):
                asyncio.run(_open_batch(settings, seconds, pause_s))
                found[name] = _over_http(guard, seconds, pause_s)
            asyncio.run(_open_batch(settings, seconds, PAUSE_S))
            found["one in Chromium, a label a second each"] = _in_chromium(guard, seconds)
    return found


def _over_http(guard: ServedGuard, seconds: float, pause_s: tuple[float, float]) -> dict[str, Any]:
    """Have ten reviewers label over HTTP."""
    waits = Waits()
    with _classifying(guard, seconds) as load:
        asyncio.run(_review(guard, _names(), waits, seconds, pause_s))
    return waits.row(load())


def _in_chromium(guard: ServedGuard, seconds: float) -> dict[str, Any]:
    """Have nine label over HTTP and measure the tenth in a browser: from the key to the next message in the page."""
    waits, others = Waits(seconds=seconds), Waits()
    first, *rest = _names()
    with launched() as browser, ThreadPoolExecutor(1) as elsewhere:
        page = browser.new_page(base_url=guard.base_url)
        page.goto("/review/login")
        page.get_by_label("Name").fill(first)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.locator(".text").wait_for(state="attached")
        page.evaluate(_WAITS)
        with _classifying(guard, seconds) as load:
            labelled = elsewhere.submit(lambda: asyncio.run(_review(guard, rest, others, seconds, PAUSE_S)))
            _press(page, seconds)
            labelled.result()
        waits.ms = page.evaluate("window.waits")
        waits.failed = others.failed
    return waits.row(load())


def _press(page: Page, seconds: float) -> None:
    """Label by key for a while, each message as soon as it was looked at."""
    pauses, until = random.Random(1), time.monotonic() + seconds
    while time.monotonic() < until:
        page.wait_for_timeout(1000 * pauses.uniform(*PAUSE_S))
        if page.locator("details.cover:not([open])").count():
            page.keyboard.press("s")
        page.keyboard.press("6")
    page.wait_for_timeout(1000)


@contextmanager
def _classifying(guard: ServedGuard, seconds: float) -> Iterator[Callable[[], Load]]:
    """Send texts to classify meanwhile, whether or not the ones before were answered; yield what gives the answers."""
    due = arrivals(CLASSIFY_PER_S, seconds, seed=1)
    requests = [post("/classify", {"text": text}) for text, _ in zip(cycle(project_texts()), due, strict=False)]
    loads: list[Load] = []
    thread = threading.Thread(target=lambda: loads.append(open_loop(guard.port, requests, due=due)))
    thread.start()
    yield lambda: loads[0]
    thread.join()


async def _review(
    guard: ServedGuard, names: Sequence[str], waits: Waits, seconds: float, pause_s: tuple[float, float]
) -> None:
    """Log reviewers in, and let them label for some seconds."""

    async def label(number: int, reviewer: DeskReviewer) -> None:
        pauses = random.Random(number)
        await asyncio.sleep(pauses.uniform(0, pause_s[1]))
        while time.perf_counter() < until:
            pressed = time.perf_counter()
            answer = await reviewer.label(CATEGORIES[number % len(CATEGORIES)])
            waits.ms.append(1000 * (time.perf_counter() - pressed))
            waits.failed += answer.status_code != httpx.codes.OK or "pick_id" not in reviewer.form
            await asyncio.sleep(pauses.uniform(*pause_s))

    reviewers = [await DeskReviewer(guard.base_url, name).__aenter__() for name in names]
    began = time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(label(number, reviewer) for number, reviewer in enumerate(reviewers)))
    waits.seconds = time.perf_counter() - began
    for reviewer in reviewers:
        await reviewer.__aexit__()


async def _prepare(settings: GuardSettings) -> None:
    """Make the accounts, and a cycle whose labelled messages are other messages' neighbours."""
    texts = project_texts()[:_POOL]
    async with open_store(settings, create_keyring=True) as store:
        for name in _names():
            await store.reviewers.add(name, Role.REVIEWER, hash_password(PASSWORD, name=name))
        arrivals_ = [replace(arrival(text), category=Category.LEGAL_ADVICE, seen_at=store.clock()) for text in texts]
        await store.pool.add(arrivals_, max_messages=len(arrivals_))
        await _fill(store, [Picked(message.id, {}, 0.5) for message in (await pooled(store))[:_KNOWN]])
        while (held := await store.review.next("before")) is not None:
            await store.review.label(held.pick_id, reviewer="before", category=Category.LEGAL_ADVICE)


async def _open_batch(settings: GuardSettings, seconds: float, pause_s: tuple[float, float]) -> None:
    """Close the batch before, and open one that lasts, each of its messages with as much around it as the learner finds."""
    rate = min(_MOST_PER_S, REVIEWERS / max(pause_s[0], 1e-9))
    draw = random.Random(1)
    async with open_store(settings) as store:
        waiting = [message.id for message in await pooled(store)]
        size = int(rate * seconds) + 2 * REVIEWERS
        assert len(waiting) > size, "there are too few texts for so many seconds"
        picks = []
        for number, id_ in enumerate(waiting[:size]):
            neighbours = [[known, 0.62] for known in draw.sample(range(1, _KNOWN + 1), LABELLED)]
            reason = {
                "strategy": "stochastic",
                "category": "legal-advice",
                "probability": 0.47,
                "uncertainty": 0.9,
                "cluster": number % 20,
                "near": draw.sample(waiting, NEAR),
                "neighbours": neighbours,
            }
            picks.append(Picked(id_, reason, 0.5))
        await _fill(store, picks)


async def _fill(store: Store, picks: list[Picked]) -> None:
    fence = await store.leases.acquire(LEARNER, "benchmark", ttl=timedelta(hours=1))
    assert fence is not None
    if (before := await store.cycles.current()) is not None:
        await store.cycles.advance(before.id, fence=fence, source=before.state, target=CycleState.HELD)
    opened_ = await store.cycles.open(
        fence=fence,
        strategy="stochastic",
        seed=1,
        batch_size=len(picks),
        champion="0001",
        due_at=store.clock() + timedelta(days=3),
    )
    await store.cycles.fill(opened_.id, picks, fence=fence, figures={})


def _names() -> list[str]:
    return [f"reviewer-{number}" for number in range(REVIEWERS)]


if __name__ == "__main__":
    typer.run(main)
