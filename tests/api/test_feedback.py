"""`POST /feedback`: who reports a wrong answer asks for a reviewer, and no more."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from guard.exports import Exports
from guard.receipts import Receipts
from guard.settings import GuardSettings
from guard.store.rows import Label, Message, Report
from guard.store.states import Role
from tests.api.conftest import Running, Serve, update
from tests.guard.store.scenes import pooled
from tests.toys import publish_toy


async def _report(running: Running, receipt: str, text: str, **fields: Any) -> httpx.Response:
    body: Mapping[str, Any] = {"id": receipt, "text": text, "category": "legal-advice", "source": "person"}
    return await running.client.post("/feedback", json={**body, **fields})


async def _id(running: Running, **body: Any) -> str:
    answer = await running.classify(**body)
    assert answer.status_code == 200, answer.text
    receipt: str = answer.json()["id"]
    return receipt


async def _messages(running: Running) -> list[Message]:
    async with running.store.database.read() as session:
        return list(await session.scalars(select(Message).order_by(Message.id)))


async def test_report(running_on_both: Running) -> None:
    """A reported answer's message waits for a reviewer with the verdict that was given, and is no label."""
    running = running_on_both
    given = (await running.classify(text="hello", user="ada")).json()
    answer = await _report(running, given["id"], "hello", user="ada")
    assert (answer.status_code, list(answer.json())) == (200, ["report_id"])
    (message,) = await _messages(running)
    result = given["results"][0]
    assert (message.reason, message.inclusion_probability) == ("feedback", 0.0)
    assert (message.source, message.model_version, message.category) == ("feedback", "0001", result["category"])
    assert message.scores == pytest.approx(list(result["scores"].values()), abs=1e-3)
    assert [text.text for text in await pooled(running.store)] == ["hello"]
    async with running.store.database.read() as session:
        assert (await session.scalars(select(Label))).all() == []
        (report,) = (await session.scalars(select(Report))).all()
    assert (report.verdict, report.category, report.source) == (result["category"], "legal-advice", "person")
    assert (report.key_name, report.model_version) == ("local", "0001")
    labels = {"verdict": result["category"], "should_be": "legal-advice", "source": "person"}
    assert running.metric("guard_feedback_total", **labels) == 1


async def test_again(running: Running) -> None:
    """The same report again, or with another opinion, is the same report and counts once."""
    receipt = await _id(running, text="hello")
    first = await _report(running, receipt, "hello", category=None, source="chatbot")
    assert first.status_code == 200
    again = await _report(running, receipt, "hello", category=None, source="chatbot")
    other = await _report(running, receipt, "hello")
    written = receipt.replace("cls-", "anything-")  # the same id in other words
    assert first.json() == again.json() == other.json() == (await _report(running, written, "hello")).json()
    labels = {"verdict": "not-harmful", "should_be": "unknown", "source": "chatbot"}
    assert running.metric("guard_feedback_total", **labels) == 1
    assert (await _messages(running))[0].seen_count == 1


async def test_text_as_it_was_written(running: Running) -> None:
    """The text may come with other blanks than it had, as when it was put together from parts."""
    parts = [{"type": "text", "text": "hello "}, {"type": "text", "text": "you"}]
    receipt = await _id(running, messages=[{"role": "user", "content": parts}])
    assert (await _report(running, receipt, "hello you")).status_code == 200


async def test_one_of_several(running: Running) -> None:
    """Of several texts the one at its index is reported."""
    receipt = await _id(running, texts=["hello", "good day"])
    assert (await _report(running, receipt, "good day")).status_code == 404
    assert (await _report(running, receipt, "good day", index=1)).status_code == 200
    assert (await _report(running, receipt, "hello", index=0)).status_code == 200
    assert len(await _messages(running)) == 2


async def test_dialects(running: Running) -> None:
    """The ids of OpenAI's and vLLM's answers, and the one in LiteLLM's reason, are as good as our own."""
    moderated = (await running.client.post("/v1/moderations", json={"input": "hello", "user": "ada"})).json()
    assert (await _report(running, moderated["id"], "hello", user="ada")).status_code == 200
    classified = (await running.client.post("/v1/classify", json={"input": ["hello", "good day"]})).json()
    assert (await _report(running, classified["id"], "good day", index=1)).status_code == 200
    body = {
        "input_type": "request",
        "structured_messages": [{"role": "user", "content": "sue"}],
        "request_data": {"user_api_key_end_user_id": "ben"},
    }
    blocked = (await running.client.post("/beta/litellm_basic_guardrail_api", json=body)).json()
    receipt = blocked["blocked_reason"].partition("answer ")[2].rstrip("]")
    answer = await _report(running, receipt, "sue", user="ben", category="not-harmful")
    assert answer.status_code == 200, answer.text


async def test_not_the_answer(running: Running) -> None:
    """Another text, another user, an id that was made up or of a request that was not to be kept: 404, and no trace."""
    receipt = await _id(running, text="hello", user="ada")
    private = await _id(running, text="hello", user="ada", store=False)
    for tried in (
        _report(running, receipt, "hullo", user="ada"),
        _report(running, receipt, "hello", user="eve"),
        _report(running, receipt, "hello"),
        _report(running, receipt, "hello", user="ada", index=1),
        _report(running, private, "hello", user="ada"),
        _report(running, "cls-6f5876f33019c87fb41010b6", "hello", user="ada"),
        _report(running, "", "hello", user="ada"),
    ):
        answer = await tried
        assert (answer.status_code, answer.json()["title"]) == (404, "Not found")
        assert "hello" not in answer.text
    assert await _messages(running) == []
    assert running.metric("guard_feedback_refused_total", reason="unknown") == 7


WRONG: list[tuple[Mapping[str, Any], int]] = [
    ({"category": "not-harmful"}, 400),
    ({"category": "canary"}, 400),
    ({"source": "canary"}, 400),
    ({"index": -1}, 400),
    ({"user": ""}, 400),
    ({"user": "u" * 257}, 400),
    ({"canary": 1}, 400),
    ({"text": "x" * 40_000}, 413),
]


async def test_wrong_reports(running: Running) -> None:
    """A report that does not fit is refused with what to do; that an answer was wrong in being right, too."""
    receipt = await _id(running, text="hello")
    for fields, status in WRONG:
        answer = await _report(running, receipt, **{"text": "hello", **fields})
        assert (fields, answer.status_code) == (fields, status)
        assert "canary" not in answer.text
    for left_out in ("id", "text", "category", "source"):
        body = {"id": receipt, "text": "hello", "category": None, "source": "person"}
        del body[left_out]
        assert (await running.client.post("/feedback", json=body)).status_code == 400
    assert await _messages(running) == []


async def test_capped(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """A user's reports and a key's are capped, each with when to try again; another key is not concerned."""
    publish_toy(exports)
    async with serve(update(guard_settings, feedback_per_user=2, feedback_per_key=3)) as running:
        clients = {}
        for name in ("bot", "other"):
            key = await running.store.keys.create(name, Role.CLIENT)
            clients[name] = {"x-api-key": key}
        await running.app.state.access.refresh()

        async def report(name: str, text: str, user: str) -> httpx.Response:
            asked = {"text": text, "user": user}
            given = await running.client.post("/classify", json=asked, headers=clients[name])
            body = {"id": given.json()["id"], "category": "legal-advice", "source": "chatbot", **asked}
            return await running.client.post("/feedback", json=body, headers=clients[name])

        statuses = [(await report("bot", f"hello {n}", "ada")).status_code for n in range(2)]
        refused = await report("bot", "hello 2", "ada")
        statuses += [refused.status_code, (await report("bot", "hello 3", "ben")).status_code]
        statuses += [(await report("bot", "hello 4", "eve")).status_code]
        statuses += [(await report("other", "hello 5", "eve")).status_code]
        assert statuses == [200, 200, 429, 200, 429, 200]
        assert (refused.json()["title"], refused.json()["status"]) == ("Too many requests", 429)
        assert 86_000 < int(refused.headers["retry-after"]) <= 86_401
        assert running.metric("guard_feedback_refused_total", reason="capped") == 2
        assert len(await _messages(running)) == 4


async def test_full_pool(serve: Serve, guard_settings: GuardSettings, exports: Exports) -> None:
    """A report that the pool has no room for is a 503, never a 200."""
    publish_toy(exports)
    async with serve(update(guard_settings, pool_max_messages=1)) as running:
        assert (await _report(running, await _id(running, text="hello"), "hello")).status_code == 200
        refused = await _report(running, await _id(running, text="good day"), "good day")
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        assert running.metric("guard_feedback_refused_total", reason="no_room") == 1


async def test_too_old(running: Running) -> None:
    """An answer whose message would have expired is not reported any more."""
    now = running.store.clock
    judged = await running.engine.classify(["hello"])
    old = Receipts(running.store.keyring, lambda: now() - timedelta(days=31))
    answer = await _report(running, old.issue("cls", judged, user=None, store=True), "hello")
    assert (answer.status_code, await _messages(running)) == (404, [])
    assert "GUARD_RETENTION_DAYS" in answer.json()["detail"]


async def test_erased(running: Running) -> None:
    """What a user sent before they were erased is not brought back by a report."""
    receipt = await _id(running, text="hello", user="ada")
    await running.store.pool.erase_user("ada")
    answer = await _report(running, receipt, "hello", user="ada")
    assert (answer.status_code, await _messages(running)) == (404, [])


async def test_after_the_champion_has_moved_on(running: Running, exports: Exports) -> None:
    """An answer of a former champion is reported as that champion's."""
    receipt = await _id(running, text="hello")
    publish_toy(exports)
    await running.watcher.look()
    assert (await _report(running, receipt, "hello")).status_code == 200
    (message,) = await _messages(running)
    assert (running.engine.bundle and running.engine.bundle.version, message.model_version) == ("0002", "0001")
