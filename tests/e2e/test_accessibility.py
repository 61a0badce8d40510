"""Every page of the desk against WCAG 2.2 AA, by axe-core, in light and dark, on a screen and on a phone."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from guard.taxonomy import Category
from tests.e2e.browser import Watched, in_store, log_in
from tests.e2e.test_desk import fill
from tests.e2e.test_desk_variations import fill as fill_pairs
from tests.guard.review.scenes import differ
from tests.guard.store.scenes import doubt
from tests.served import ServedGuard

AXE: Final = "4.14.1"
FOLDER: Final = Path(__file__).parents[2] / ".clients" / "axe"  # once fetched it stays there
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SIZES: Final = {"screen": (1100, 900), "phone": (360, 740)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    script = FOLDER / f"axe-{AXE}.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm on this machine, which fetches axe-core: `apt install npm` brings it")
        folder = tmp_path_factory.mktemp("axe")
        fetched = subprocess.run([npm, "pack", f"axe-core@{AXE}"], cwd=folder, check=False, capture_output=True)
        if fetched.returncode:
            pytest.skip("npm cannot fetch axe-core: it needs the npm registry once")
        with tarfile.open(next(folder.glob("*.tgz"))) as package:
            package.extractall(folder, filter="data")
        FOLDER.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "package" / "axe.min.js", script)
    return script.read_text()


def _violations(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)  # by the browser's debugger, whom the page's policy does not bind
    found: dict[str, Any] = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    assert len(found["passes"]) > 15, "it looked at the page"
    return [(broken["id"], [node["html"][:200] for node in broken["nodes"]]) for broken in found["violations"]]


def _second_looks(guard: ServedGuard, page: Page, look: Callable[[str], None]) -> None:
    """Look at the page of second looks, covered and not, until nothing waits."""
    in_store(guard, lambda store: doubt(store, "plain again", "\u202eturned again <b>", label=Category.SELF_HARM))
    for name in ("second look", "another second look"):
        page.goto("/review/doubts")
        look(name)
        page.keyboard.press("s")
        look(f"{name}, uncovered")
        page.keyboard.press("6")
        expect(page.locator("#said")).to_have_text("Settled as not-harmful.")
    look("no second look")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page(guard: ServedGuard, chromium: Browser, axe: str, scheme: Any, size: str) -> None:
    """No page, part or dialog of the desk violates a rule, and none is wider than the window."""
    in_store(guard, lambda store: fill(store, ["plain", "\u202eturned <b>", "hard", "last " * 2_000], audits=0))
    width, height = SIZES[size]
    context = chromium.new_context(
        base_url=guard.base_url, color_scheme=scheme, viewport={"width": width, "height": height}
    )
    watched = Watched(context)
    page, press, broken = watched.page, watched.page.keyboard.press, {}

    def look(name: str) -> None:
        broken[name] = _violations(page, axe)
        overflow = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, (name, overflow)

    page.goto("/review/login")
    look("login")
    page.get_by_label("Name").fill("nobody")
    page.get_by_label("Password").fill("wrong password")
    press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    look("refused")
    log_in(watched)
    look("picked")
    press("h")
    expect(page.locator("#guideline-heading")).to_be_focused()
    look("guideline of a category")
    press("Escape")
    press("?")
    look("help")
    press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    press("f")
    expect(page.locator("[data-key=f]")).to_have_attribute("aria-pressed", "true")
    look("flagged")
    for name in ("marked", "covered", "long"):
        before = page.locator("input[name=pick_id]").first.input_value()
        press("6")
        expect(page.locator("input[name=pick_id]").first).not_to_have_value(before)
        look(name)
        if name == "covered":
            press("s")
            look("uncovered")
    press("6")
    expect(page.locator("h1")).to_have_text("Nothing waits for you")
    look("nothing waits")
    in_store(guard, differ)
    for path in ("agreement", "guideline", "guideline/self-harm", "guideline/nothing", "ledger"):
        page.goto(f"/review/{path}")
        look(path)
    _second_looks(guard, page, look)
    context.close()
    assert broken == {key: [] for key in broken}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pairs(guard: ServedGuard, chromium: Browser, axe: str, scheme: Any, size: str) -> None:
    """No state of the page of variations violates a rule: marked, covered, uncovered, with figures, with nothing left."""
    in_store(guard, fill_pairs)
    width, height = SIZES[size]
    context = chromium.new_context(
        base_url=guard.base_url, color_scheme=scheme, viewport={"width": width, "height": height}
    )
    watched = Watched(context)
    page, press, broken = watched.page, watched.page.keyboard.press, {}
    log_in(watched)
    page.goto("/review/variations")
    page.get_by_text("financial-advice: cases").click()
    broken["marked"] = _violations(page, axe)
    press("?")
    broken["help"] = _violations(page, axe)
    press("Escape")
    for name in ("covered", "variation", "next", "last", "nothing left"):
        before = page.locator("#desk").inner_text()
        press("2")
        expect(page.locator("#desk")).not_to_have_text(before)
        broken[name] = _violations(page, axe)
        if name == "covered":
            press("s")
            expect(page.locator("#edit")).to_be_visible()
            broken["uncovered"] = _violations(page, axe)
    expect(page.locator("h1")).to_have_text("Nothing to check")
    context.close()
    assert broken == {key: [] for key in broken}
