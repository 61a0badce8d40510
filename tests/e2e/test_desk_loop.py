"""The loop page in a real Chromium: pictures drawn, nothing refused by the policy, a promotion by hand; a picture of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, expect

from guard.passwords import hash_password
from guard.store.states import Role
from tests.e2e.browser import PASSWORD, Watched, in_store
from tests.guard.review.scenes import judged_and_open
from tests.served import ServedGuard
from tests.toys import publish_toy

PHONE: Final = {"width": 390, "height": 800}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[ServedGuard]:
    """A real guard on SQLite with three versions, two cycles and an account for the admin `ada`."""
    served = ServedGuard(tmp_path)
    for promote in (True, True, False):
        publish_toy(served.exports, promote=promote)
    in_store(served, lambda store: store.reviewers.add("ada", Role.ADMIN, hash_password(PASSWORD, name="ada")))
    in_store(served, judged_and_open)
    with served:
        yield served


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_loop_page(guard: ServedGuard, chromium: Browser, tmp_path: Path, scheme: str) -> None:
    """Every picture is drawn with its colours, on a phone nothing is wider than the screen, and an admin promotes by form."""
    context = chromium.new_context(base_url=guard.base_url, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(60_000)
    watched = Watched(context)
    page = watched.page
    page.goto("/review/loop")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_title("Label · Lifeguard")
    page.get_by_role("link", name="Loop").click()
    expect(page).to_have_title("Loop · Lifeguard")
    drawings = page.locator("svg[role=img]")
    expect(drawings).to_have_count(5)
    for drawing in drawings.all():
        box = drawing.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 30
    fill = page.locator("circle.cluster").first.evaluate("mark => getComputedStyle(mark).fill")
    assert fill not in {"none", "rgb(0, 0, 0)"}  # the style sheet has come
    page.screenshot(path=tmp_path / f"loop-{scheme}.png", full_page=True)
    assert (tmp_path / f"loop-{scheme}.png").stat().st_size > 20_000
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    promote = page.locator("form[action='/review/loop/promote']")
    promote.get_by_label("Version").select_option("0003")
    promote.get_by_label("Why").fill("<i>fewer</i> missed")
    promote.get_by_role("button").click()
    expect(page.locator("#desk > p").first).to_contain_text("Version 0003 answers")
    expect(page.get_by_text("<i>fewer</i> missed")).to_be_visible()
    assert guard.exports.champion() == "0003"
    assert watched.wrong == []
    context.close()
