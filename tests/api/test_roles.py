"""Who may do what: every route with every kind of caller, as the table says; a route without a row fails."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.keyring import Keyring
from guard.store.states import Role
from tests.api.conftest import Running, _run
from tests.toys import publish_toy

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERYONE = {"nobody", "unknown", "revoked", *Role}
# who gets past the door, for every route and method; the others get 401 without a key in force, else 403
MAY: dict[tuple[str, str], set[str]] = {
    ("POST", "/classify"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/v1/moderations"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/v1/classify"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/beta/litellm_basic_guardrail_api"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/feedback"): {Role.CLIENT, Role.ADMIN},
    ("POST", "/review/next"): {Role.REVIEWER, Role.ADMIN},
    ("POST", "/review/labels"): {Role.REVIEWER, Role.ADMIN},
    ("POST", "/review/undo"): {Role.REVIEWER, Role.ADMIN},
    ("GET", "/review/batch"): {Role.REVIEWER, Role.ADMIN},
    ("GET", "/review/contrasts"): {Role.REVIEWER, Role.ADMIN},
    ("POST", "/review/contrasts"): {Role.REVIEWER, Role.ADMIN},
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
    """An application with a key of each role, and one that was revoked."""

    running: Running
    secrets: dict[str, str]

    async def ask(self, caller: str, method: str, path: str) -> httpx.Response:
        """Send a request as some caller."""
        path = path.replace("{path:str}", "x").replace("{file_path:path}", "docs.js")
        headers = {"authorization": f"Bearer {self.secrets[caller]}"} if caller in self.secrets else {}
        return await self.running.client.request(method, path, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """An application with a key of each role, and one that was revoked."""
    folder = tmp_path_factory.mktemp("house")
    settings = GuardSettings(data_dir=folder / "var", exports_dir=folder / "exports", learner=False, threads=1)
    Keyring.load(settings, create=True)
    publish_toy(Exports(settings.exports_dir))
    async with _run(settings) as running:
        secrets = {str(role): await running.store.keys.create(str(role), role) for role in Role}
        secrets["revoked"] = await running.store.keys.create("revoked", Role.ADMIN)
        await running.store.keys.revoke("revoked")
        await running.app.state.access.refresh()
        yield House(running, {**secrets, "unknown": "lg_unknown"})


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
            assert answer.status_code == (403 if caller in set(Role) else 401), (method, path)
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
    assert answer.json()["detail"] == "This needs a key with the role reviewer; the key 'client' is a client."


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
