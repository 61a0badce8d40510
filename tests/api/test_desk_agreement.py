"""The agreement page: conflicts side by side, an admin's decisions on them, and how alike people label; the same as JSON."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest
from markupsafe import escape

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.states import CycleState, Role
from guard.taxonomy import CATEGORIES, GUIDELINES, Category
from tests.api.conftest import Running, Serve
from tests.api.test_roles import csrf, log_in
from tests.guard.store.scenes import add, advance, arrival, learner, open_cycle, pooled
from tests.guard.store.test_opinions import CLEAR, LEGAL, SELF_HARM, batch, say, settled, state_of
from tests.hostile import HOSTILE
from tests.toys import publish_toy

PAGE = "/review/agreement"
BROWSER = {"accept": "text/html"}
HTMX = {"hx-request": "true"}
JSON = {"accept": "application/json"}


@dataclass(frozen=True)
class Desks:
    """The application, and an admin and two reviewers who are logged in."""

    running: Running
    ada: httpx.AsyncClient
    ann: httpx.AsyncClient
    bob: httpx.AsyncClient

    @property
    def store(self) -> Store:
        """Its store."""
        return self.running.store

    async def settle(self, category: str, headers: dict[str, str], **fields: str) -> httpx.Response:
        """Decide as the admin."""
        shown = _fields((await self.ada.get(PAGE, headers=BROWSER)).text)
        return await self.ada.post(PAGE, data={**shown, **fields, "category": category}, headers=headers)


def _fields(page: str) -> dict[str, str]:
    (form,) = re.findall(r'<form class="choices".*?</form>', page, re.DOTALL)
    return dict(re.findall(r'name="(pick_id|key)" value="([^"]*)"', form))


@pytest.fixture
async def desks(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> AsyncIterator[Desks]:
    """An application with three people at its desk."""
    publish_toy(exports)
    async with serve(guard_settings) as running:
        clients = []
        for name, role in (("ada", Role.ADMIN), ("ann", Role.REVIEWER), ("bob", Role.REVIEWER)):
            await running.store.reviewers.add(name, role, "hash")
            token = await log_in(running, name)
            headers = {"cookie": f"lifeguard={token}", "x-csrf-token": csrf(token)}
            transport, url = running.client._transport, running.client.base_url
            clients.append(httpx.AsyncClient(transport=transport, base_url=url, headers=headers))
        yield Desks(running, *clients)


async def test_nothing_yet(desks: Desks) -> None:
    """Without conflicts and without messages labelled twice the page says so, and has nothing to decide."""
    page = (await desks.ada.get(PAGE, headers=BROWSER)).text
    assert "No conflict is open" in page
    assert "Nothing was labelled twice yet" in page
    assert 'class="choices"' not in page
    twin = (await desks.ada.get(PAGE, headers=JSON)).json()
    assert (twin["conflicts"], twin["total"], twin["withheld"], twin["undoable"]) == ([], 0, 0, 0)
    assert twin["agreement"] == {"messages": 0, "kappa": None, "pairs": [], "people": [], "confusions": []}


async def test_side_by_side(desks: Desks) -> None:
    """An admin sees the text, covered where it may be hard, each opinion with who and when, and where the two meet."""
    await batch(desks.store, SELF_HARM, SELF_HARM)
    await say(desks.store, 1, ann=SELF_HARM, bob=CLEAR)
    page = (await desks.ada.get(PAGE, headers=BROWSER)).text
    assert re.search(r'<details class="cover">.*?<bdi class="text"[^>]*>text 0</bdi>', page, re.DOTALL)
    for name, category in (("ann", "self-harm"), ("bob", "not-harmful")):
        assert re.search(rf"<li><strong>{category}</strong><br><bdi>{name}</bdi>, <time", page)
    for category in (SELF_HARM, CLEAR):
        assert escape(GUIDELINES[category].boundary) in page
    assert GUIDELINES[Category.FINANCIAL_ADVICE].boundary not in page
    assert "<summary>Self-harm or not-harmful</summary>" in page
    assert "Errands" not in page
    assert re.findall(r'value="([\w-]+)" data-key="(\d)"', page) == [
        *((category.value, str(n)) for n, category in enumerate(CATEGORIES, 1)),
        ("unclear", "0"),
    ]
    twin = (await desks.ada.get(PAGE, headers=JSON)).json()
    (conflict,) = twin["conflicts"]
    assert (conflict["text"], conflict["covered"], conflict["open"], conflict["asked"]) == ("text 0", True, True, False)
    assert [(o["reviewer"], o["category"]) for o in conflict["opinions"]] == [
        ("ann", "self-harm"),
        ("bob", "not-harmful"),
    ]
    assert [section["title"] for section in conflict["sections"]] == ["Self-harm or not-harmful"]


async def test_blind_until_the_batch_is_closed(desks: Desks) -> None:
    """Who labels sees nothing of the open batch's conflicts, not their number in the navigation either; admins do."""
    cycle, fence = await batch(desks.store, SELF_HARM, SELF_HARM)
    await say(desks.store, 1, ann=SELF_HARM, bob=LEGAL)
    page = (await desks.ann.get(PAGE, headers=BROWSER)).text
    assert "text 0" not in page
    assert "No conflict is open" in page
    assert "1 in the open batch is shown when it is closed" in page
    assert "(1 open)" not in (await desks.ann.get("/review/label", headers=BROWSER)).text
    assert "(1 open)" in (await desks.ada.get("/review/guideline", headers=BROWSER)).text
    twin = (await desks.ann.get(PAGE, headers=JSON)).json()
    assert (twin["conflicts"], twin["total"], twin["withheld"]) == ([], 0, 1)
    await advance(desks.store, cycle, fence, CycleState.GENERATING)
    page = (await desks.ann.get(PAGE, headers=BROWSER)).text
    assert "text 0" in page
    assert "An admin settles it." in page
    assert 'class="choices"' not in page
    assert "(1 open)" in (await desks.ann.get("/review/label", headers=BROWSER)).text


async def test_settle_and_on(desks: Desks) -> None:
    """A decision is on disk, and the answer is the next conflict, as a part for htmx with the number that is left."""
    await batch(desks.store, SELF_HARM, SELF_HARM)
    for pick_id in (1, 2):
        await say(desks.store, pick_id, ann=SELF_HARM, bob=CLEAR)
    answer = await desks.settle("self-harm", HTMX)
    assert answer.status_code == 200
    assert "<html" not in answer.text
    assert "text 1" in answer.text
    assert '<p id="said" hx-swap-oob="innerHTML">Settled as self-harm.</p>' in answer.text
    assert '<span id="conflicts" hx-swap-oob="innerHTML">(1 open)</span>' in answer.text
    assert await state_of(desks.store) == settled(SELF_HARM)
    answer = await desks.settle("unclear", JSON)
    assert (answer.json()["said"], answer.json()["conflicts"]) == ("Settled: nobody can tell.", [])


async def test_undo(desks: Desks) -> None:
    """A decision is taken back by one key, and when there is none left the page says so."""
    await batch(desks.store, SELF_HARM)
    await say(desks.store, 1, ann=SELF_HARM, bob=CLEAR)
    undo = 'data-key="u" aria-keyshortcuts="u" disabled'
    assert undo in (await desks.ada.get(PAGE, headers=BROWSER)).text
    assert undo not in (await desks.settle("self-harm", HTMX)).text
    answer = await desks.ada.post(f"{PAGE}/undo", headers=HTMX)
    assert (answer.status_code, "text 0" in answer.text) == (200, True)
    answer = await desks.ada.post(f"{PAGE}/undo", headers=HTMX)
    assert answer.status_code == 404
    assert "no decision of yours to undo" in answer.text


async def test_somebody_was_quicker(desks: Desks) -> None:
    """What is settled meanwhile is said, and a form sent twice is one decision."""
    await batch(desks.store, SELF_HARM, SELF_HARM)
    for pick_id in (1, 2):
        await say(desks.store, pick_id, ann=SELF_HARM, bob=CLEAR)
    fields = _fields((await desks.ada.get(PAGE, headers=BROWSER)).text)
    for _ in range(2):
        answer = await desks.ada.post(PAGE, data={**fields, "category": "self-harm"}, headers=HTMX)
        assert answer.status_code == 200
    answer = await desks.settle("not-harmful", HTMX, pick_id="1")
    assert answer.status_code == 409
    assert "not contested any more: it is labelled" in answer.text
    assert await state_of(desks.store) == settled(SELF_HARM)
    for wrong in ({"category": "canary"}, {"pick_id": "x"}, {"key": ""}):
        sent = {**fields, "category": "self-harm", **wrong}
        assert (await desks.ada.post(PAGE, data=sent, headers=HTMX)).status_code == 400


async def test_without_htmx(desks: Desks) -> None:
    """A browser without scripts is led back to the page, so that reloading sends nothing again."""
    await batch(desks.store, SELF_HARM)
    await say(desks.store, 1, ann=SELF_HARM, bob=CLEAR)
    for answer in (await desks.settle("legal-advice", BROWSER), await desks.ada.post(f"{PAGE}/undo", headers=BROWSER)):
        assert (answer.status_code, answer.headers["location"]) == (303, PAGE)


async def test_how_alike(desks: Desks) -> None:
    """Kappas, rates and confusions stand on the page with the messages behind them, and in the twin."""
    await batch(desks.store, *[SELF_HARM] * 12)
    for pick_id in range(1, 13):
        same = SELF_HARM if pick_id % 2 else LEGAL
        await say(desks.store, pick_id, ann=same, bob=CLEAR if pick_id == 12 else same)
    page = (await desks.ann.get(PAGE, headers=BROWSER)).text
    found = (await desks.ann.get(PAGE, headers=JSON)).json()["agreement"]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"], pair["messages"], pair["kappa"]["messages"]) == ("ann", "bob", 12, 12)
    for kappa in (pair["kappa"], found["kappa"]):
        words = f'{kappa["value"]:.2f} <span class="quiet">({kappa["low"]:.2f} to {kappa["high"]:.2f}, 12)</span>'
        assert words in page
    assert "91.7 %" in page
    assert found["confusions"] == [{"first": "legal-advice", "second": "not-harmful", "messages": 1}]


async def test_strangers_texts(desks: Desks) -> None:
    """Whatever people write stands on the page as text."""
    texts = [text for text in HOSTILE if len(text) < 500][:20]
    fence = await learner(desks.store)
    await add(desks.store, *(replace(arrival(text), category=LEGAL) for text in texts))
    cycle = await open_cycle(desks.store, fence)
    picks = [Picked(message.id, {}, 0.5) for message in await pooled(desks.store)]
    await desks.store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    for pick_id in range(1, len(picks) + 1):
        await say(desks.store, pick_id, ann=SELF_HARM, bob=CLEAR)
    page = (await desks.ada.get(PAGE, headers=BROWSER)).text
    assert len(re.findall(r'<bdi class="text"', page)) == len(texts)
    shown = re.findall(r'<bdi class="text"[^>]*>(.*?)</bdi>', page, re.DOTALL)
    assert all(not re.search(r"<(?!span class=\"unseen\"|/span)", part) for part in shown)
