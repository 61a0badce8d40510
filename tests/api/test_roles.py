"""Who may do what: every route with every kind of caller, as the table says; a route without a row fails."""

import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute
from sqlalchemy import update

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.keyring import Keyring
from guard.store.keys import digest
from guard.store.rows import DeskSession, Reviewer
from guard.store.states import Role
from guard.taxonomy import Category
from tests.api.conftest import Running, _run
from tests.toys import publish_toy

pytestmark = pytest.mark.asyncio(loop_scope="module")

# callers by key are named by role, those by a session at the desk by SESSION and role
SESSIONS = {"session: reviewer", "session: admin"}
ENDED = {"session: idle", "session: too old", "session: revoked", "session: logged out", "session: unknown"}
EVERYONE = {"nobody", "unknown", "revoked", *Role, *SESSIONS, *ENDED}
DESK = {Role.REVIEWER, Role.ADMIN, *SESSIONS}
# who gets past the door, for every route and method; the others get 403 if we know who they are, else 401
MAY: dict[tuple[str, str], set[str]] = {
    ("POST", "/classify"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/v1/moderations"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/v1/classify"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/beta/litellm_basic_guardrail_api"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/feedback"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/review/next"): DESK,
    ("POST", "/review/labels"): DESK,
    ("POST", "/review/undo"): DESK,
    ("GET", "/review/batch"): DESK,
    ("GET", "/review"): DESK,
    ("GET", "/review/label"): DESK,
    ("POST", "/review/label"): DESK,
    ("POST", "/review/label/undo"): DESK,
    ("POST", "/review/label/flag"): DESK,
    ("POST", "/review/label/pass"): DESK,
    ("GET", "/review/agreement"): DESK,
    ("POST", "/review/agreement"): {Role.ADMIN, "session: admin"},
    ("POST", "/review/agreement/undo"): {Role.ADMIN, "session: admin"},
    ("GET", "/review/variations"): DESK,
    ("POST", "/review/variations"): DESK,
    ("POST", "/review/variations/undo"): DESK,
    ("GET", "/review/doubts"): DESK,
    ("POST", "/review/doubts"): DESK,
    ("POST", "/review/doubts/undo"): DESK,
    ("POST", "/review/doubts/pass"): DESK,
    ("GET", "/review/guideline"): DESK,
    ("GET", "/review/guideline/{category:str}"): DESK,
    ("GET", "/review/ledger"): {Role.ADMIN, "session: admin"},
    ("GET", "/review/loop"): DESK,
    ("POST", "/review/loop/promote"): {Role.ADMIN, "session: admin"},
    ("POST", "/review/loop/rollback"): {Role.ADMIN, "session: admin"},
    ("POST", "/review/loop/hold"): {Role.ADMIN, "session: admin"},
    ("POST", "/review/loop/release"): {Role.ADMIN, "session: admin"},
    ("GET", "/review/login"): EVERYONE,
    ("POST", "/review/login"): EVERYONE,
    ("POST", "/review/logout"): DESK,
    ("GET", "/healthz"): EVERYONE,
    ("GET", "/readyz"): EVERYONE,
    ("GET", "/metrics"): EVERYONE,
    ("GET", "/docs"): EVERYONE,
    ("GET", "/docs/openapi.json"): EVERYONE,
    ("GET", "/docs/{path:str}"): EVERYONE,
    ("GET", "/static/{file_path:path}"): EVERYONE,
    ("HEAD", "/static/{file_path:path}"): EVERYONE,
}


@dataclass(frozen=True)
class House:
    """An application with a key of each role, reviewers with sessions, and keys and sessions that are no good any more."""

    running: Running
    secrets: dict[str, str]
    tokens: dict[str, str]

    async def ask(self, caller: str, method: str, path: str) -> httpx.Response:
        """Send a request as some caller."""
        path = path.replace("{path:str}", "x").replace("{file_path:path}", "docs.js")
        path = path.replace("{category:str}", Category.SELF_HARM)
        if caller in self.tokens:
            token = self.tokens[caller]
            if path == "/review/logout" and caller in SESSIONS:  # of a session of its own: the others need theirs
                token = await log_in(self.running, caller.partition(": ")[2] + "-at-the-desk")
            headers = {"cookie": f"lifeguard={token}", "x-csrf-token": csrf(token)}
        else:
            headers = {"authorization": f"Bearer {self.secrets[caller]}"} if caller in self.secrets else {}
        return await self.running.client.request(method, path, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """An application with callers of every kind."""
    folder = tmp_path_factory.mktemp("house")
    settings = GuardSettings(data_dir=folder / "var", exports_dir=folder / "exports", learner=False, threads=1)
    Keyring.load(settings, create=True)
    publish_toy(Exports(settings.exports_dir))
    async with _run(settings) as running:
        secrets = {str(role): await running.store.keys.create(str(role), role) for role in Role}
        secrets["revoked"] = await running.store.keys.create("revoked", Role.ADMIN)
        await running.store.keys.revoke("revoked")
        await running.app.state.access.refresh()
        yield House(running, {**secrets, "unknown": "lg_unknown"}, await _tokens(running))


async def log_in(running: Running, name: str) -> str:
    """Return the token of a new session."""
    reviewer = await running.store.reviewers.find(name)
    assert reviewer is not None
    return await running.store.sessions.open(reviewer, address="", replaces=None)


def csrf(token: str) -> str:
    """Return what a session's forms send."""
    return hmac.new(token.encode(), b"csrf", "sha256").hexdigest()


async def _tokens(running: Running) -> dict[str, str]:
    """Return the token of a session of every kind."""
    store, now = running.store, running.store.clock()
    for role in (Role.REVIEWER, Role.ADMIN):
        await store.reviewers.add(f"{role}-at-the-desk", role, "hash")
    await store.reviewers.add("leaver", Role.ADMIN, "hash")
    tokens = {f"session: {role}": await log_in(running, f"{role}-at-the-desk") for role in (Role.REVIEWER, Role.ADMIN)}
    tokens |= {kind: await log_in(running, "admin-at-the-desk") for kind in sorted(ENDED - {"session: revoked"})}
    tokens["session: revoked"] = await log_in(running, "leaver")
    tokens["session: unknown"] = "x" * 43
    ended = await store.sessions.find(tokens["session: logged out"])
    assert ended is not None
    await store.sessions.end(ended)
    async with store.database.write() as session:
        for kind, column, age in (("idle", "seen_at", 3600), ("too old", "opened_at", 43_200)):
            change = update(DeskSession).where(DeskSession.digest == digest(tokens[f"session: {kind}"]))
            await session.execute(change.values({column: now - timedelta(seconds=age)}))
        # without `revoke`, which deletes them: a session must not outlive its account in any way
        await session.execute(update(Reviewer).where(Reviewer.name == "leaver").values(revoked_at=now))
    return tokens


def _routes(running: Running) -> set[tuple[str, str]]:
    return {
        (method, route.path)
        for route in running.app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"
    }


async def test_every_route_has_its_row(house: House) -> None:
    """The table names every route of the application and no other."""
    assert _routes(house.running) == MAY.keys()


@pytest.mark.parametrize("caller", sorted(EVERYONE))
async def test_table(house: House, caller: str) -> None:
    """Each caller gets past the door exactly where the table says, and is told why not elsewhere."""
    for (method, path), allowed in MAY.items():
        answer = await house.ask(caller, method, path)
        if caller in allowed:
            assert answer.status_code not in {401, 403}, (method, path)
        else:
            known = caller in set(Role) or (caller in SESSIONS and allowed & SESSIONS)
            assert answer.status_code == (403 if known else 401), (method, path)
            openai = path.startswith("/v1/")
            assert answer.headers["content-type"] == ("application/json" if openai else "application/problem+json")
            assert house.secrets.get(caller, "lg_") not in answer.text.replace("lg_…", "")
            assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)


async def test_body_is_not_read_at_the_door(house: House) -> None:
    """Who may not call gets no word about their body: neither a 400 nor a 413."""
    url = "/classify"
    for content in (b"nonsense", b" " * (house.running.app.state.settings.max_body_bytes + 1)):
        assert (await house.running.client.post(url, content=content)).status_code == 401


async def test_options_tell_nothing(house: House) -> None:
    """What a route takes is told to anybody, but nothing else."""
    for _, path in MAY:
        answer = await house.ask("nobody", "OPTIONS", path)
        assert answer.status_code in {204, 401}
        assert answer.content == b"" or answer.status_code == 401


async def test_reviewer_is_known_by_the_key(house: House) -> None:
    """A refusal names the key and its role, so that its owner can tell which one was sent."""
    answer = await house.ask(Role.CLIENT, "POST", "/review/next")
    assert answer.json()["detail"] == "This needs the role reviewer; 'client' is a client."


async def test_revoked_while_serving(house: House) -> None:
    """A key that is revoked is refused as soon as the keys have been read again."""
    secret = await house.running.store.keys.create("short-lived", Role.CLIENT)
    await house.running.app.state.access.refresh()
    ask = {"headers": {"x-api-key": secret}, "json": {"text": "hello"}}
    assert (await house.running.client.post("/classify", **ask)).status_code == 200  # type: ignore[arg-type]
    await house.running.store.keys.revoke("short-lived")
    await house.running.app.state.access.refresh()
    assert (await house.running.client.post("/classify", **ask)).status_code == 401  # type: ignore[arg-type]


async def test_foreign_page_without_keys(resident: Running) -> None:
    """Without keys a foreign web page gets 403 on every guarded route, whether it comes by its name or by ours."""
    for headers in ({"host": "rebound.example.org"}, {"origin": "https://example.org"}, {"origin": "null"}):
        for (method, path), allowed in MAY.items():
            if allowed is not EVERYONE:
                answer = await resident.client.request(method, path, headers=headers, content=b'{"text": "hello"}')
                assert answer.status_code == 403
