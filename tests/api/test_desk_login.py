"""Logging in at the desk: who gets a session, what it is worth, and what a foreign page or a guesser gets."""

import re
from typing import Final

import httpx
import pytest
from sqlalchemy import select

from guard.exports import Exports
from guard.passwords import hash_password
from guard.settings import GuardSettings
from guard.store.rows import DeskSession, LoginAttempt
from guard.store.states import Deed, Role
from tests.api.conftest import Running, Serve, update
from tests.toys import publish_toy

PASSWORD: Final = "correct horse battery"
BROWSER: Final = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def desk(running: Running) -> Running:
    """The application with a reviewer and an admin who have accounts, and no keys."""
    await running.store.reviewers.add("ann", Role.REVIEWER, hash_password(PASSWORD, name="ann"))
    running.client.headers.update(BROWSER)
    return running


async def log_in(running: Running, name: str = "ann", password: str = PASSWORD, **headers: str) -> httpx.Response:
    """Send the form."""
    form = {"name": name, "password": password}
    return await running.client.post("/review/login", data=form, headers=headers)


def token_in(page: httpx.Response) -> str:
    """Return the CSRF token of a page's forms."""
    (token,) = {match[1] for match in re.finditer(r'name="csrf" value="([0-9a-f]{64})"', page.text)}
    return token


async def test_in_and_out(desk: Running) -> None:
    """Name and password lead to the desk, which shows the name; logging out ends the session for the guard as well."""
    assert (await desk.client.get("/review/label")).headers["location"] == "/review/login"
    entered = await log_in(desk)
    assert (entered.status_code, entered.headers["location"]) == (303, "/review/label")
    token = desk.client.cookies["lifeguard"]
    page = await desk.client.get("/review/label")
    assert page.status_code == 200
    assert "<bdi>ann</bdi>" in page.text
    left = await desk.client.post("/review/logout", data={"csrf": token_in(page)})
    assert left.headers["location"] == "/review/login"
    assert "lifeguard" not in desk.client.cookies
    desk.client.cookies["lifeguard"] = token
    assert (await desk.client.get("/review/label")).headers["location"] == "/review/login"
    deeds = [e.deed for e in await desk.store.ledger.recent()]
    assert deeds == [Deed.LOGGED_OUT, Deed.LOGGED_IN, Deed.REVIEWER_ADDED]


async def test_cookie_here(desk: Running) -> None:
    """On http://localhost the cookie has a plain name, is out of scripts' reach, and goes to no foreign page's posts."""
    (cookie,) = (await log_in(desk)).headers.get_list("set-cookie")
    name, _, rest = cookie.partition("=")
    assert name == "lifeguard"
    assert set(rest.lower().split("; ")[1:]) == {"path=/", "httponly", "samesite=lax"}


async def test_cookie_elsewhere(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Anywhere else it has the prefix that browsers take over TLS alone, and the plain name is worth nothing."""
    publish_toy(exports)
    async with serve(update(guard_settings, behind_proxy=True)) as running:
        await running.store.reviewers.add("ann", Role.REVIEWER, hash_password(PASSWORD, name="ann"))
        await running.store.keys.create("bot", Role.CLIENT)
        await running.app.state.access.refresh()
        for headers in ({"host": "guard.example.org"}, {"host": "localhost", "x-forwarded-proto": "https"}):
            (cookie,) = (await log_in(running, **BROWSER, **headers)).headers.get_list("set-cookie")
            assert cookie.startswith("__Host-lifeguard=")
            assert {"secure", "httponly", "path=/"} <= set(cookie.lower().split("; "))
            assert "domain" not in cookie.lower()
            token = cookie.partition(";")[0].partition("=")[2]
            running.client.cookies.clear()
            for name, status in (("__Host-lifeguard", 200), ("lifeguard", 401)):
                page = await running.client.get("/review/label", headers={**headers, "cookie": f"{name}={token}"})
                assert page.status_code == status


async def test_session_is_renewed(desk: Running) -> None:
    """A token that somebody planted in the browser is never taken over, and logging in again ends the one before."""
    await log_in(desk, cookie="lifeguard=planted")
    first = desk.client.cookies["lifeguard"]
    await log_in(desk)
    second = desk.client.cookies["lifeguard"]
    assert len({"planted", first, second}) == 3
    async with desk.store.database.read() as session:
        assert len((await session.scalars(select(DeskSession))).all()) == 1


@pytest.mark.parametrize(
    ("name", "password"),
    [("ann", "wrong password"), ("ben", PASSWORD), ("Ann", PASSWORD), ("ann ", PASSWORD), ("a\0nn", PASSWORD),
     ("ann", PASSWORD + "\0"), ("ann' OR 1=1 --", PASSWORD), ("x" * 10_000, "y" * 10_000), ("<b>ann", "<script>")],
)  # fmt: skip
async def test_wrong(desk: Running, name: str, password: str) -> None:
    """A wrong name and a wrong password get one and the same page, without a cookie and without what was sent."""
    refused = await log_in(desk, name, password)
    assert refused.status_code == 401
    assert "There is no account in force with this name and password." in refused.text
    assert "set-cookie" not in refused.headers
    assert password not in refused.text
    assert "www-authenticate" not in refused.headers
    entry = (await desk.store.ledger.recent(1))[0]
    assert (entry.deed, entry.actor) == (Deed.LOGIN_REFUSED, "ann" if name == "ann" else "")


@pytest.mark.parametrize("form", [{}, {"name": "ann"}, {"name": "", "password": ""}, {f"f{n}": "" for n in range(50)}])
async def test_no_login(desk: Running, form: dict[str, str]) -> None:
    """A form that lacks something is a bad request."""
    assert (await desk.client.post("/review/login", data=form)).status_code == 400


async def test_revoked(desk: Running) -> None:
    """A revoked account is out at once, and its password is not right any more."""
    await log_in(desk)
    await desk.store.reviewers.revoke("ann")
    assert (await desk.client.get("/review/label")).headers["location"] == "/review/login"
    assert (await log_in(desk)).status_code == 401


async def test_guessing(desk: Running) -> None:
    """After five wrong passwords not even the right one is looked at, and the answer says when to come back."""
    for _ in range(5):
        assert (await log_in(desk, password="wrong password")).status_code == 401
    refused = await log_in(desk)
    assert refused.status_code == 429
    assert "wait 15 minutes" in refused.text
    as_json = await log_in(desk, accept="application/json")
    assert (as_json.status_code, as_json.json()["title"]) == (429, "Too many requests")
    assert 890 <= int(as_json.headers["retry-after"]) <= 900


async def test_guessing_at_once(desk: Running) -> None:
    """Guesses sent all at once are counted before they are looked at."""
    answers = [await log_in(desk, password=f"wrong password {n}") for n in range(8)]
    assert sorted(a.status_code for a in answers) == [401] * 5 + [429] * 3


async def test_address_behind_a_proxy(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """Addresses are the proxy's word only where a proxy is said to be; stored is a keyed hash of them."""
    publish_toy(exports)
    for behind, subjects in ((False, 3), (True, 5)):
        async with serve(update(guard_settings, behind_proxy=behind)) as running:
            for last in ("192.0.2.7", "192.0.2.8"):
                await log_in(running, "ann", "wrong password", **{"x-forwarded-for": f"10.0.0.1, {last}"})
            async with running.store.database.write() as session:
                rows = (await session.scalars(select(LoginAttempt))).all()
                assert len({row.subject for row in rows}) == subjects
                assert not any(b"192" in row.subject for row in rows)
                for row in rows:
                    await session.delete(row)


async def test_foreign_page_cannot_log_anybody_in(desk: Running) -> None:
    """A form on a foreign page is refused, even with the right password: its reader would work under another's name."""
    for site in ("cross-site", "same-site"):
        refused = await log_in(desk, **{"sec-fetch-site": site})
        assert refused.status_code == 403
        assert "set-cookie" not in refused.headers
    assert (await log_in(desk, **{"sec-fetch-site": "same-origin"})).status_code == 303


POSTS: Final = ["/review/label", "/review/label/undo", "/review/label/flag", "/review/label/pass", "/review/logout",
         "/review/variations", "/review/variations/undo"]  # fmt: skip
JSON_POSTS: Final = ["/review/next", "/review/labels", "/review/undo"]


@pytest.mark.parametrize("path", [*POSTS, *JSON_POSTS])
async def test_csrf(desk: Running, path: str) -> None:
    """What changes something takes a session only with its own token: not without, nor with another session's."""
    await log_in(desk)
    page = await desk.client.get("/review/label")
    own, cookies = token_in(page), dict(desk.client.cookies)
    desk.client.cookies.clear()
    await log_in(desk)
    other = token_in(await desk.client.get("/review/label"))
    assert other != own
    desk.client.cookies = httpx.Cookies(cookies)
    for form, headers in (({}, {}), ({"csrf": other}, {}), ({"csrf": ""}, {}), ({}, {"x-csrf-token": other}),
                          ({"csrf": own}, {"x-csrf-token": other}), ({"csrf": own + "é"}, {})):  # fmt: skip
        assert (await desk.client.post(path, data=form, headers=headers)).status_code == 403
    as_text = await desk.client.post(path, content=f"csrf={own}", headers={"content-type": "text/plain"})
    assert as_text.status_code == 403
    assert (await desk.client.post(path, headers={"x-csrf-token": own})).status_code != 403


async def test_key_beside_a_session(desk: Running) -> None:
    """A key in a header needs no token of a form, and counts for more than the cookie beside it."""
    await log_in(desk)
    key = await desk.store.keys.create("bot", Role.CLIENT)
    await desk.app.state.access.refresh()
    refused = await desk.client.post("/review/next", headers={"x-api-key": key})
    assert (refused.status_code, "bot" in refused.text) == (403, True)


async def test_session_is_no_key(desk: Running) -> None:
    """With a session nobody classifies, and the cookie's token is no key."""
    await desk.store.keys.create("bot", Role.CLIENT)
    await desk.app.state.access.refresh()
    await log_in(desk)
    token = desk.client.cookies["lifeguard"]
    for headers in ({}, {"x-api-key": token}):
        assert (await desk.client.post("/classify", json={"text": "hello"}, headers=headers)).status_code == 401


async def test_nobody_decides_without_a_name(desk: Running) -> None:
    """Once there is an account, whoever sits at this machine has to log in to review, and may classify as before."""
    for path in ("/review/next", "/review/undo"):
        refused = await desk.client.post(path, headers={"accept": "application/json"})
        assert (refused.status_code, refused.json()["title"]) == (401, "Not authenticated")
    assert (await desk.client.post("/classify", json={"text": "hello"})).status_code == 200


async def test_without_accounts(running: Running) -> None:
    """Without keys and accounts whoever sits at this machine may look at the desk."""
    page = await running.client.get("/review/label", headers=BROWSER)
    assert page.status_code == 200
    assert "<bdi>local</bdi>" in page.text
    assert "Log out" not in page.text


async def test_headers(desk: Running) -> None:
    """Every answer of the desk, problems and redirects too, is kept by nobody and lets in no script but our files."""
    await log_in(desk)
    answers = [
        await desk.client.get(path) for path in ("/review/login", "/review/label", "/review", "/review/guideline/x")
    ]
    answers.append(await desk.client.get("/review/label", headers={"accept": "application/json"}))
    answers.append(await desk.client.post("/review/label", headers={"accept": "application/json"}))
    answers.append(await log_in(desk, password="wrong password"))
    assert [a.status_code for a in answers] == [200, 200, 303, 404, 200, 403, 401]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"


async def test_pages_are_self_hosted(desk: Running) -> None:
    """No page holds a script or style of its own or a foreign address, and everything it refers to is there."""
    await log_in(desk)
    for path in ("/review/login", "/review/label", "/review/guideline", "/review/guideline/legal-advice", "/review/x"):
        page = (await desk.client.get(path)).text
        assert not re.search(r"<script>|<script [^>]*>[^<]|\son\w+=|style=|https?://", page)
        for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
            assert (await desk.client.get(asset)).status_code == 200
