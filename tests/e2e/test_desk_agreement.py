"""Two reviewers and an admin at a real desk: two differ, the admin settles it by keyboard, and takes it back."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from guard.passwords import hash_password
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.rows import Pick
from guard.store.states import PickState, Role
from guard.taxonomy import Category
from tests.e2e.browser import PASSWORD, Watched, in_store, log_in
from tests.guard.store.scenes import add, arrival, learner, open_cycle, pooled
from tests.served import ServedGuard
from tests.toys import publish_toy

PEOPLE: Final = {"ann": Role.REVIEWER, "bob": Role.REVIEWER, "ada": Role.ADMIN}
TEXT: Final = "some <b>nights</b> I hope the plane does not land"
PHONE: Final = {"width": 390, "height": 800}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[ServedGuard]:
    """A real guard on SQLite with accounts for two reviewers and an admin."""
    served = ServedGuard(tmp_path)
    publish_toy(served.exports)

    async def hire(store: Store) -> None:
        for name, role in PEOPLE.items():
            await store.reviewers.add(name, role, hash_password(PASSWORD, name=name))

    in_store(served, hire)
    with served:
        yield served


async def two_for_both(store: Store) -> None:
    """Open a batch of two messages that both reviewers are asked about, and one that one of them is."""
    await add(
        store,
        arrival(TEXT),
        arrival("I cannot go on"),
        replace(arrival("can he keep my deposit?"), category=Category.LEGAL_ADVICE),
    )
    cycle = await open_cycle(store, await learner(store))
    picks = [Picked(message.id, {"strategy": "stochastic"}, 0.5) for message in await pooled(store)]
    await store.cycles.fill(cycle.id, picks, fence=1, figures={})


@pytest.fixture
def desks(guard: ServedGuard, chromium: Browser) -> Iterator[dict[str, Watched]]:
    """Each of them logged in, in a browser of their own."""
    contexts = {name: chromium.new_context(base_url=guard.base_url) for name in PEOPLE}
    watched = {}
    for name, context in contexts.items():
        context.set_default_timeout(60_000)
        watched[name] = Watched(context)
        log_in(watched[name], name)
    yield watched
    for context in contexts.values():
        context.close()


def label(page: Page, *keys: str) -> None:
    """Label the next messages by keys, uncovering what is covered."""
    for key in keys:
        before = page.locator("input[name=key]").input_value()
        if page.locator("details.cover:not([open])").count():
            page.keyboard.press("s")
        page.keyboard.press(key)
        expect(page.locator(f"input[name=key][value='{before}']")).to_have_count(0)


def test_conflict_is_settled(guard: ServedGuard, desks: dict[str, Watched], tmp_path: Path) -> None:
    """Two label apart, unseen by each other; an admin sees both sides and the guideline, settles it, undoes and settles."""
    in_store(guard, two_for_both)
    ann, bob, ada = (desks[name].page for name in PEOPLE)
    ann.reload()
    label(ann, "1", "1", "3")
    expect(ann.locator("h1")).to_have_text("Nothing waits for you")
    expect(
        ann.get_by_text("You have done all of yours. 2 of them wait for the opinion of somebody else.")
    ).to_be_visible()
    bob.reload()
    label(bob, "6", "1")
    expect(bob.get_by_text("1 of them waits for the opinion of somebody else.")).to_be_visible()
    expect(bob.locator("label[for=progress]")).to_contain_text("2 of 3 decided")

    bob.goto("/review/agreement")
    expect(bob.locator("h1")).to_have_text("No conflict is open")
    expect(bob.get_by_text("1 in the open batch is shown when it is closed")).to_be_visible()

    ada.reload()
    ada.get_by_role("link", name="Agreement (1 open)").click()
    expect(ada).to_have_title("Agreement · Lifeguard")
    expect(ada.locator("h1")).to_have_text("1 conflict is open")
    text = ada.locator("article .text")
    expect(text).to_have_text(TEXT)
    expect(text).to_be_hidden()
    ada.keyboard.press("1")
    expect(ada.locator("#said")).to_have_text("Show the text first: s.")
    ada.keyboard.press("s")
    expect(text).to_be_visible()
    expect(ada.locator(".sides li")).to_have_count(2)
    expect(ada.locator(".sides li").first).to_contain_text("self-harm")
    expect(ada.locator(".sides li").last).to_contain_text("bob")
    ada.get_by_text("Self-harm or not-harmful").click()
    expect(ada.get_by_text("a figure of speech, and laughed at")).to_be_visible()
    ada.screenshot(path=tmp_path / "conflict.png", full_page=True)
    assert (tmp_path / "conflict.png").stat().st_size > 20_000
    ada.set_viewport_size(PHONE)  # type: ignore[arg-type]
    assert ada.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    ada.keyboard.press("1")
    expect(ada.locator("#said")).to_have_text("Settled as self-harm.")
    expect(ada.locator("h1")).to_have_text("No conflict is open")
    expect(ada.locator("h1")).to_be_focused()
    expect(ada.locator("#conflicts")).to_have_text("")
    ada.keyboard.press("u")
    expect(ada.locator("h1")).to_have_text("1 conflict is open")
    ada.keyboard.press("s")
    ada.keyboard.press("1")
    expect(ada.locator("h1")).to_have_text("No conflict is open")

    async def check(store: Store) -> None:
        async with store.database.read() as session:
            pick = await session.get_one(Pick, 1)
        assert (pick.state, pick.category) == (PickState.LABELLED, Category.SELF_HARM)

    in_store(guard, check)
    assert {name: watched.wrong for name, watched in desks.items()} == {name: [] for name in PEOPLE}
