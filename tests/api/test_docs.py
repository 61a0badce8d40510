"""The page at `/docs`: ours to the last byte, and true to what the guard does."""

import re
from typing import Any

import httpx
import pytest

from tests.api.conftest import Running
from tests.served import ServedGuard

pytestmark = pytest.mark.asyncio(loop_scope="module")

# every route but the page itself and its files, with what it answers besides problems
OPERATIONS = {
    ("/classify", "post"): {200},
    ("/v1/moderations", "post"): {200},
    ("/v1/classify", "post"): {200},
    ("/beta/litellm_basic_guardrail_api", "post"): {200},
    ("/feedback", "post"): {200},
    ("/healthz", "get"): {200},
    ("/readyz", "get"): {200, 503},
    ("/metrics", "get"): {200},
    ("/review/next", "post"): {200, 204},
    ("/review/labels", "post"): {201},
    ("/review/undo", "post"): {200},
    ("/review/batch", "get"): {200},
}
# for people: each says what it takes by its form, and its JSON twin is in docs/desk.md
PAGES = {
    ("/review", "get"),
    ("/review/login", "get"),
    ("/review/login", "post"),
    ("/review/logout", "post"),
    ("/review/label", "get"),
    ("/review/label", "post"),
    ("/review/label/undo", "post"),
    ("/review/label/flag", "post"),
    ("/review/label/pass", "post"),
    ("/review/agreement", "get"),
    ("/review/agreement", "post"),
    ("/review/agreement/undo", "post"),
    ("/review/variations", "get"),
    ("/review/variations", "post"),
    ("/review/variations/undo", "post"),
    ("/review/doubts", "get"),
    ("/review/doubts", "post"),
    ("/review/doubts/undo", "post"),
    ("/review/doubts/pass", "post"),
    ("/review/guideline", "get"),
    ("/review/ledger", "get"),
    ("/review/loop", "get"),
    ("/review/loop/promote", "post"),
    ("/review/loop/rollback", "post"),
    ("/review/loop/hold", "post"),
    ("/review/loop/release", "post"),
    ("/review/guideline/{category:str}", "get"),
}
PROBLEMS = {
    ("/classify", "post"): {400, 401, 403, 408, 413, 503},
    ("/v1/moderations", "post"): {400, 401, 403, 408, 413, 503},
    ("/v1/classify", "post"): {400, 401, 403, 408, 413, 503},
    ("/beta/litellm_basic_guardrail_api", "post"): {400, 401, 403, 408, 413, 503},
    ("/feedback", "post"): {400, 401, 403, 404, 408, 413, 429, 503},
    ("/review/next", "post"): {401, 403, 503},
    ("/review/labels", "post"): {400, 401, 403, 404, 408, 409, 413, 503},
    ("/review/undo", "post"): {401, 403, 404, 409, 503},
    ("/review/batch", "get"): {401, 403, 404, 503},
}


@pytest.fixture(scope="module")
def schema(served: ServedGuard) -> dict[str, Any]:
    """The OpenAPI document as a real server gives it."""
    answer = httpx.get(f"{served.base_url}/docs/openapi.json")
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


async def test_page_is_self_hosted(resident: Running) -> None:
    """The page refers to no foreign host, holds no script of its own, and everything it refers to is there."""
    page = await resident.client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "//" not in page.text
    assert not re.search(r"<script>|<script [^>]*>[^<]|\son\w+=|style=", page.text)
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) == 3
    for path in assets:
        asset = await resident.client.get(path)
        assert asset.status_code == 200
        assert len(asset.content) > 50


async def test_script_asks_for_our_document(resident: Running) -> None:
    """The script that starts the page names the document by a path of this server, and the document is there."""
    script = (await resident.client.get("/static/docs.js")).text
    (path,) = re.findall(r'url: "([^"]+)"', script)
    assert (await resident.client.get(path)).json()["openapi"].startswith("3.1")


async def test_every_route_is_described(resident: Running, schema: dict[str, Any]) -> None:
    """The document describes every route that the application has but the desk's pages, and no other."""
    described = {(path, method) for path, item in schema["paths"].items() for method in item}
    routes = {
        (route.path, method.lower())
        for route in resident.app.routes
        for method in getattr(route, "methods", ())
        if method != "OPTIONS" and not route.path.startswith(("/docs", "/static"))
    }
    assert described == OPERATIONS.keys()
    assert routes == described | PAGES


async def test_every_answer_is_described(schema: dict[str, Any]) -> None:
    """Each operation lists what it answers, its problems in their media type, and says in words what it does."""
    for (path, method), answers in OPERATIONS.items():
        operation = schema["paths"][path][method]
        problems = PROBLEMS.get((path, method), set())
        assert {int(status) for status in operation["responses"]} == answers | problems
        for status in problems:
            content = operation["responses"][str(status)]["content"]
            kind, name = (
                ("application/json", "FaultEnvelope")
                if path.startswith("/v1/")
                else ("application/problem+json", "Problem")
            )
            assert list(content) == [kind]
            assert content[kind]["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]


async def test_references_lead_somewhere(schema: dict[str, Any]) -> None:
    """Every reference in the document names a schema that it holds."""
    names = set(re.findall(r"'#/components/schemas/([^']+)'", str(schema)))
    assert names <= schema["components"]["schemas"].keys()
    assert len(names) >= 10
    assert len({o["operationId"] for i in schema["paths"].values() for o in i.values()}) == len(OPERATIONS)


async def test_answers_fit_the_document(resident: Running, schema: dict[str, Any]) -> None:
    """What the guard answers has the fields that the document requires."""
    schemas = schema["components"]["schemas"]
    answer = (await resident.classify(text="rash")).json()
    problem = (await resident.classify(text="")).json()
    for found, name in ((answer, "ClassifyResponse"), (answer["results"][0], "Result"), (problem, "Problem")):
        assert set(schemas[name]["required"]) <= found.keys() <= schemas[name]["properties"].keys()


async def test_no_secrets_in_the_document(schema: dict[str, Any]) -> None:
    """The document says nothing about this installation: no path, no address, no key."""
    text = str(schema)
    assert not any(word in text for word in ("/tmp", "/work", "127.0.0.1", "lg_", "GUARD_KEYRING"))
