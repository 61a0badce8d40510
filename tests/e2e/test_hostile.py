"""150 hostile texts wherever the desk shows a string: each stands there as it was sent, and is nothing else."""

from collections.abc import Iterator
from typing import Final

import httpx
import pytest
from litestar.routes import HTTPRoute
from playwright.sync_api import Browser

from guard.app import create_app
from guard.settings import GuardSettings
from tests.e2e.scenes import SCENES
from tests.e2e.stage import Stage, staged
from tests.hostile import HOSTILE

_PARAMETERS: Final = {"{category:str}": "self-harm"}
# of each place the texts, and how many elements they have but for the marks of what cannot be seen; what strings may have
# made anywhere in the page, the title that they may have changed, and how many scripts there are
_FOUND: Final = """(places) => [
  Object.fromEntries(places.map(place => [place, [...document.querySelectorAll(place)].map(e => e.textContent)])),
  places.flatMap(place => [...document.querySelectorAll(place)]
    .flatMap(e => [...e.querySelectorAll(":not(span.unseen):not(ins):not(del)")].map(made => made.outerHTML))),
  [...document.body.querySelectorAll("script, iframe, img, style, object, embed, base, meta, audio, video, math, svg:not([role=img])")]
    .map(made => made.outerHTML),
  document.title.endsWith(" · Lifeguard"),
  document.scripts.length,
]"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stage(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A desk furnished with hostile texts."""
    with staged(tmp_path_factory.mktemp("hostile"), chromium, HOSTILE) as stage:
        yield stage


def test_every_page_has_its_scene(stage: Stage) -> None:
    """Whatever answers a browser with a page below /review has a scene: a new one without fails here."""
    cookies = {cookie["name"]: cookie["value"] for cookie in stage.watched.page.context.cookies()}
    pages = set()
    with httpx.Client(base_url=stage.guard.base_url, cookies=cookies, headers={"accept": "text/html"}) as client:
        for route in create_app(GuardSettings()).routes:
            if isinstance(route, HTTPRoute) and "GET" in route.methods and route.path.startswith("/review"):
                path = route.path
                for parameter, value in _PARAMETERS.items():
                    path = path.replace(parameter, value)
                assert "{" not in path, "give the route's parameter a value"
                answer = client.get(path, timeout=60)
                if answer.status_code == httpx.codes.OK and answer.headers["content-type"].startswith("text/html"):
                    pages.add(route.path)
    assert pages == SCENES.keys()


@pytest.mark.parametrize("route", SCENES)
def test_strings(stage: Stage, route: str) -> None:
    """Each string's text in the page is what was sent; none makes an element, breaks the policy or writes to the console."""
    page, wrong = stage.watched.page, stage.watched.wrong
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    wrong.clear()
    for places in SCENES[route].strings(stage):
        found, inside, made, titled, scripts = page.evaluate(_FOUND, list(places))
        assert found == {place: list(texts) for place, texts in places.items()}
        assert (inside, made, titled, scripts) == ([], [], True, 2), places.keys()
    refused = (
        "Failed to load resource: the server responded with a status of 40"  # what Chromium says of a problem page
    )
    assert [said for said in wrong if not said.startswith(refused)] == []
    assert [url for url in requested if not url.startswith(f"{stage.guard.base_url}/")] == []
    assert [cookie["name"] for cookie in page.context.cookies()] == ["lifeguard"]
