"""The label page: one message a screen, decided by a form, shown blind where it must be, the same as JSON."""

import html
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.cycles import Picked
from guard.store.pool import AUDIT
from guard.store.rows import Label, Message, Pick
from guard.store.states import CycleState, Deed, Role
from guard.taxonomy import CATEGORIES, Category
from tests.api.conftest import Running, Serve
from tests.api.test_roles import csrf, log_in
from tests.guard.store.scenes import add, advance, arrival, learner, open_batch, open_cycle, pooled
from tests.toys import publish_toy

BROWSER = {"accept": "text/html"}
HTMX = {"hx-request": "true"}
REASON = {
    "strategy": "stochastic", "uncertainty": 0.93, "category": "legal-advice", "probability": 0.4712, "near_duplicates": 7,
    "cluster": 3, "cluster_size": 41,
}  # fmt: skip


class Reviewer:
    """Somebody who is logged in, and the application."""

    def __init__(self, running: Running, client: httpx.AsyncClient) -> None:
        self.running = running
        self.client = client

    async def get(self, **headers: str) -> httpx.Response:
        """Ask for the page."""
        return await self.client.get("/review/label", headers=BROWSER | headers)

    async def twin(self) -> dict[str, Any]:
        """Ask for its twin."""
        answer = await self.client.get("/review/label", headers={"accept": "application/json"})
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    async def send(self, deed: str = "", headers: dict[str, str] | None = None, /, **form: str) -> httpx.Response:
        """Send a form."""
        return await self.client.post(
            "/review/label" + deed, data=form, headers=BROWSER if headers is None else headers
        )

    async def label(self, category: str, **headers: str) -> httpx.Response:
        """Decide about the message that is held, as htmx would."""
        fields = _fields((await self.get()).text)
        return await self.send("", HTMX | headers, **{**fields, "category": category})


def _fields(page: str) -> dict[str, str]:
    """Return the hidden fields of the form that labels."""
    (form,) = re.findall(r'<form class="choices".*?</form>', page, re.DOTALL)
    return dict(re.findall(r'name="(pick_id|key)" value="([^"]*)"', form))


def _text(page: str) -> str:
    (text,) = re.findall(r'<bdi class="text"[^>]*>(.*?)</bdi>', page, re.DOTALL)
    return html.unescape(text)


@pytest.fixture
async def ann(serve: Serve, store_settings: GuardSettings, exports: Exports) -> AsyncIterator[Reviewer]:
    """A reviewer at the desk of an application on either database."""
    publish_toy(exports)
    async with serve(store_settings) as running:
        yield await _enter(running, "ann")


async def _enter(running: Running, name: str, role: Role = Role.REVIEWER) -> Reviewer:
    await running.store.reviewers.add(name, role, "hash")
    token = await log_in(running, name)
    headers = {"cookie": f"lifeguard={token}", "x-csrf-token": csrf(token)}
    transport, url = running.client._transport, running.client.base_url
    return Reviewer(running, httpx.AsyncClient(transport=transport, base_url=url, headers=headers))


async def _fill(running: Running, *texts: str, reason: dict[str, Any] = REASON, **changes: Any) -> int:
    """Open a batch of texts, with what the learner says of each; return the fence."""
    store = running.store
    fence = await learner(store)
    await add(store, *(replace(arrival(text), category=Category.LEGAL_ADVICE, **changes) for text in texts))
    cycle = await open_cycle(store, fence)
    picks = [Picked(message.id, reason, 0.5) for message in await pooled(store)]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    return fence


async def test_nothing_waits(ann: Reviewer) -> None:
    """Without a batch the page says so, and offers nothing to decide."""
    page = await ann.get()
    assert page.status_code == 200
    assert "Nothing waits for you" in page.text
    assert 'class="choices"' not in page.text
    assert (await ann.twin())["pick"] is None


async def test_page(ann: Reviewer) -> None:
    """The page shows the text, a key for each category with its score, why it was asked, and how far the batch is."""
    await _fill(ann.running, "can he <i>do</i> that?", "two", "three")
    page = (await ann.get()).text
    assert _text(page) == "can he <i>do</i> that?"
    assert "<i>" not in page
    buttons = re.findall(r'value="([\w-]+)" data-key="(\d)".*?(?:<span class="score">(\d+ %)</span>)?</button>', page)
    expected = [
        (str(c), str(n), f"{s} %") for n, (c, s) in enumerate(zip(CATEGORIES, (30, 20, 20, 10, 10, 10), strict=True), 1)
    ]
    assert buttons == [*expected, ("unclear", "0", "")]
    for words in ("takes it for legal-advice, with 47 %", "Uncertainty 0.93", "cluster 3 of 41 messages", "7 near-duplicates",
                  "0 of 3 decided", "strategy stochastic"):  # fmt: skip
        assert words in page
    assert 'href="/review/guideline/legal-advice"' in page
    assert "<details" not in page


async def test_twin_says_the_same(ann: Reviewer) -> None:
    """The JSON twin has what the page has, and holds the same message."""
    await _fill(ann.running, "one", "two")
    twin, page = await ann.twin(), (await ann.get()).text
    assert twin["pick"]["text"] == _text(page) == "one"
    assert str(twin["pick"]["pick_id"]) == _fields(page)["pick_id"]
    assert twin["pick"]["reason"] == REASON
    assert twin["batch"]["size"] == 2
    assert (twin["covered"], twin["flagged"], twin["undoable"], twin["handed_on"]) == (False, False, 0, 0)
    assert all(html.escape(sentence, quote=False) in page for sentence in twin["why"])


async def test_audit_is_blind(ann: Reviewer) -> None:
    """Of an audit neither page nor twin shows what the guard thought, not even by covering it or not."""
    await _fill(ann.running, "one", reason={**REASON, "strategy": "audit"})
    store = ann.running.store
    pages = []
    for category in (Category.NOT_HARMFUL, Category.SELF_HARM):
        async with store.database.write() as session:
            held = await session.get_one(Message, 1)
            held.reason, held.category = AUDIT, category
        page = (await ann.get()).text
        pages.append(re.sub(r'name="key" value="[^"]*"|datetime="[^"]*"', "", page))
        assert 'class="score"' not in page
        assert "legal-advice, with" not in page
        assert "An audit" in page
        assert "<details" in page
        assert 'href="/review/guideline" hx-get' in page
    assert pages[0] == pages[1]
    twin = await ann.twin()
    assert (twin["pick"]["scores"], twin["pick"]["reason"], twin["covered"]) == (None, {"audit": True}, True)
    await ann.label("self-harm")
    async with store.database.read() as session:
        assert list(await session.scalars(select(Label.scores_shown))) == [False]


@pytest.mark.parametrize("category", [Category.SELF_HARM, Category.EMERGENCY_SITUATION])
async def test_hard_text_is_covered(ann: Reviewer, category: Category) -> None:
    """What the guard takes for self-harm or an emergency is shown only when asked for."""
    await _fill(ann.running, "one")
    async with ann.running.store.database.write() as session:
        (await session.get_one(Message, 1)).category = category
    page = (await ann.get()).text
    assert re.search(
        r'<details class="cover">\s*<summary data-key="s".*?</summary>\s*<bdi class="text"', page, re.DOTALL
    )
    assert (await ann.twin())["covered"]


async def test_label_and_on(ann: Reviewer) -> None:
    """A label is on disk with who gave it, and the answer is the next message, as a part for htmx."""
    await _fill(ann.running, "one", "two")
    answer = await ann.label("medical-advice")
    assert answer.status_code == 200
    assert answer.text.startswith('<section id="desk"')
    assert "<html" not in answer.text
    assert _text(answer.text) == "two"
    assert "1 of 2 decided" in answer.text
    assert re.search(r'<p id="said" hx-swap-oob="innerHTML">Labelled medical-advice.</p>', answer.text)
    assert 'data-key="u" aria-keyshortcuts="u">' in answer.text
    answer = await ann.label("unclear")
    assert "Nothing waits for you" in answer.text
    async with ann.running.store.database.read() as session:
        labels = [
            (x.reviewer, x.category, x.scores_shown) for x in await session.scalars(select(Label).order_by(Label.id))
        ]
    assert labels == [("ann", Category.MEDICAL_ADVICE, True), ("ann", None, True)]


async def test_surroundings(ann: Reviewer) -> None:
    """What is like the message is told by its typical words and by labelled messages, as text and never as markup."""
    store, texts = ann.running.store, [f"<i>rent {n}</i> again" for n in range(5)]
    await open_batch(store, await learner(store), "<b>old</b>")
    await ann.label("legal-advice")
    (cycle,) = await store.cycles.recent()
    await advance(store, cycle, 1, CycleState.HELD)
    await add(store, *(arrival(text) for text in ["new", *texts, "other", "again and again"]))
    ids = [message.id for message in await pooled(store)]
    cycle = await open_cycle(store, 1)
    reason = {**REASON, "near": ids[1:6], "neighbours": [[1, 0.87]]}
    picks = [Picked(ids[0], reason, 0.5), Picked(ids[6], {"near": ids[7:]}, 0.5)]
    await store.cycles.fill(cycle.id, picks, fence=1, figures={})
    page, twin = (await ann.get()).text, await ann.twin()
    assert twin["neighbours"] == [{"text": "<b>old</b>", "category": "legal-advice", "similarity": 0.87}]
    assert "Typical words of what is like it: rent." in twin["why"]
    assert "Typical words of what is like it: rent." in page
    assert 'legal-advice (0.87): <bdi class="quote" dir="auto">&lt;b&gt;old&lt;/b&gt;</bdi>' in page
    assert "<i>" not in page


async def test_reported(ann: Reviewer) -> None:
    """That a verdict was reported is said before the decision, what it should have been only after it, and of audits never."""
    reason = {"strategy": "feedback", "should_be": {"self-harm": 2, "unknown": 1}, "reported_by": {"person": 3}}
    await _fill(ann.running, "one", "two", reason=reason)
    before = (await ann.get()).text
    assert "Reported as wrong: 3 by a person." in before
    assert "Chosen by" not in before
    for told in ((await ann.twin())["pick"], (await ann.client.post("/review/next")).json()):
        assert told["reason"] == {"strategy": "feedback", "reported_by": {"person": 3}}
    answer = await ann.send("", {"accept": "application/json"}, **_fields(before), category="legal-advice")
    assert answer.json()["said"] == ("Labelled legal-advice. Of those who reported it, 2 say self-harm, 1 cannot tell.")
    async with ann.running.store.database.write() as session:
        (await session.get_one(Message, 2)).reason = AUDIT
    answer = await ann.send("", {"accept": "application/json"}, **_fields((await ann.get()).text), category="self-harm")
    assert answer.json()["said"] == "Labelled self-harm."


async def test_without_htmx(ann: Reviewer) -> None:
    """A browser without scripts is led back to the page, so that reloading sends nothing again."""
    await _fill(ann.running, "one", "two")
    fields = _fields((await ann.get()).text)
    for deed, form in (
        ("", {**fields, "category": "not-harmful"}),
        ("/undo", {}),
        ("/flag", fields),
        ("/pass", fields),
    ):
        answer = await ann.send(deed, **form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/review/label")


async def test_as_json(ann: Reviewer) -> None:
    """A program gets the twin of the next message."""
    await _fill(ann.running, "one", "two")
    fields = _fields((await ann.get()).text)
    answer = await ann.send("", {"accept": "application/json"}, **fields, category="not-harmful")
    assert answer.status_code == 200
    assert (answer.json()["pick"]["text"], answer.json()["said"]) == ("two", "Labelled not-harmful.")


async def test_pressed_twice(ann: Reviewer) -> None:
    """A form sent twice is one label; with another category it is refused, and the first one stands."""
    await _fill(ann.running, "one", "two")
    fields = _fields((await ann.get()).text)
    for _ in range(2):
        answer = await ann.send("", HTMX, **fields, category="not-harmful")
        assert (answer.status_code, _text(answer.text)) == (200, "two")
    answer = await ann.send("", HTMX, **fields, category="self-harm")
    assert (answer.status_code, _text(answer.text)) == (409, "two")
    assert await ann.running.store.review.label_counts() == {"not-harmful": 1}


async def test_somebody_was_quicker(ann: Reviewer) -> None:
    """What another reviewer has decided meanwhile is said, and the next message is shown."""
    await _fill(ann.running, "one", "two", "three")
    fields = _fields((await ann.get()).text)
    async with ann.running.store.database.write() as session:
        pick = await session.get_one(Pick, int(fields["pick_id"]))
        pick.leased_by = pick.leased_until = None  # as ten minutes later
    ben = await _enter(ann.running, "ben")
    await ben.send("", HTMX, **fields, category="legal-advice")
    answer = await ann.send("", HTMX, **{**fields, "key": "another"}, category="self-harm")
    assert answer.status_code == 409
    assert "is decided already" in answer.text
    assert _text(answer.text) == "three", "the second is before the other one"
    assert await ann.running.store.review.label_counts() == {"legal-advice": 1}


async def test_undo(ann: Reviewer) -> None:
    """Undoing shows the message again, can be done for each of the last decisions, and says when there is none."""
    await _fill(ann.running, "one", "two")
    assert 'data-key="u" aria-keyshortcuts="u" disabled' in (await ann.get()).text
    await ann.label("self-harm")
    answer = await ann.send("/undo", HTMX)
    assert (answer.status_code, _text(answer.text)) == (200, "one")
    assert await ann.running.store.review.label_counts() == {}
    answer = await ann.send("/undo", HTMX)
    assert (answer.status_code, _text(answer.text)) == (404, "one")
    assert "no decision of yours to undo" in answer.text


async def test_flag_and_pass(ann: Reviewer) -> None:
    """A flag shows until it is taken off; what is passed on is another's, and the page says how much waits for others."""
    await _fill(ann.running, "one")
    fields = _fields((await ann.get()).text)
    answer = await ann.send("/flag", HTMX, **fields)
    assert 'aria-pressed="true"' in answer.text
    answer = await ann.send("/flag", HTMX, **fields)
    assert 'aria-pressed="false"' in answer.text
    answer = await ann.send("/pass", HTMX, **fields)
    assert "1 that you passed on wait for another reviewer" in answer.text
    assert (await ann.twin())["handed_on"] == 1
    ben = await _enter(ann.running, "ben")
    assert (await ben.twin())["pick"]["text"] == "one"
    answer = await ann.send("/pass", HTMX, **fields)
    assert answer.status_code == 409
    deeds = [e.deed for e in await ann.running.store.ledger.recent(3)]
    assert Deed.HANDED_ON in deeds


async def test_left_to_others(ann: Reviewer) -> None:
    """Who has done all of theirs reads how many wait for somebody else; the others are told how many have one opinion."""
    ben = await _enter(ann.running, "ben")
    await _fill(ann.running, "one", "two")
    answer = await ann.label("self-harm")
    assert "0 of 2 decided" in answer.text
    assert "1 more has an opinion and waits for another." in answer.text
    answer = await ann.label("legal-advice")
    assert "1 of 2 decided" in answer.text
    assert "You have done all of yours. 1 of them waits for the opinion of somebody else." in answer.text
    twin = await ann.twin()
    assert (twin["left_to_others"], twin["batch"]["begun"], twin["batch"]["waiting"]) == (1, 1, 1)
    assert _text((await ben.get()).text) == "one"
    await ben.label("self-harm")
    assert (await ann.twin())["left_to_others"] == 0


async def test_undone_is_with_others(ann: Reviewer) -> None:
    """Who takes back an opinion on what somebody else has before them just then is told so."""
    ben = await _enter(ann.running, "ben")
    await _fill(ann.running, "one")
    await ann.label("self-harm")
    await ben.get()
    answer = await ann.send("/undo", HTMX)
    assert (answer.status_code, "Undone: it is with others now." in answer.text) == (200, True)


async def test_break_after_five_hard_texts(ann: Reviewer) -> None:
    """After every fifth label of self-harm or emergency in a session the page says that a break would be good."""
    await _fill(ann.running, *(f"message {n}" for n in range(8)))
    said = []
    for category in ("self-harm", "not-harmful", *["emergency-situation"] * 4, "self-harm"):
        answer = await ann.label(category)
        said.append('class="reminder"' in answer.text)
    assert said == [False, False, False, False, False, True, False]
    assert (await ann.twin())["hard_texts"] == 6


async def test_closed_batch(ann: Reviewer) -> None:
    """A label that comes after the batch was closed is refused in words, and nothing is kept of it."""
    fence = await _fill(ann.running, "one")
    fields = _fields((await ann.get()).text)
    (cycle,) = await ann.running.store.cycles.recent()
    await advance(ann.running.store, cycle, fence, CycleState.GENERATING)
    answer = await ann.send("", HTMX, **fields, category="self-harm")
    assert answer.status_code == 409
    assert "This batch is closed; its cycle is generating." in answer.text
    assert await ann.running.store.review.label_counts() == {}


WRONG: list[tuple[str, dict[str, str], int]] = [
    ("", {}, 400),
    ("", {"category": "self-harm"}, 400),
    ("", {"category": "canary", "pick_id": "1", "key": "k"}, 400),
    ("", {"category": "", "pick_id": "1", "key": "k"}, 400),
    ("", {"category": "self-harm", "pick_id": "1"}, 400),
    ("", {"category": "self-harm", "pick_id": "1", "key": "canary" * 20}, 400),
    ("", {"category": "self-harm", "pick_id": "1", "key": "can ary\u00e4"}, 400),
    ("", {"category": "self-harm", "pick_id": "canary", "key": "k"}, 400),
    ("", {"category": "self-harm", "pick_id": "-1", "key": "k"}, 400),
    ("", {"category": "self-harm", "pick_id": "9" * 30, "key": "k"}, 400),
    ("", {"category": "self-harm", "pick_id": "\u0661", "key": "k"}, 400),
    ("", {"category": "self-harm", "pick_id": "4711", "key": "k"}, 404),
    ("/flag", {}, 400),
    ("/flag", {"pick_id": "4711"}, 404),
    ("/pass", {"pick_id": "0"}, 400),
    ("/pass", {"pick_id": "4711"}, 404),
    ("/undo", {}, 404),
]


async def test_wrong_forms(ann: Reviewer) -> None:
    """A form that does not fit is refused as page, part and JSON alike, without repeating what was sent."""
    for deed, form, status in WRONG:
        for headers in (BROWSER, HTMX, {"accept": "application/json"}):
            answer = await ann.send(deed, headers, **form)
            assert (deed, form, answer.status_code) == (deed, form, status)
            assert "canary" not in answer.text


async def test_session_ends_meanwhile(ann: Reviewer) -> None:
    """Whoever was logged out is led to the login, by htmx too, and nothing is recorded."""
    await _fill(ann.running, "one")
    fields = _fields((await ann.get()).text)
    await ann.running.store.reviewers.set_password("ann", "other")
    answer = await ann.send("", HTMX, **fields, category="self-harm")
    assert answer.headers["hx-redirect"] == "/review/login"
    assert (await ann.send("", **fields, category="self-harm")).headers["location"] == "/review/login"
    assert await ann.running.store.review.label_counts() == {}


async def test_two_reviewers_share_a_batch(ann: Reviewer) -> None:
    """Two reviewers never hold the same message."""
    fence = await learner(ann.running.store)
    await open_batch(ann.running.store, fence, "one", "two")
    ben = await _enter(ann.running, "ben")
    assert {_text((await ann.get()).text), _text((await ben.get()).text)} == {"one", "two"}


async def test_guideline(ann: Reviewer) -> None:
    """The guideline is there as a whole, and for each category with its definition and the cases where it meets others."""
    page = (await ann.client.get("/review/guideline", headers=BROWSER)).text
    assert all(f"<h2>{title}</h2>" in page for title in ("The six categories", "Where they meet", "And you"))
    assert "<td>self-harm</td>" in page
    for category in CATEGORIES:
        part = (await ann.client.get(f"/review/guideline/{category}", headers=HTMX)).text
        assert "<html" not in part
        assert "<table>" in part
        twin = (await ann.client.get(f"/review/guideline/{category}", headers={"accept": "application/json"})).json()
        assert twin["category"] == category
        assert len(twin["sections"]) >= 1
        assert all(f"<h3>{section['title']}</h3>" in part for section in twin["sections"])
    assert "Errands and general knowledge" in (await ann.client.get("/review/guideline/not-harmful", headers=HTMX)).text


async def test_ledger(ann: Reviewer) -> None:
    """An admin reads who decided what, a hundred lines at a time and as text; a reviewer does not."""
    await _fill(ann.running, "canary")
    await ann.label("self-harm")
    await ann.running.store.keys.create("<b>bot", Role.CLIENT)
    for headers in (BROWSER, {"accept": "application/json"}):
        assert (await ann.client.get("/review/ledger", headers=headers)).status_code == 403
    root = await _enter(ann.running, "root", Role.ADMIN)
    page = (await root.client.get("/review/ledger", headers=BROWSER)).text
    assert "<td>labelled</td>" in page
    assert "category: <bdi>self-harm</bdi>" in page
    assert "<bdi>key &lt;b&gt;bot</bdi>" in page
    assert "canary" not in page
    assert "Older" not in page
    for _ in range(100):
        await ann.running.store.sessions.refused(None)
    first = (await root.client.get("/review/ledger")).json()
    assert len(first["lines"]) == 100
    assert f"/review/ledger?before={first['before']}" in (await root.client.get("/review/ledger", headers=BROWSER)).text
    older = (await root.client.get("/review/ledger", params={"before": first["before"]})).json()
    assert older["before"] is None
    assert older["lines"][0]["id"] == first["before"] - 1
    assert older["lines"][-1]["deed"] == "reviewer-added"
    for wrong in ("x", "-1", "9" * 30, "\u0661"):
        assert (await root.client.get("/review/ledger", params={"before": wrong})).status_code == 400
