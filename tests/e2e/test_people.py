"""A batch as people live it: two reviewers label it in a real Chromium, an admin settles what they differ about, a cycle runs.

    LIFEGUARD_PICTURES=docs/pictures .venv/bin/python -m pytest tests/e2e/test_people.py

writes the pictures that README shows.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from guard.passwords import hash_password
from guard.store import Store
from guard.store.states import CycleState, Role
from guard.taxonomy import CATEGORIES, Category
from tests.e2e.browser import PASSWORD, Watched, in_store, log_in
from tests.e2e.corpora import small_corpus
from tests.e2e.driver import post_traffic
from tests.served import ServedGuard, wait_for

PEOPLE: Final = {"ann": Role.REVIEWER, "ben": Role.REVIEWER, "ada": Role.ADMIN}
BATCH: Final = 20
MESSAGES: Final = 90
SEED: Final = 11
SCREEN: Final = {"width": 1100, "height": 760}
LONGEST_S: Final = 240  # of what the learner does, on a busy machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def answers(tmp_path: Path) -> dict[str, Category]:
    """What is right about each message; the corpus of the first model lies in `corpus`."""
    return small_corpus(tmp_path / "corpus", train=40, dev=12, gate=20, seed=SEED)


@pytest.fixture
def guard(tmp_path: Path, answers: dict[str, Category]) -> Iterator[ServedGuard]:
    """A guard with its learner, two reviewers and an admin, whose pool holds enough for a batch."""
    environment = {
        "LEARNER_CORPUS_DIR": str(tmp_path / "corpus"),
        "LEARNER_BATCH_SIZE": str(BATCH),
        "LEARNER_BUDGET": "1000",
        "LEARNER_POOL_MIN": str(MESSAGES),
        "LEARNER_TICK_S": "0.2",
        "LEARNER_FINE_TUNE_EPOCHS": "0",
    }
    served = ServedGuard(tmp_path, environment=environment, learner=True, uncertain_above=0, audit_rate=0.2)

    async def hire(store: Store) -> None:
        for name, role in PEOPLE.items():
            await store.reviewers.add(name, role, hash_password(PASSWORD, name=name))

    in_store(served, hire)
    try:
        served.start(timeout_s=LONGEST_S)
        with httpx.Client(base_url=served.base_url, timeout=60) as chatbot:
            post_traffic(chatbot, random.Random(SEED).sample(sorted(answers), MESSAGES))
        yield served
    finally:
        served.stop()


@pytest.fixture
def desks(guard: ServedGuard, chromium: Browser) -> Iterator[dict[str, Watched]]:
    """Each of them logged in, in a browser of their own."""
    contexts = {name: chromium.new_context(base_url=guard.base_url, viewport=SCREEN) for name in PEOPLE}  # type: ignore[arg-type]
    watched = {name: Watched(context) for name, context in contexts.items()}
    for name, one in watched.items():
        log_in(one, name)
    yield watched
    for context in contexts.values():
        context.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder in which the pictures are written."""
    folder = Path(os.environ.get("LIFEGUARD_PICTURES", tmp_path / "pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_batch_from_pool_to_version(
    guard: ServedGuard, desks: dict[str, Watched], answers: dict[str, Category], pictures: Path
) -> None:
    """Two label a batch of 20 by keyboard alone, an admin settles their one conflict, and a new version is on the loop page."""
    wait_for(lambda: _state(guard) is CycleState.LABELLING, timeout_s=LONGEST_S)
    ann, ben, ada = (desks[name].page for name in PEOPLE)
    first = _label(ann, answers, differ_on=set(), picture=pictures / "desk.png")
    twice = next(text for text in first if answers[text] is Category.EMERGENCY_SITUATION)
    second = _label(ben, answers, differ_on={twice})
    assert twice in second
    assert len({*first, *second}) == BATCH
    assert len(second) < BATCH, "not everything is asked twice"

    ada.goto("/review/agreement")
    expect(ada.locator("h1")).to_have_text("1 conflict is open")
    ada.keyboard.press("s")
    expect(ada.locator("article .text")).to_have_text(twice)
    ada.screenshot(path=pictures / "conflict.png")
    ada.keyboard.press(_key(answers[twice]))
    expect(ada.locator("h1")).to_have_text("No conflict is open")

    wait_for(lambda: _state(guard) in {CycleState.PROMOTED, CycleState.HELD}, timeout_s=LONGEST_S)
    ada.goto("/review/loop")
    expect(ada.get_by_role("row").filter(has_text="0002").first).to_be_visible()
    ada.get_by_role("heading", name="Challenger against champion").evaluate("heading => heading.scrollIntoView()")
    ada.screenshot(path=pictures / "loop.png")
    assert {name: one.wrong for name, one in desks.items()} == {name: [] for name in PEOPLE}


def _label(page: Page, answers: dict[str, Category], *, differ_on: set[str], picture: Path | None = None) -> list[str]:
    """Label by keyboard until nothing waits, what is in `differ_on` as not-harmful, and return the texts in order."""
    page.reload()
    done: list[str] = []
    heading, key = page.locator("h1"), page.locator("input[name=key]")
    while heading.inner_text() != "Nothing waits for you":
        before = key.first.input_value()
        if page.locator("details.cover:not([open])").count():
            page.keyboard.press("s")
        elif picture is not None and page.locator(".score").count():
            page.screenshot(path=picture)
            picture = None
        text = page.locator("article .text").inner_text()
        page.keyboard.press(_key(Category.NOT_HARMFUL if text in differ_on else answers[text]))
        expect(page.locator(f"input[name=key][value='{before}']")).to_have_count(0)
        done.append(text)
    return done


def _key(category: Category) -> str:
    return str(CATEGORIES.index(category) + 1)


def _state(guard: ServedGuard) -> CycleState | None:
    found: list[CycleState] = []

    async def look(store: Store) -> None:
        found.extend(cycle.state for cycle in await store.cycles.recent(1))

    in_store(guard, look)
    return found[0] if found else None
