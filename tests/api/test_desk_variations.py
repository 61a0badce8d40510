"""The page of pairs: a labelled message beside an LLM's text, a verdict, its undoing, the figures; the same as JSON."""

import html
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.contrasts import Proposal
from guard.store.states import CycleState, Deed, PairVerdict
from guard.taxonomy import GUIDELINES, Category
from tests.api.conftest import Running, Serve
from tests.api.test_desk_label import BROWSER, HTMX, Reviewer, _enter
from tests.guard.store.scenes import advance, label_all, learner, open_batch
from tests.toys import publish_toy

LEGAL, MONEY, HARM = Category.LEGAL_ADVICE, Category.FINANCIAL_ADVICE, Category.SELF_HARM
PAGE = "/review/variations"


@pytest.fixture
async def ann(serve: Serve, store_settings: GuardSettings, exports: Exports) -> AsyncIterator[Reviewer]:
    """A reviewer at the desk of an application on either database."""
    publish_toy(exports)
    async with serve(store_settings) as running:
        yield await _enter(running, "ann")


async def _fill(
    running: Running, *variations: str, edit: str | None = None, seed: Category = LEGAL, to: Category = MONEY
) -> None:
    """Have a message labelled, varied, and edited across a boundary."""
    store = running.store
    fence = await learner(store)
    cycle = await open_batch(store, fence, "can he <i>keep</i> my deposit")
    await label_all(store, seed, reviewer="zoe")
    await advance(store, cycle, fence, CycleState.GENERATING)
    (found,) = await store.variations.pending(cycle.id)
    await store.variations.record(cycle.id, found, variations, fence=fence, llm="m", template="t", fates={})
    if edit is not None:
        proposal = Proposal(edit, to, LEGAL, llm="m", template="t")
        await store.contrasts.propose(cycle.id, found, proposal, fence=fence, counts={}, tally={})


async def _page(ann: Reviewer) -> str:
    answer = await ann.client.get(PAGE, headers=BROWSER)
    assert answer.status_code == 200
    return answer.text


async def _twin(ann: Reviewer) -> dict[str, Any]:
    body: dict[str, Any] = (await ann.client.get(PAGE, headers={"accept": "application/json"})).json()
    return body


def _fields(page: str) -> dict[str, str]:
    """Return the hidden fields of the form that decides."""
    (form,) = re.findall(r'<form class="choices".*?</form>', page, re.DOTALL)
    return dict(re.findall(r'name="(kind|id|hard)" value="([^"]*)"', form))


def _texts(page: str) -> list[str]:
    return re.findall(r'<bdi class="text"[^>]*>(.*?)</bdi>', page, re.DOTALL)


async def _send(ann: Reviewer, deed: str = "", headers: Any = None, **form: str) -> httpx.Response:
    return await ann.client.post(PAGE + deed, data=form, headers=HTMX if headers is None else headers)


async def _decide(ann: Reviewer, verdict: str) -> httpx.Response:
    """Decide about the pair that is held, as htmx would."""
    return await _send(ann, **_fields(await _page(ann)), verdict=verdict)


async def test_nothing_to_check(ann: Reviewer) -> None:
    """Without pairs the page says so, offers nothing to decide, and the navigation has no number."""
    page = await _page(ann)
    assert "Nothing to check" in page
    assert 'class="choices"' not in page
    assert 'Variations<span id="pairs-waiting"></span>' in page
    twin = await _twin(ann)
    assert (twin["pair"], twin["waiting"], twin["holding"]) == (None, 0, [])


async def test_contrast(ann: Reviewer) -> None:
    """A contrast is shown beside its message with what differs marked, both categories, and the boundary between them."""
    await _fill(ann.running, edit="can he <i>invest</i> my deposit")
    page = await _page(ann)
    assert _texts(page) == [
        "can he <del>&lt;i&gt;keep&lt;/i&gt;</del> my deposit",
        "can he <ins>&lt;i&gt;invest&lt;/i&gt;</ins> my deposit",
    ]
    assert "<i>" not in page
    buttons = re.findall(r'name="verdict" value="(\w+)" data-key="(\d)" data-decides.*?</kbd> (.*?)</button>', page)
    assert buttons == [
        ("holds", "1", "holds: still legal-advice"),
        ("flips", "2", "flips: now financial-advice"),
        ("unclear", "0", "can\u2019t tell"),
    ]
    for words in ("Has the edit made it financial-advice?", "labelled legal-advice", "Legal-advice or financial-advice: cases",
                  *(GUIDELINES[c].boundary for c in (LEGAL, MONEY)), "they took my wages"):  # fmt: skip
        assert words in html.unescape(page)
    assert "Variations<span" in page
    assert " (1 waiting)</span>" in page
    assert " (1 waiting)</span>" in (await ann.get()).text, "on the other pages too"


async def test_twin(ann: Reviewer) -> None:
    """The JSON twin has what the page has, and holds the same pair."""
    await _fill(ann.running, "may he keep it", edit="can he invest my deposit")
    twin = await _twin(ann)
    until = twin["pair"].pop("leased_until")
    assert until.endswith("Z")
    assert twin["pair"] == {
        "kind": "contrast", "id": 1, "cycle_id": 1, "seed": "can he <i>keep</i> my deposit", "seed_category": "legal-advice",
        "text": "can he invest my deposit", "category": "financial-advice",
    }  # fmt: skip
    assert _fields(await _page(ann)) == {"kind": "contrast", "id": "1"}
    assert list(twin["boundaries"]) == ["legal-advice", "financial-advice"]
    assert [case["title"] for case in twin["cases"]] == ["Legal-advice or financial-advice"]
    assert (twin["waiting"], twin["undoable"], twin["covered"], twin["reminder"]) == (1, 0, False, False)
    (held,) = twin["holding"]
    assert (held["category"], held["unchecked"], held["rate"]) == ("legal-advice", 1, None)


async def test_variation(ann: Reviewer) -> None:
    """A variation says what a verdict does to it; where little is shared with its message nothing is marked."""
    await _fill(ann.running, "the landlord took our whole bond")
    page = await _page(ann)
    assert "Is the variation legal-advice too?" in page
    assert "it is trained on already; unless you say that it holds, it no longer is" in page
    assert "no longer legal-advice" in page
    assert _texts(page) == ["can he &lt;i&gt;keep&lt;/i&gt; my deposit", "the landlord took our whole bond"]
    assert "Marked:" not in page
    assert "cases</summary>" not in page


@pytest.mark.parametrize(("seed", "to"), [(LEGAL, HARM), (HARM, LEGAL), (LEGAL, Category.EMERGENCY_SITUATION)])
async def test_hard_texts_are_covered(ann: Reviewer, seed: Category, to: Category) -> None:
    """Where the message or the edit is self-harm or an emergency both are shown only when asked for."""
    await _fill(ann.running, edit="can he end it", seed=seed, to=to)
    page = await _page(ann)
    assert re.search(
        r'<details class="cover">\s*<summary data-key="s".*?id="seed".*?id="edit".*?</details>', page, re.DOTALL
    )
    assert (await _twin(ann))["covered"]


async def test_decide_and_on(ann: Reviewer) -> None:
    """A verdict is on disk, and the answer is the next pair, as a part for htmx, with the navigation's number brought up."""
    await _fill(ann.running, "may he keep my deposit", edit="can he invest my deposit")
    answer = await _decide(ann, "flips")
    assert answer.status_code == 200
    assert answer.text.startswith('<section id="desk"')
    assert _texts(answer.text)[1].endswith("deposit")
    assert 'value="variation"' in answer.text
    assert '<p id="said" hx-swap-oob="innerHTML">Recorded: flips.</p>' in answer.text
    assert '<span id="pairs-waiting" hx-swap-oob="innerHTML"></span>' in answer.text
    answer = await _decide(ann, "unclear")
    assert "Nothing to check" in answer.text
    assert "too few checks" in answer.text
    (stratum,) = await ann.running.store.pairs.strata()
    assert (stratum.size, stratum.unclear) == (1, 1)


async def test_as_json_and_without_htmx(ann: Reviewer) -> None:
    """A program gets the twin of the next pair; a browser without scripts is led back to the page."""
    await _fill(ann.running, "may he keep my deposit", edit="can he invest my deposit")
    fields = _fields(await _page(ann))
    answer = await _send(ann, "", {"accept": "application/json"}, **fields, verdict="holds")
    assert (answer.json()["pair"]["kind"], answer.json()["said"]) == ("variation", "Recorded: holds.")
    for deed, form in (("", {**fields, "verdict": "holds"}), ("/undo", {})):
        answer = await _send(ann, deed, BROWSER, **form)
        assert (answer.status_code, answer.headers["location"]) == (303, PAGE)


async def test_pressed_twice(ann: Reviewer) -> None:
    """A form sent twice is one decision; with another verdict it is refused in words, and the first one stands."""
    await _fill(ann.running, "may he keep my deposit", edit="can he invest my deposit")
    fields = _fields(await _page(ann))
    for _ in range(2):
        answer = await _send(ann, **fields, verdict="flips")
        assert (answer.status_code, 'value="variation"' in answer.text) == (200, True)
    answer = await _send(ann, **fields, verdict="holds")
    assert answer.status_code == 409
    assert "is decided already" in answer.text
    assert 'value="variation"' in answer.text
    deeds = [line.deed for line in await ann.running.store.ledger.recent()]
    assert deeds.count(Deed.CONTRAST_DECIDED) == 1


async def test_two_reviewers(ann: Reviewer) -> None:
    """Two reviewers get different pairs, and none is decided by who does not hold it."""
    await _fill(ann.running, "may he keep my deposit", edit="can he invest my deposit")
    ben = await _enter(ann.running, "ben")
    mine, others = await _twin(ann), await _twin(ben)
    assert (mine["pair"]["kind"], others["pair"]["kind"]) == ("contrast", "variation")
    answer = await _send(ben, kind="contrast", id="1", verdict="flips")
    assert answer.status_code == 409
    assert "held by another reviewer" in answer.text
    assert await ann.running.store.pairs.waiting() == 1


async def test_undo(ann: Reviewer) -> None:
    """Undoing shows the pair again; where a data set holds it, the page says why not."""
    await _fill(ann.running, edit="can he invest my deposit")
    assert 'data-key="u" aria-keyshortcuts="u" disabled' in await _page(ann)
    await _decide(ann, "flips")
    answer = await _send(ann, "/undo")
    assert (answer.status_code, 'value="contrast"' in answer.text) == (200, True)
    assert "(1 waiting)" in answer.text
    assert (await _send(ann, "/undo")).status_code == 404
    await _decide(ann, "flips")
    store = ann.running.store
    await store.variations.freeze(1, fence=1)
    answer = await _send(ann, "/undo")
    assert answer.status_code == 409
    assert "stands: the data set of cycle 1 holds it" in html.unescape(answer.text)


async def test_break_after_five_hard_texts(ann: Reviewer) -> None:
    """Hard pairs count towards the session's reminder as hard messages do."""
    await _fill(ann.running, *(f"variation {n}" for n in range(6)), seed=HARM)
    said = ['class="reminder"' in (await _decide(ann, "holds")).text for _ in range(6)]
    assert said == [False, False, False, False, True, False]
    assert (await _twin(ann))["hard_texts"] == 6


async def test_figures(ann: Reviewer) -> None:
    """With ten checks the page says how many variations hold, with the interval; /metrics says the same."""
    await _fill(ann.running, *(f"variation {n}" for n in range(20)))
    store = ann.running.store
    pair = await store.pairs.next("ann")
    for number in range(10):
        assert ann.running.metric("guard_variations_holding", category="legal-advice") == 0
        assert pair is not None
        verdict = PairVerdict.HOLDS if number else PairVerdict.FLIPS
        pair = await store.pairs.decide(pair.kind, pair.id, verdict=verdict, reviewer="ann")
    assert "90 % (60 % to 98 %) of 20" in await _page(ann)
    (found,) = (await _twin(ann))["holding"]
    assert (found["rate"]["share"], found["unchecked"]) == (pytest.approx(0.9), 10)
    exposition = (await ann.running.client.get("/metrics")).text
    assert re.search(r'guard_variations_holding{category="legal-advice"} 0\.9', exposition)
    for end in ("lower", "upper"):
        assert f'guard_variations_holding_{end}{{category="legal-advice"}}' in exposition
    assert 'guard_variation_checks{category="legal-advice",verdict="flips"} 1.0' in exposition
    assert 'guard_variation_checks{category="legal-advice",verdict="unchecked"} 10.0' in exposition


WRONG: list[dict[str, str]] = [
    {},
    {"kind": "contrast", "id": "1"},
    {"kind": "contrast", "id": "1", "verdict": "canary"},
    {"kind": "canary", "id": "1", "verdict": "holds"},
    {"kind": "contrast", "id": "canary", "verdict": "holds"},
    {"kind": "contrast", "id": "0", "verdict": "holds"},
    {"kind": "contrast", "id": "9" * 30, "verdict": "holds"},
]


@pytest.mark.parametrize("form", WRONG)
async def test_form_that_cannot_be(ann: Reviewer, form: dict[str, str]) -> None:
    """A form that lacks something or has what it cannot have is a 400 that repeats nothing of it."""
    answer = await _send(ann, "", {"accept": "application/json"}, **form)
    assert answer.status_code == 400
    assert "canary" not in answer.text
    answer = await _send(ann, "", {"accept": "application/json"}, kind="variation", id="7", verdict="holds")
    assert (answer.status_code, answer.json()["said"][:27]) == (404, "There is no variation 7: it")
