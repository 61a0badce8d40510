"""A real Chromium at a real guard's desk, with everything that goes wrong on the page written down.

Import `chromium`, `guard` and `desk` into a conftest to use them.
"""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, expect, sync_playwright

from guard.passwords import hash_password
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.states import Role
from tests.served import ServedGuard
from tests.toys import publish_toy

PASSWORD: Final = "correct horse battery"

expect.set_options(timeout=60_000)  # a busy machine


@contextmanager
def launched() -> Iterator[Browser]:
    """Yield a headless Chromium of this machine.

    Raises:
        FileNotFoundError: It has none.
    """
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise FileNotFoundError("no Chromium on this machine: `apt install chromium` brings it")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium, where the machine has one; of a module, since Playwright's loop fills the thread meanwhile."""
    try:
        with launched() as browser:
            yield browser
    except FileNotFoundError as error:
        pytest.skip(str(error))


class Watched:
    """A page of a browser, and all that went wrong on it.

    Args:
        context: Of the browser.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))  # refusals by CSP are said here too
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("popup", lambda _: self.wrong.append("popup"))
        self.page.on("requestfailed", self._note_failure)

    def _note_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before its icon came
            self.wrong.append(f"failed: {request.url} ({request.failure})")

    def _dismiss(self, dialog: Dialog) -> None:
        self.wrong.append("dialog")
        dialog.dismiss()


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[ServedGuard]:
    """A real guard on SQLite with an account for `ann`."""
    served = ServedGuard(tmp_path)
    publish_toy(served.exports)
    in_store(served, lambda store: store.reviewers.add("ann", Role.ADMIN, hash_password(PASSWORD, name="ann")))
    with served:
        yield served


def in_store(guard: ServedGuard, work: Callable[[Store], Awaitable[object]]) -> None:
    """Do something with the store of a guard that runs."""

    async def do() -> None:
        settings = GuardSettings(data_dir=guard.data_dir, exports_dir=guard.exports.folder)
        async with open_store(settings, create_keyring=True) as store:
            await work(store)

    with ThreadPoolExecutor(1) as elsewhere:  # Playwright's loop runs in this thread
        elsewhere.submit(lambda: asyncio.run(do())).result()


@pytest.fixture
def desk(guard: ServedGuard, chromium: Browser) -> Iterator[Watched]:
    """A page on which `ann` has logged in by keyboard."""
    context = chromium.new_context(base_url=guard.base_url)
    context.set_default_timeout(60_000)
    watched = Watched(context)
    log_in(watched)
    yield watched
    context.close()


def log_in(watched: Watched, name: str = "ann") -> None:
    """Log somebody in by keyboard."""
    watched.page.goto("/review")
    expect(watched.page).to_have_title("Log in · Lifeguard")
    watched.page.get_by_label("Name").focus()
    watched.page.keyboard.type(name)
    watched.page.keyboard.press("Tab")
    watched.page.keyboard.type(PASSWORD)
    watched.page.keyboard.press("Enter")
    expect(watched.page).to_have_title("Label · Lifeguard")
