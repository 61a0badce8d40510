"""Every page of the desk as a scene: how it gets into each of its states, and where it shows strings that strangers wrote.

A new page adds one scene to `SCENES`: `test_accessibility` looks at its states, `test_hostile` at its strings.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from playwright.sync_api import expect
from sqlalchemy import update

from guard.store import Store
from guard.store.keys import NAME_CHARS
from guard.store.ledger import enter
from guard.store.rows import DeskSession
from guard.store.states import Deed
from tests.e2e.browser import in_store, log_in
from tests.e2e.stage import NEIGHBOURS, PEOPLE, SOURCE_CHARS, Stage, again, differs, edited, names_among, two_of

RELOADED: Final = 25  # every so many messages one is loaded as a page of its own; the others come by htmx
_MOVES: Final = 20  # as many as the loop page shows
_CONFLICTS: Final = 20  # as many as the agreement page shows
_LINES: Final = 100  # as many as the ledger shows
_SUBJECT_CHARS: Final = 96

Places = Mapping[str, Sequence[str]]  # selectors, and the texts of what each finds


@dataclass(frozen=True)
class Scene:
    """A page.

    Args:
        states: Brings the page into one state after the other, and yields what to call it.
        strings: Brings it up with texts of strangers in it, and yields where which of them must stand.
    """

    states: Callable[[Stage], Iterator[str]]
    strings: Callable[[Stage], Iterator[Places]]


def _nothing(_: Stage) -> Iterator[Places]:
    """Yield nothing: nobody's strings are on the page."""
    return iter(())


def _login(stage: Stage) -> Iterator[str]:
    page = stage.watched.page
    page.context.clear_cookies()
    stage.open("login")
    yield "empty"
    page.get_by_label("Name").fill("nobody")
    page.get_by_label("Password").fill("wrong password")
    stage.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    yield "refused"
    log_in(stage.watched)


def _login_strings(stage: Stage) -> Iterator[Places]:
    page = stage.watched.page
    page.context.clear_cookies()
    for text in stage.texts[:3]:
        stage.open("login")
        page.get_by_label("Name").fill(text)
        page.get_by_label("Password").fill(text)
        stage.press("Enter")
        expect(page.get_by_role("alert")).to_be_visible()
        yield {"[role=alert] bdi": ["There is no account in force with this name and password."]}
    log_in(stage.watched)


def _label(stage: Stage) -> Iterator[str]:
    page = stage.watched.page
    stage.open("label")
    yield "picked"
    page.get_by_text("Labelled messages like it").click()
    yield "with neighbours"
    stage.press("h")
    expect(page.locator("#guideline-heading")).to_be_focused()
    yield "guideline of the category in question"
    stage.press("Escape", "?")
    expect(page.locator("#help")).to_be_visible()
    yield "help"
    stage.press("Escape", "f")
    expect(page.locator("[data-key=f]")).to_have_attribute("aria-pressed", "true")
    yield "flagged"
    page.locator(".choices input[name=key]").evaluate("input => input.value = ''")
    stage.press("6")
    expect(page.get_by_role("alert")).to_be_visible()
    yield "refused"
    stage.open("label")
    stage.decide("6")
    yield "audit, covered"
    stage.press("s")
    expect(page.locator(".text")).to_be_visible()
    yield "audit, uncovered"
    in_store(stage.guard, _four_hard_texts)
    stage.decide("6")
    yield "covered"
    stage.decide("1")
    expect(page.locator(".reminder")).to_be_visible()
    yield "time for a break; reported"
    for _ in stage.texts[4:]:
        stage.decide("6")
        yield "labelled, and the next one"
    stage.decide("6")
    expect(page.locator("h1")).to_have_text("Nothing waits for you")
    yield "nothing waits"


async def _four_hard_texts(store: Store) -> None:
    async with store.database.write() as session:
        await session.execute(update(DeskSession).values(hard_texts=4))


def _label_strings(stage: Stage) -> Iterator[Places]:
    page, texts = stage.watched.page, stage.texts
    stage.open("label")
    for number, text in enumerate(texts):
        audit = number == 1
        near = [again(texts[(number + step) % len(texts)]) for step in range(0 if audit else NEIGHBOURS)]
        places = {".text": [text], ".why bdi.quote": near}
        if number % RELOADED == 0:
            page.reload()
            twin = page.request.get("/review/label", headers={"accept": "application/json"}).json()
            places[".why > ul > li > bdi"] = twin["why"]
        yield places
        stage.decide("6")
    expect(page.locator("h1")).to_have_text("Nothing waits for you")


def _guideline(stage: Stage) -> Iterator[str]:
    stage.open("guideline")
    yield "whole"


def _category(stage: Stage) -> Iterator[str]:
    stage.open("guideline/self-harm")
    yield "of a category"
    stage.open("guideline/nothing")
    yield "of none: the problem page"


def _names(stage: Stage) -> Iterator[Places]:
    """Be whoever may have such a name, on a page and where an admin is needed; and ask for what there is not."""
    page = stage.watched.page
    problem = page.request.get("/review/guideline/nothing", headers={"accept": "text/html"}).text()
    for text in stage.texts:
        answer = page.request.get(
            f"/review/guideline/{quote(text[:500], safe='')}", headers={"accept": "text/html"}, max_redirects=0
        )
        assert answer.status in {303, 400, 404}, text
        if answer.headers["content-type"].startswith("text/html") and answer.status == 404:
            assert answer.text() == problem, text
    (own,) = (cookie["value"] for cookie in page.context.cookies())
    tokens: dict[str, str] = {}

    async def enter_all(store: Store) -> None:
        for name in names_among(stage.texts):
            reviewer = await store.reviewers.find(name)
            assert reviewer is not None
            tokens[name] = await store.sessions.open(reviewer, address="", replaces=None)

    in_store(stage.guard, enter_all)
    try:
        for name, token in tokens.items():
            stage.enter_as(token)
            stage.open("guideline/self-harm")
            yield {".who bdi": [name]}
            stage.open("ledger")
            yield {"[role=alert] bdi": [f"This needs the role admin; {name!r} is a reviewer."]}
    finally:
        stage.enter_as(own)


def _agreement(stage: Stage) -> Iterator[str]:
    page = stage.watched.page
    stage.open("agreement")
    yield "conflicts, the first one covered"
    page.evaluate("() => document.querySelectorAll('details').forEach(details => details.open = true)")
    yield "all of it open"
    for _ in stage.texts:
        stage.decide("1")
    expect(page.locator("h1")).to_have_text("No conflict is open")
    yield "settled"


def _agreement_strings(stage: Stage) -> Iterator[Places]:
    page, texts = stage.watched.page, stage.texts
    names = names_among(texts)
    for first in range(0, len(texts), _CONFLICTS):
        numbers = range(first, min(first + _CONFLICTS, len(texts)))
        stage.open("agreement")
        twin = page.request.get("/review/agreement", headers={"accept": "application/json"}).json()
        people = [person["name"] for person in twin["agreement"]["people"]]
        assert set(people) == set(names[:PEOPLE])
        yield {
            ".text": [differs(texts[number]) for number in numbers],
            ".sides li bdi": [name for number in numbers for name in two_of(names, number)],
            "[aria-label^='Cohen'] thead bdi": people,
            "[aria-label^='Cohen'] tbody bdi": people,
            "[aria-label^='How often'] tbody bdi": people,
        }

        async def settle(store: Store, numbers: Sequence[int] = numbers) -> None:
            for number in numbers:
                await store.conflicts.adjudicate(
                    len(texts) + number + 1, adjudicator="ann", category=None, idempotency_key=f"settled-{number}"
                )

        in_store(stage.guard, settle)


def _doubts(stage: Stage) -> Iterator[str]:
    stage.open("doubts")
    yield "a label to look at again"
    for _ in stage.texts:
        stage.decide("3")
    expect(stage.watched.page.locator("h1")).to_have_text("No label waits for you")
    yield "nothing waits"


def _doubts_strings(stage: Stage) -> Iterator[Places]:
    stage.open("doubts")
    for text in stage.texts:
        yield {".text": [again(text)]}
        stage.decide("3")


def _variations(stage: Stage) -> Iterator[str]:
    stage.open("variations")
    yield "an edit"
    for _ in stage.texts:
        stage.decide("2", "id")
    expect(stage.watched.page.locator("h1")).to_have_text("Nothing to check")
    yield "nothing to check"


def _variations_strings(stage: Stage) -> Iterator[Places]:
    stage.open("variations")
    for number, text in enumerate(stage.texts):
        if number % RELOADED == 0:
            stage.watched.page.reload()
        yield {"#seed": [again(text)], "#edit": [edited(text)]}
        stage.decide("2", "id")


def _loop(stage: Stage) -> Iterator[str]:
    page = stage.watched.page
    stage.open("loop")
    expect(page.locator("svg[role=img]")).to_have_count(5)
    page.evaluate("() => document.querySelectorAll('details').forEach(details => details.open = true)")
    yield "a judged cycle, an open one, a hold, its forms and every table"
    promote = page.locator("form[action='/review/loop/promote']")
    promote.locator("input[name=champion]").evaluate("input => input.value = '0001'")
    promote.get_by_label("Why").fill("looked at another champion")
    promote.get_by_role("button").click()
    expect(page.locator("#said")).to_contain_text("0002")
    page.locator("form[action='/review/loop/release']").get_by_label("Why").fill("it is Monday")
    page.get_by_role("button", name="End the hold").click()
    expect(page.get_by_role("button", name="Hold promotions")).to_be_visible()
    yield "no hold, after a refusal"


def _loop_strings(stage: Stage) -> Iterator[Places]:
    texts, exports = stage.texts, stage.guard.exports
    sources = Counter(text[:SOURCE_CHARS] for text in texts)
    for first in range(0, len(texts), _MOVES):
        moved = texts[first : first + _MOVES]
        for text in moved:
            to = "0001" if exports.champion() == "0002" else "0002"
            exports.promote(to, by=text[:NAME_CHARS], reason=text)
        exports.set_hold(by=moved[0][:NAME_CHARS], reason=moved[0])
        stage.open("loop")
        latest = list(reversed(texts[: first + _MOVES]))[:_MOVES]
        yield {
            ".reminder bdi": [moved[0][:NAME_CHARS], moved[0]],
            f"[aria-label^='Moves'] tr:nth-child(-n+{len(moved)}) td:nth-child(4) bdi": [
                text[:NAME_CHARS] for text in latest[: len(moved)]
            ],
            f"[aria-label^='Moves'] tr:nth-child(-n+{len(moved)}) td:nth-child(5) bdi": latest[: len(moved)],
            "section[aria-labelledby=contest-heading] li bdi": texts,
            "[aria-label^='The latest cycles'] td:nth-child(8) bdi": texts,
            "[aria-label^='Where they came from'] th bdi": sorted(sources, key=lambda text: (-sources[text], text)),
        }


def _ledger(stage: Stage) -> Iterator[str]:
    stage.open("ledger")
    yield "lines"
    stage.open("ledger?before=x")
    yield "refused: the problem page"


def _ledger_strings(stage: Stage) -> Iterator[Places]:
    for last in range(_LINES, len(stage.texts) + _LINES, _LINES):
        lines = list(reversed(stage.texts[:last]))[:_LINES]

        async def write(store: Store, lines: Sequence[str] = lines) -> None:
            async with store.database.write() as session:
                for text in reversed(lines):
                    actor, subject = text[:NAME_CHARS], text[:_SUBJECT_CHARS]
                    enter(session, Deed.PROMOTED, at=store.clock(), actor=actor, subject=subject, reason=text)
                    await session.flush()

        in_store(stage.guard, write)
        stage.open("ledger")
        yield {
            "tbody td:nth-child(2) bdi": [text[:NAME_CHARS] for text in lines],
            "tbody td:nth-child(4) bdi": [text[:_SUBJECT_CHARS] for text in lines],
            "tbody td:nth-child(5) bdi": lines,
        }


SCENES: Final[Mapping[str, Scene]] = {
    "/review/login": Scene(_login, _login_strings),
    "/review/guideline": Scene(_guideline, _nothing),
    "/review/guideline/{category:str}": Scene(_category, _names),
    "/review/agreement": Scene(_agreement, _agreement_strings),
    "/review/doubts": Scene(_doubts, _doubts_strings),
    "/review/variations": Scene(_variations, _variations_strings),
    "/review/loop": Scene(_loop, _loop_strings),
    "/review/ledger": Scene(_ledger, _ledger_strings),
    "/review/label": Scene(_label, _label_strings),  # the last one: it uses the batch up
}
