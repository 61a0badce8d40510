"""Every page of the desk against WCAG 2.2 AA, by axe-core, in light and dark, on a screen and on a phone."""

import itertools
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.scenes import SCENES
from tests.e2e.stage import Stage, staged

AXE: Final = "4.14.1"
FOLDER: Final = Path(__file__).parents[2] / ".clients" / "axe"  # once fetched it stays there
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
TEXTS: Final = ("plain", "an audit", "hard", "reported", "\u202eturned <b>", "last " * 2_000)
SIZES: Final = {"screen": (1100, 900), "phone": (360, 740)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


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


@pytest.fixture(scope="module")
def stage(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A desk with a message of each kind."""
    with staged(tmp_path_factory.mktemp("accessible"), chromium, TEXTS) as stage:
        yield stage


@pytest.mark.parametrize("route", SCENES)
def test_every_page(stage: Stage, axe: str, route: str) -> None:
    """In none of its states, light or dark, does a page violate a rule on a screen or a phone, nor is it wider than the window."""
    page, broken = stage.watched.page, {}
    for state in SCENES[route].states(stage):
        for (size, (width, height)), scheme in itertools.product(SIZES.items(), SCHEMES):
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=scheme)
            look = f"{state}, {scheme}, on a {size}"
            if found := _violations(page, axe):
                broken[look] = found
            overflow = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, (look, overflow)
    assert broken == {}
