"""Second looks in a real Chromium, by keyboard alone."""

import pytest
from playwright.sync_api import expect
from sqlalchemy import select

from guard.store import Store
from guard.store.rows import Pick
from guard.taxonomy import Category
from tests.e2e.browser import Watched, in_store
from tests.guard.store.scenes import doubt
from tests.served import ServedGuard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_by_keyboard(guard: ServedGuard, desk: Watched) -> None:
    """A label is kept, one changed, one left, and one decision undone, with keys alone; a covered text is shown first."""
    in_store(guard, lambda store: doubt(store, "one", "two", "three", label=Category.SELF_HARM))
    page, press = desk.page, desk.page.keyboard.press
    page.goto("/review/doubts")
    press("2")
    expect(page.locator("#said")).to_have_text("Show the text first: s.")
    for keys, said, following in (
        ("s1", "Settled as self-harm.", "two"),
        ("s2", "Settled as medical-advice.", "three"),
        ("u", "Undone: it waits again.", "two"),
        ("s3", "Settled as legal-advice.", "three"),
        ("s0", "The label stays: can't tell.", ""),
    ):
        for key in keys:
            press(key)
        expect(page.locator("#said")).to_have_text(said)
        expect(page.locator(".text")).to_have_count(1 if following else 0)
        if following:
            assert page.locator(".text").text_content() == following
    expect(page.locator("h1")).to_have_text("No label waits for you")
    expect(page.locator("#heading")).to_be_focused()

    async def check(store: Store) -> None:
        async with store.database.read() as session:
            found = list(await session.scalars(select(Pick.category).order_by(Pick.id)))
        assert found == [Category.SELF_HARM, Category.LEGAL_ADVICE, Category.SELF_HARM]

    in_store(guard, check)
    assert desk.wrong == []
