"""A guard whose desk is furnished for `scenes`: people, labels, doubts, edits, conflicts, an open batch and what waits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, expect

from guard.passwords import hash_password
from guard.store import Store
from guard.store.contrasts import Proposal
from guard.store.cycles import Picked
from guard.store.doubts import Suspicion
from guard.store.keys import NAME_CHARS
from guard.store.lease import LEARNER
from guard.store.pool import AUDIT
from guard.store.states import CycleState, Role
from guard.taxonomy import Category
from tests.e2e.browser import PASSWORD, Watched, in_store, log_in
from tests.guard.review.scenes import MAP, judge
from tests.guard.store.scenes import add, advance, arrival, open_cycle, pooled
from tests.served import ServedGuard
from tests.toys import publish_toy

NEIGHBOURS: Final = 3
LEGAL, MEDICAL, HARM = Category.LEGAL_ADVICE, Category.MEDICAL_ADVICE, Category.SELF_HARM
PEOPLE: Final = 30  # who differ about messages
SOURCE_CHARS: Final = 32
_REASON: Final = {
    "strategy": "stochastic",
    "category": "legal-advice",
    "probability": 0.47,
    "uncertainty": 0.9,
    "cluster": 1,
}
_REPORTED: Final = {"strategy": "feedback", "should_be": {"self-harm": 2}, "reported_by": {"person": 2}}


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

    def decide(self, key: str, field: str = "pick_id") -> None:
        """Decide by a key about what the field names, uncovered first, and wait for the next one."""
        page = self.watched.page
        before = page.locator(f"input[name={field}]").first.input_value()
        if page.locator("details.cover:not([open])").count():
            self.press("s")
        self.press(key)
        expect(page.locator(f"input[name={field}][value='{before}']")).to_have_count(0)

    def enter_as(self, token: str) -> None:
        """Be somebody else from now on."""
        self.watched.page.context.add_cookies([{"name": "lifeguard", "value": token, "url": self.guard.base_url}])


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
    """Judge a cycle with labels, doubts about them, edits and conflicts, open a batch, and leave messages waiting."""
    fence = await store.leases.acquire(LEARNER, "furnisher", ttl=timedelta(hours=1))
    assert fence is not None
    names = names_among(texts)
    hashed = hash_password(PASSWORD, name="")
    for name in names:
        await store.reviewers.add(name, Role.REVIEWER, hashed)
    await add(store, *(replace(arrival(again(text)), category=LEGAL) for text in texts))
    known = [message.id for message in await pooled(store)]
    await add(store, *(arrival(differs(text)) for text in texts))
    cycle = await open_cycle(store, fence)
    picks = [Picked(message.id, {}, 0.5) for message in await pooled(store)]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    for number in range(len(texts)):
        await store.review.label(number + 1, reviewer="before", category=LEGAL)
        for name, category in zip(two_of(names, number), (LEGAL, HARM), strict=True):
            await store.review.label(len(texts) + number + 1, reviewer=name, category=category)
    await advance(store, cycle, fence, CycleState.GENERATING)
    for seed, text in zip(await store.variations.pending(cycle.id), texts, strict=True):
        proposal = Proposal(edited(text), MEDICAL, LEGAL, llm="m", template="t")
        await store.contrasts.propose(cycle.id, seed, proposal, fence=fence, counts={}, tally={})
    suspicions = [Suspicion(id_, LEGAL, MEDICAL, 0.934) for id_ in known]
    await store.doubts.suspect(cycle.id, suspicions, most=len(known), fence=fence)
    await judge(store, fence, list(texts))
    arrivals = [replace(arrival(text), category=LEGAL) for text in texts]
    arrivals[1] = replace(arrivals[1], reason=AUDIT)
    arrivals[2] = replace(arrivals[2], category=HARM)
    await add(store, *arrivals)
    picks = []
    for number, message in enumerate(await pooled(store)):
        around = [known[(number + step) % len(known)] for step in range(12)]
        near = {"near": around, "neighbours": [[id_, 0.8] for id_ in around[:NEIGHBOURS]]}
        picks.append(Picked(message.id, {**(_REPORTED if number == 3 else _REASON), **near}, 0.5))
    cycle = await open_cycle(store, fence)
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={"selection": {"map": MAP}})
    waiting = (replace(arrival(f"waits {n}"), source=text[:SOURCE_CHARS]) for n, text in enumerate(texts))
    await add(store, *waiting)


def again(text: str) -> str:
    """Return a labelled message, which is a neighbour of others."""
    return f"{text} again"


def edited(text: str) -> str:
    """Return an LLM's edit of it."""
    return f"{text} edited"


def differs(text: str) -> str:
    """Return a message that two reviewers differ about."""
    return f"{text} differs"


def names_among(texts: Sequence[str]) -> list[str]:
    """Return those that may be a reviewer's name."""
    return [text for text in texts if text == text.strip() and len(text) <= NAME_CHARS and text.isprintable()]


def two_of(names: Sequence[str], number: int) -> tuple[str, str]:
    """Return who differs about a message; of all names the first ones, or the table of pairs would be endless."""
    few = names[:PEOPLE]
    return few[number % len(few)], few[(number + 1) % len(few)]
