"""The desk in a real Chromium: a batch by keyboard alone."""

from dataclasses import replace
from typing import Final

import pytest
from playwright.sync_api import expect
from sqlalchemy import select

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.pool import AUDIT
from guard.store.rows import Label
from guard.taxonomy import CATEGORIES, Category
from tests.e2e.browser import Watched, in_store
from tests.guard.store.scenes import add, arrival, learner, open_cycle, pooled
from tests.served import ServedGuard

BATCH: Final = 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def fill(store: Store, texts: list[str], *, audits: int = 0) -> None:
    """Open a batch; the first ones are audits, the third after them is covered."""
    arrivals = [replace(arrival(text), category=Category.LEGAL_ADVICE) for text in texts]
    arrivals[:audits] = [replace(a, reason=AUDIT) for a in arrivals[:audits]]
    arrivals[audits + 2] = replace(arrivals[audits + 2], category=Category.SELF_HARM)
    await add(store, *arrivals)
    cycle = await open_cycle(store, await learner(store))
    reason = {
        "strategy": "stochastic",
        "category": "legal-advice",
        "probability": 0.47,
        "uncertainty": 0.9,
        "cluster": 1,
    }
    picks = [Picked(message.id, reason, 0.5) for message in await pooled(store)]
    await store.cycles.fill(cycle.id, picks, fence=1, figures={})


def test_batch_by_keyboard(guard: ServedGuard, desk: Watched) -> None:
    """A batch of 20 is labelled by keyboard alone, with looking things up, undoing, flagging and passing on, as pressed."""
    texts = [f"message {number}" for number in range(BATCH)]
    in_store(guard, lambda store: fill(store, texts, audits=2))
    page, press = desk.page, desk.page.keyboard.press
    page.reload()
    text, said = page.locator(".text"), page.locator("#said")
    press("?")
    expect(page.locator("#help")).to_be_visible()
    press("1")  # no label while somebody reads what the keys do
    press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    expected: list[tuple[str, str | None]] = []
    for number, words in enumerate(texts):
        expect(text).to_have_text(words)
        expect(page.locator("progress")).to_have_js_property("value", number)
        if number in {0, 1, 4}:
            expect(text).to_be_hidden()
            press("6")
            expect(said).to_have_text("Show the text first: s.")
            press("s")
        expect(text).to_be_visible()
        expect(page.locator(".score")).to_have_count(0 if number < 2 else 6)
        if number == 5:
            press("h")
            expect(page.locator("#guideline")).to_contain_text("Legal-advice or financial-advice")
            press("Escape")
            press("f")
            expect(page.locator("[data-key=f]")).to_have_attribute("aria-pressed", "true")
        if number == 6:
            press("2")
            expect(text).to_have_text(texts[7])
            press("u")
            expect(text).to_have_text(words)
        key = number % 7
        press(str(key))
        expected.append((words, CATEGORIES[key - 1] if key else None))
    expect(page.locator("h1")).to_have_text("Nothing waits for you")
    expect(page.locator("h1")).to_be_focused()
    assert desk.wrong == []

    async def check(store: Store) -> None:
        async with store.database.read() as session:
            standing = select(Label).where(Label.undone_at.is_(None)).order_by(Label.message_id)
            labels = [(x.reviewer, x.category, x.scores_shown) for x in await session.scalars(standing)]
        assert labels == [("ann", category, number > 1) for number, (_, category) in enumerate(expected)]

    in_store(guard, check)


def test_pass_on_and_keys_off(guard: ServedGuard, desk: Watched) -> None:
    """A message is passed on unread by one key, and single keys can be switched off for good."""
    in_store(guard, lambda store: fill(store, ["one", "two", "three"], audits=0))
    page, press = desk.page, desk.page.keyboard.press
    page.reload()
    press("p")
    expect(page.locator(".text")).to_have_text("two")
    press("?")
    page.get_by_label("Single keys work").focus()
    press("Space")
    press("Escape")
    page.reload()
    press("1")
    expect(page.locator(".text")).to_have_text("two")
    page.get_by_role("button", name="1 self-harm").press("Enter")
    expect(page.locator(".text")).to_have_text("three")
    assert desk.wrong == []
