"""Variations and contrasts in a real Chromium: checked by keyboard alone, on a screen and a phone."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from guard.store import Store
from guard.store.contrasts import Proposal
from guard.store.states import CycleState
from guard.taxonomy import Category
from tests.e2e.browser import Watched, in_store
from tests.guard.store.scenes import advance, label_all, learner, open_batch
from tests.served import ServedGuard

LEGAL, MONEY, HARM = Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE, Category.SELF_HARM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def fill(store: Store) -> None:
    """Propose an edit within advice and one away from self-harm, and have a message varied three times."""
    fence = await learner(store)
    cycle = await open_batch(store, fence, "may he keep my deposit", "I will end it tonight", "is my lease still good")
    await label_all(store, LEGAL, HARM, LEGAL, reviewer="zoe")
    await advance(store, cycle, fence, CycleState.GENERATING)
    first, second, third = await store.variations.pending(cycle.id)
    for seed, edit, to in (
        (first, "may he invest my deposit", MONEY),
        (second, "I will end the lease tonight", LEGAL),
    ):
        proposal = Proposal(edit, to, LEGAL, llm="m", template="t")
        await store.contrasts.propose(cycle.id, seed, proposal, fence=fence, counts={}, tally={})
    texts = [f"is my lease number {n} still good" for n in range(3)]
    await store.variations.record(cycle.id, third, texts, fence=fence, llm="m", template="t", fates={})


def test_pairs_by_keyboard(guard: ServedGuard, desk: Watched) -> None:
    """Contrasts and variations are checked by keyboard alone, with covering, looking things up and undoing, as pressed."""
    in_store(guard, fill)
    page = desk.page

    def press(key: str) -> None:
        expect(page.locator(".htmx-request")).to_have_count(0)  # until then the page takes no key
        page.keyboard.press(key)

    page.get_by_role("link", name="Variations").focus()
    press("Enter")
    expect(page).to_have_title("Variations · Lifeguard")
    seed, edit, said = page.locator("#seed"), page.locator("#edit"), page.locator("#said")
    waiting = page.locator("#pairs-waiting")
    expect(waiting).to_have_text(" (2 waiting)")
    expect(seed).to_have_text("may he keep my deposit")
    expect(edit).to_have_text("may he invest my deposit")
    _look_up(page, press)
    press("2")
    expect(said).to_have_text("Recorded: flips.")
    expect(page.locator("h1")).to_be_focused()
    expect(waiting).to_have_text(" (1 waiting)")
    expect(seed).to_be_hidden()
    press("1")
    expect(said).to_have_text("Show the text first: s.")
    press("s")
    expect(edit).to_be_visible()
    press("0")
    expect(waiting).to_have_text("")
    expect(page.locator("h1")).to_have_text("Is the variation legal-advice too?")
    press("u")
    expect(said).to_have_text("Undone: here it is again.")
    expect(waiting).to_have_text(" (1 waiting)")
    press("s")
    press("1")
    for verdict in ("1", "2", "0"):
        expect(edit).to_contain_text("is my lease number")
        before = edit.text_content()
        press(verdict)
        expect(edit.filter(has_text=before or "")).to_have_count(0)
    expect(page.locator("h1")).to_have_text("Nothing to check")
    assert desk.wrong == []

    async def check(store: Store) -> None:
        done = [
            (line.subject, line.detail["verdict"]) for line in await store.ledger.recent() if "verdict" in line.detail
        ]
        assert done[-3:] == [("contrast 2", "holds"), ("contrast 2", "unclear"), ("contrast 1", "flips")]
        assert [verdict for _, verdict in done[:3]] == ["unclear", "flips", "holds"]
        assert await store.pairs.next("ben") is None

    in_store(guard, check)


def _look_up(page: Page, press: Callable[[str], None]) -> None:
    """Read what the keys do, and the guideline; no key decides meanwhile."""
    press("?")
    expect(page.locator("#help")).to_be_visible()
    press("1")
    press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    press("h")
    expect(page.locator("#guideline")).to_contain_text("Legal-advice or financial-advice")
    expect(page.locator("#guideline-heading")).to_be_focused()
    press("Escape")
    expect(page.locator("#guideline")).to_be_hidden()


def test_halves_beside_or_below(guard: ServedGuard, desk: Watched) -> None:
    """On a screen the halves are beside each other with what differs marked, on a phone below, and nothing is too wide."""
    in_store(guard, fill)
    page = desk.page
    for width, beside in ((1100, True), (360, False)):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto("/review/variations")
        expect(page.get_by_role("deletion").first).to_have_text("keep")
        expect(page.get_by_role("insertion").first).to_have_text("invest")
        seed, edit = (page.locator(half).bounding_box() for half in ("#seed", "#edit"))
        assert seed is not None
        assert edit is not None
        assert (seed["y"] == edit["y"], seed["x"] == edit["x"]) == (beside, not beside)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert desk.wrong == []
