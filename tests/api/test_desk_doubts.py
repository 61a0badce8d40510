"""The page of second looks: the text and both categories, never who labelled; a decision by a form, the same as JSON."""

import html
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import select

from guard.exports import Exports
from guard.review.guideline import between
from guard.settings import GuardSettings
from guard.store.rows import Pick
from guard.store.states import Role
from guard.taxonomy import CATEGORIES, GUIDELINES, Category
from tests.api.conftest import Running, Serve
from tests.api.test_roles import csrf, log_in
from tests.guard.store.scenes import doubt
from tests.toys import publish_toy

BROWSER = {"accept": "text/html"}
HTMX = {"hx-request": "true"}
JSON = {"accept": "application/json"}
PAGE = "/review/doubts"


async def enter(running: Running, name: str) -> httpx.AsyncClient:
    """Return the browser of a new reviewer."""
    await running.store.reviewers.add(name, Role.REVIEWER, "hash")
    token = await log_in(running, name)
    headers = {"cookie": f"lifeguard={token}", "x-csrf-token": csrf(token)}
    transport, url = running.client._transport, running.client.base_url
    return httpx.AsyncClient(transport=transport, base_url=url, headers=headers)


@pytest.fixture
async def running(serve: Serve, store_settings: GuardSettings, exports: Exports) -> AsyncIterator[Running]:
    """The application on either database."""
    publish_toy(exports)
    async with serve(store_settings) as started:
        yield started


def shown(page: str) -> str:
    """Return the text on the page."""
    (text,) = re.findall(r'<bdi class="text"[^>]*>(.*?)</bdi>', page, re.DOTALL)
    return html.unescape(text)


async def test_nothing_waits(running: Running) -> None:
    """Without a doubt the page says so and offers nothing to decide."""
    ben = await enter(running, "ben")
    page = await ben.get(PAGE, headers=BROWSER)
    assert page.status_code == 200
    assert "No label waits for you" in page.text
    assert 'class="choices"' not in page.text
    twin = (await ben.get(PAGE, headers=JSON)).json()
    assert (twin["look"], twin["waiting"], twin["covered"]) == (None, 0, False)


async def test_page(running: Running) -> None:
    """The page shows text, label, the models' opinion and where the two meet in the guideline, and not whose label it is."""
    ben = await enter(running, "ben")
    await doubt(running.store, "is <i>that</i> a rash?", "two")
    page = (await ben.get(PAGE, headers=BROWSER)).text
    assert shown(page) == "is <i>that</i> a rash?"
    assert "<i>" not in page
    assert "Labelled <strong>legal-advice</strong>" in page
    assert "take it for <strong>medical-advice</strong>, with 93 %" in page
    assert "secret-reviewer" not in page
    keys = re.findall(r'value="([\w-]+)" data-key="(\d)"', page)
    assert keys == [*((str(c), str(n)) for n, c in enumerate(CATEGORIES, 1)), ("unclear", "0")]
    assert re.findall(r'value="([\w-]+)"[^>]*>(?:(?!</button>).)*keep the label', page) == ["legal-advice"]
    for category in (Category.LEGAL_ADVICE, Category.MEDICAL_ADVICE):
        assert GUIDELINES[category].boundary in html.unescape(page)
    assert "1 more waits for you" in page
    for path in (PAGE, "/review/label"):
        assert '<span id="doubts">(2)</span>' in (await ben.get(path, headers=BROWSER)).text
    assert "<details" not in page
    twin = (await ben.get(PAGE, headers=JSON)).json()
    assert "secret-reviewer" not in str(twin)
    look = twin["look"]
    assert (look["text"], look["category"], look["opinion"]) == (shown(page), "legal-advice", "medical-advice")
    assert (look["probability"], twin["waiting"], twin["undoable"]) == (0.934, 2, 0)


@pytest.mark.parametrize(("label", "opinion"), [("self-harm", "legal-advice"), ("legal-advice", "emergency-situation")])
async def test_hard_text_is_covered(running: Running, label: str, opinion: str) -> None:
    """What is labelled or taken for self-harm or an emergency is shown only when asked for."""
    ben = await enter(running, "ben")
    await doubt(running.store, "one", label=Category(label), opinion=Category(opinion))
    page = (await ben.get(PAGE, headers=BROWSER)).text
    assert re.search(
        r'<details class="cover">\s*<summary data-key="s".*?</summary>\s*<bdi class="text"', page, re.DOTALL
    )
    assert (await ben.get(PAGE, headers=JSON)).json()["covered"]


def test_every_two_categories() -> None:
    """Where the guideline has a case for two categories it is shown, and the case of errands with not-harmful otherwise."""
    titles = {
        (one, other): [section.title for section in between(frozenset({one, other}))]
        for one in CATEGORIES
        for other in CATEGORIES
        if one is not other
    }
    assert titles[Category.SELF_HARM, Category.NOT_HARMFUL] == ["Self-harm or not-harmful"]
    assert titles[Category.FINANCIAL_ADVICE, Category.LEGAL_ADVICE] == ["Legal-advice or financial-advice"]
    assert titles[Category.MEDICAL_ADVICE, Category.NOT_HARMFUL] == ["Errands and general knowledge"]
    assert titles[Category.SELF_HARM, Category.LEGAL_ADVICE] == []
    assert all(found == titles[other, one] for (one, other), found in titles.items())


async def test_decide_and_undo(running: Running) -> None:
    """Each decision is kept and the next label shown as a part; undoing brings it back."""
    ben = await enter(running, "ben")
    await doubt(running.store, "one", "two", "three")
    answer = await ben.post(PAGE, data={"pick_id": "1", "category": "medical-advice"}, headers=HTMX)
    assert answer.status_code == 200
    assert answer.text.startswith('<section id="desk"')
    assert shown(answer.text) == "two"
    assert '<p id="said" hx-swap-oob="innerHTML">Settled as medical-advice.</p>' in answer.text
    assert '<span id="doubts" hx-swap-oob="innerHTML">(2)</span>' in answer.text
    answer = await ben.post(PAGE, data={"pick_id": "2", "category": "unclear"}, headers=HTMX)
    assert "The label stays: can&#39;t tell." in answer.text or "The label stays: can't tell." in answer.text
    assert shown(answer.text) == "three"
    answer = await ben.post(f"{PAGE}/undo", headers=HTMX)
    assert shown(answer.text) == "two"
    answer = await ben.post(f"{PAGE}/pass", data={"pick_id": "2"}, headers=HTMX)
    assert (shown(answer.text), "Left to another reviewer." in answer.text) == ("three", True)
    async with running.store.database.read() as session:
        assert [p.category for p in await session.scalars(select(Pick).order_by(Pick.id))] == [
            Category.MEDICAL_ADVICE,
            Category.LEGAL_ADVICE,
            Category.LEGAL_ADVICE,
        ]


async def test_without_htmx_and_as_json(running: Running) -> None:
    """A browser without scripts is led back to the page; a program gets the twin of what comes next."""
    ben = await enter(running, "ben")
    await doubt(running.store, "one", "two")
    for deed, form in (("", {"pick_id": "1", "category": "self-harm"}), ("/undo", {})):
        answer = await ben.post(PAGE + deed, data=form, headers=BROWSER)
        assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    answer = await ben.post(PAGE, data={"pick_id": "1", "category": "self-harm"}, headers=JSON)
    assert (answer.status_code, answer.json()["look"]["text"]) == (200, "two")
    assert (answer.json()["undoable"], answer.json()["hard_texts"]) == (1, 2)


async def test_refused(running: Running) -> None:
    """What does not fit, is another's or is settled already is refused in words, without repeating what was sent."""
    ben, ann = await enter(running, "ben"), await enter(running, "secret-reviewer")
    await doubt(running.store, "one")
    for deed, form, status in (
        ("", {}, 400),
        ("", {"pick_id": "canary", "category": "self-harm"}, 400),
        ("", {"pick_id": "1", "category": "canary"}, 400),
        ("", {"pick_id": "4711", "category": "self-harm"}, 404),
        ("/pass", {"pick_id": "4711"}, 404),
        ("/undo", {}, 404),
    ):
        for headers in (BROWSER, HTMX, JSON):
            answer = await ben.post(PAGE + deed, data=form, headers=headers)
            assert (deed, form, answer.status_code) == (deed, form, status)
            assert "canary" not in answer.text
    assert "No label waits for you" in (await ann.get(PAGE, headers=BROWSER)).text
    own = await ann.post(PAGE, data={"pick_id": "1", "category": "self-harm"}, headers=HTMX)
    assert (own.status_code, "the label is yours" in own.text) == (409, True)
    await ben.post(PAGE, data={"pick_id": "1", "category": "self-harm"}, headers=HTMX)
    late = await ben.post(PAGE, data={"pick_id": "1", "category": "legal-advice"}, headers=HTMX)
    assert (late.status_code, "looked at again already" in late.text) == (409, True)
