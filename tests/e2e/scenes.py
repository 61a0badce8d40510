"""Every page of the desk as a scene: how it gets into each of its states, and where it shows strings that strangers wrote.

A new page adds one scene to `SCENES`: `test_accessibility` looks at its states, `test_hostile` at its strings.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from playwright.sync_api import Browser, expect
from sqlalchemy import update

from guard.passwords import hash_password
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.keys import NAME_CHARS
from guard.store.ledger import enter
from guard.store.pool import AUDIT
from guard.store.rows import DeskSession
from guard.store.states import Deed, Role
from guard.taxonomy import Category
from tests.e2e.browser import PASSWORD, Watched, in_store, log_in
from tests.guard.review.scenes import MAP, judge
from tests.guard.store.scenes import add, arrival, learner, open_cycle, pooled
from tests.served import ServedGuard
from tests.toys import publish_toy

NEIGHBOURS: Final = 3
RELOADED: Final = 25  # every so many messages one is loaded as a page of its own; the others come by htmx
_MOVES: Final = 20  # as many as the loop page shows
_LINES: Final = 100  # as many as the ledger shows
_SOURCE_CHARS: Final = 32
_SUBJECT_CHARS: Final = 96
_REASON: Final = {
    "strategy": "stochastic",
    "category": "legal-advice",
    "probability": 0.47,
    "uncertainty": 0.9,
    "cluster": 1,
}
_REPORTED: Final = {"strategy": "feedback", "should_be": {"self-harm": 2}, "reported_by": {"person": 2}}

Places = Mapping[str, Sequence[str]]  # selectors, and the texts of what each finds


@dataclass(frozen=True)
class Stage:
    """A guard with a furnished desk and a browser at it, where `ann` is logged in.

    Args:
        guard: It runs.
        watched: Her page.
        texts: The messages of the open batch, in order; the second is an audit, the third hard, the fourth reported.
    """

    guard: ServedGuard
    watched: Watched
    texts: Sequence[str]

    def open(self, path: str) -> None:
        """Load a page."""
        self.watched.page.goto(f"/review/{path}")

    def press(self, *keys: str) -> None:
        """Press keys."""
        for key in keys:
            self.watched.page.keyboard.press(key)

    def label(self, key: str = "6") -> None:
        """Label the message, uncovered first, and wait for the next one."""
        page = self.watched.page
        before = page.locator("input[name=pick_id]").first.input_value()
        if page.locator("details.cover:not([open])").count():
            self.press("s")
        self.press(key)
        expect(page.locator(f"input[name=pick_id][value='{before}']")).to_have_count(0)

    def enter_as(self, token: str) -> None:
        """Be somebody else from now on."""
        self.watched.page.context.add_cookies([{"name": "lifeguard", "value": token, "url": self.guard.base_url}])


@dataclass(frozen=True)
class Scene:
    """A page.

    Args:
        states: Brings the page into one state after the other, and yields what to call it.
        strings: Brings it up with texts of strangers in it, and yields where which of them must stand.
    """

    states: Callable[[Stage], Iterator[str]]
    strings: Callable[[Stage], Iterator[Places]]


@contextmanager
def staged(folder: Path, chromium: Browser, texts: Sequence[str]) -> Iterator[Stage]:
    """Yield a stage whose messages, reasons, names and sources are these texts."""
    guard = ServedGuard(folder)
    for promote in (True, True, False):
        publish_toy(guard.exports, promote=promote)
    guard.exports.set_hold(by="ann", reason="until Monday")
    in_store(guard, lambda store: store.reviewers.add("ann", Role.ADMIN, hash_password(PASSWORD, name="ann")))
    in_store(guard, lambda store: _furnish(store, texts))
    with guard:
        context = chromium.new_context(base_url=guard.base_url)
        context.set_default_timeout(60_000)
        watched = Watched(context)
        log_in(watched)
        yield Stage(guard, watched, texts)
        context.close()


async def _furnish(store: Store, texts: Sequence[str]) -> None:
    """Judge a cycle whose messages become neighbours, and open a batch; leave messages of as many sources waiting."""
    fence = await learner(store)
    await add(store, *(arrival(_again(text)) for text in texts))
    known = [message.id for message in await pooled(store)]
    cycle = await open_cycle(store, fence)
    await store.cycles.fill(cycle.id, [Picked(id_, {}, 0.5) for id_ in known], fence=fence, figures={})
    held = await store.review.next("before")
    while held is not None:
        held = await store.review.label_and_next(
            held.pick_id, reviewer="before", category=Category.LEGAL_ADVICE, idempotency_key=f"before-{held.pick_id}"
        )
    await judge(store, fence, list(texts))
    arrivals = [replace(arrival(text), category=Category.LEGAL_ADVICE) for text in texts]
    arrivals[1] = replace(arrivals[1], reason=AUDIT)
    arrivals[2] = replace(arrivals[2], category=Category.SELF_HARM)
    await add(store, *arrivals)
    picks = []
    for number, message in enumerate(await pooled(store)):
        around = [known[(number + step) % len(known)] for step in range(12)]
        near = {"near": around, "neighbours": [[id_, 0.8] for id_ in around[:NEIGHBOURS]]}
        picks.append(Picked(message.id, {**(_REPORTED if number == 3 else _REASON), **near}, 0.5))
    cycle = await open_cycle(store, fence)
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={"selection": {"map": MAP}})
    waiting = (replace(arrival(f"waits {n}"), source=text[:_SOURCE_CHARS]) for n, text in enumerate(texts))
    await add(store, *waiting)


def _again(text: str) -> str:
    return f"{text} again"


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
    stage.label()
    yield "audit, covered"
    stage.press("s")
    expect(page.locator(".text")).to_be_visible()
    yield "audit, uncovered"
    in_store(stage.guard, _four_hard_texts)
    stage.label()
    yield "covered"
    stage.label("1")
    expect(page.locator(".reminder")).to_be_visible()
    yield "time for a break; reported"
    for _ in stage.texts[4:]:
        stage.label()
        yield "labelled, and the next one"
    stage.label()
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
        near = [_again(texts[(number + step) % len(texts)]) for step in range(0 if audit else NEIGHBOURS)]
        places = {".text": [text], ".why bdi.quote": near}
        if number % RELOADED == 0:
            page.reload()
            twin = page.request.get("/review/label", headers={"accept": "application/json"}).json()
            places[".why > ul > li > bdi"] = twin["why"]
        yield places
        stage.label()
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
    names = [t for t in stage.texts if t == t.strip() and len(t) <= NAME_CHARS and t.isprintable()]
    tokens: dict[str, str] = {}

    async def enter_all(store: Store) -> None:
        for name in names:
            await store.reviewers.add(name, Role.REVIEWER, "hash")
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
    sources = Counter(text[:_SOURCE_CHARS] for text in texts)
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
    "/review/loop": Scene(_loop, _loop_strings),
    "/review/ledger": Scene(_ledger, _ledger_strings),
    "/review/label": Scene(_label, _label_strings),  # the last one: it uses the batch up
}
