"""`/review/…`: people label a batch together, and what was answered with a 201 is on disk."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.cycles import Picked
from guard.store.pool import AUDIT
from guard.store.rows import Cycle
from guard.store.states import CycleState, Role
from guard.taxonomy import CATEGORIES
from tests.api.conftest import Running, Serve, update
from tests.guard.store.scenes import add, advance, arrival, learner, open_batch, open_cycle, pooled
from tests.toys import publish_toy


@dataclass(frozen=True)
class Reviewers:
    """Two reviewers and the application they work with."""

    running: Running
    ann: httpx.AsyncClient
    ben: httpx.AsyncClient

    async def open(self, *texts: str) -> tuple[Cycle, int]:
        """Open a batch of these texts."""
        fence = await learner(self.running.store)
        return await open_batch(self.running.store, fence, *texts), fence


@pytest.fixture
async def reviewers(serve: Serve, store_settings: GuardSettings, exports: Exports) -> AsyncIterator[Reviewers]:
    """Two reviewers on either kind of database, who share the messages out: none is for both."""
    publish_toy(exports)
    async with serve(update(store_settings, overlap=1)) as running, AsyncExitStack() as stack:
        clients = []
        for name in ("ann", "ben"):
            key = await running.store.keys.create(name, Role.REVIEWER)
            transport, url = running.client._transport, running.client.base_url
            client = httpx.AsyncClient(transport=transport, base_url=url, headers={"x-api-key": key})
            clients.append(await stack.enter_async_context(client))
        await running.app.state.access.refresh()
        yield Reviewers(running, *clients)


async def _next(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.post("/review/next")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    return body


async def _label(
    client: httpx.AsyncClient, pick_id: int, category: str | None, key: str | None = None
) -> httpx.Response:
    body: Mapping[str, Any] = {"pick_id": pick_id, "category": category}
    return await client.post("/review/labels", json={**body, "idempotency_key": key} if key else body)


async def test_nothing_to_do(reviewers: Reviewers) -> None:
    """Before there is a batch no message waits, none can be undone, and there is no state to show."""
    assert (await reviewers.ann.post("/review/next")).status_code == 204
    assert (await reviewers.ann.post("/review/undo")).status_code == 404
    assert (await reviewers.ann.get("/review/batch")).status_code == 404


async def test_batch_from_first_to_last(reviewers: Reviewers) -> None:
    """A batch is labelled message by message until none waits, and its state says so all the while."""
    cycle, _ = await reviewers.open("one", "two", "three")
    first = await _next(reviewers.ann)
    assert (first["text"], first["cycle_id"], first["reason"]) == ("one", cycle.id, {"cluster": 0})
    assert list(first["scores"]) == list(CATEGORIES)
    assert (await _label(reviewers.ann, first["pick_id"], "self-harm")).status_code == 201
    second = await _next(reviewers.ann)
    assert (await _label(reviewers.ann, second["pick_id"], None)).status_code == 201
    third = await _next(reviewers.ann)
    batch = (await reviewers.ben.get("/review/batch")).json()
    counts = {name: batch[name] for name in ("size", "labelled", "unclear", "contested", "begun", "held", "waiting")}
    assert counts == {"size": 3, "labelled": 1, "unclear": 1, "contested": 0, "begun": 0, "held": 1, "waiting": 1}
    assert (batch["cycle_id"], batch["state"], batch["strategy"]) == (cycle.id, "labelling", "cluster")
    assert (await _label(reviewers.ann, third["pick_id"], "not-harmful")).status_code == 201
    assert (await reviewers.ann.post("/review/next")).status_code == 204
    assert [first["text"], second["text"], third["text"]] == ["one", "two", "three"]
    counts = await reviewers.running.store.review.label_counts()  # type: ignore[assignment]
    assert counts == {"self-harm": 1, None: 1, "not-harmful": 1}


async def test_next_is_the_same_until_decided(reviewers: Reviewers) -> None:
    """Asking again gives the message that one holds already."""
    await reviewers.open("one", "two")
    assert (await _next(reviewers.ann))["pick_id"] == (await _next(reviewers.ann))["pick_id"]


async def test_two_never_hold_the_same(reviewers: Reviewers) -> None:
    """Two reviewers who ask at once, again and again, never get the same message, and every one is labelled once."""
    texts = [f"message {n}" for n in range(12)]
    await reviewers.open(*texts)
    seen: list[str] = []

    async def work(client: httpx.AsyncClient) -> None:
        while (answer := await client.post("/review/next")).status_code == 200:
            seen.append(answer.json()["text"])
            assert (await _label(client, answer.json()["pick_id"], "not-harmful")).status_code == 201

    await asyncio.gather(work(reviewers.ann), work(reviewers.ben))
    assert sorted(seen) == sorted(texts)
    assert (await reviewers.ann.get("/review/batch")).json()["labelled"] == 12


async def test_held_by_another(reviewers: Reviewers) -> None:
    """What one reviewer holds another cannot label."""
    await reviewers.open("one", "two")
    held = await _next(reviewers.ann)
    refused = await _label(reviewers.ben, held["pick_id"], "self-harm")
    assert (refused.status_code, refused.json()["title"]) == (409, "Conflict")
    assert "another reviewer" in refused.json()["detail"]
    assert (await _next(reviewers.ben))["pick_id"] != held["pick_id"]


async def test_decided_already(reviewers: Reviewers) -> None:
    """A decision is not overwritten: it has to be undone first."""
    await reviewers.open("one")
    held = await _next(reviewers.ann)
    await _label(reviewers.ann, held["pick_id"], "self-harm")
    for client in (reviewers.ann, reviewers.ben):
        assert (await _label(client, held["pick_id"], "not-harmful")).status_code == 409
    assert await reviewers.running.store.review.label_counts() == {"self-harm": 1}


async def test_undo(reviewers: Reviewers) -> None:
    """The latest decision is taken back, its message is held again, and can be decided anew; only one's own."""
    await reviewers.open("one", "two")
    held = await _next(reviewers.ann)
    await _label(reviewers.ann, held["pick_id"], "self-harm")
    assert (await reviewers.ben.post("/review/undo")).status_code == 404
    undone = await reviewers.ann.post("/review/undo")
    assert (undone.status_code, undone.json()) == (200, {"pick_id": held["pick_id"]})
    assert (await _next(reviewers.ann))["pick_id"] == held["pick_id"]
    assert (await _label(reviewers.ann, held["pick_id"], "not-harmful")).status_code == 201
    assert await reviewers.running.store.review.label_counts() == {"not-harmful": 1}


async def test_sent_twice(reviewers: Reviewers) -> None:
    """A label sent again under its idempotency key, at once or later, is the same label and counts once."""
    await reviewers.open("one", "two")
    held = await _next(reviewers.ann)
    answers = await asyncio.gather(*(_label(reviewers.ann, held["pick_id"], "self-harm", "key-1") for _ in range(5)))
    answers.append(await _label(reviewers.ann, held["pick_id"], "self-harm", "key-1"))
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["label_id"] for a in answers}) == 1
    assert await reviewers.running.store.review.label_counts() == {"self-harm": 1}


async def test_key_of_another_label(reviewers: Reviewers) -> None:
    """An idempotency key stands for one label: another pick or category under it is refused."""
    await reviewers.open("one", "two")
    first = await _next(reviewers.ann)
    await _label(reviewers.ann, first["pick_id"], "self-harm", "key-1")
    second = await _next(reviewers.ann)
    assert (await _label(reviewers.ann, second["pick_id"], "self-harm", "key-1")).status_code == 409
    assert (await _label(reviewers.ann, first["pick_id"], "not-harmful", "key-1")).status_code == 409


async def test_closed_batch(reviewers: Reviewers) -> None:
    """Once the batch is closed a label comes too late, cannot be undone, and what is undecided is in the pool again."""
    cycle, fence = await reviewers.open("one", "two")
    held = await _next(reviewers.ann)
    await _label(reviewers.ann, held["pick_id"], "self-harm")
    late = await _next(reviewers.ann)
    await advance(reviewers.running.store, cycle, fence, CycleState.GENERATING)
    refused = await _label(reviewers.ann, late["pick_id"], "self-harm")
    assert (refused.status_code, refused.json()["title"]) == (409, "Conflict")
    assert "closed" in refused.json()["detail"]
    assert (await reviewers.ann.post("/review/undo")).status_code == 404
    assert (await reviewers.ann.post("/review/next")).status_code == 204
    assert [p.text for p in await pooled(reviewers.running.store)] == ["two"]


WRONG: list[tuple[object, int]] = [
    ({"pick_id": 4711, "category": "self-harm"}, 404),
    ({"pick_id": 2**63 - 1, "category": "self-harm"}, 404),
    ({"pick_id": 2**63, "category": "self-harm"}, 400),
    ({"pick_id": 0, "category": "self-harm"}, 400),
    ({"pick_id": -1, "category": "self-harm"}, 400),
    ({"pick_id": "1", "category": "self-harm"}, 400),
    ({"pick_id": 1}, 400),
    ({"pick_id": 1, "category": "canary"}, 400),
    ({"pick_id": 1, "category": "null"}, 400),
    ({"pick_id": 1, "category": "self-harm", "canary": 1}, 400),
    ({"pick_id": 1, "category": "self-harm", "idempotency_key": ""}, 400),
    ({"pick_id": 1, "category": "self-harm", "idempotency_key": "k" * 65}, 400),
    ({"pick_id": 1, "category": "self-harm", "idempotency_key": "a\u0000b"}, 400),
    ({}, 400),
    ([], 400),
    (None, 400),
]


async def test_wrong_labels(running_on_both: Running) -> None:
    """A label that does not fit is refused with what to do, whichever database would have had to take it."""
    for body, status in WRONG:
        answer = await running_on_both.client.post("/review/labels", json=body)
        assert (body, answer.status_code, answer.json()["status"]) == (body, status, status)
        assert "canary" not in answer.text


async def test_audited_message_is_shown_blind(reviewers: Reviewers) -> None:
    """What came by the audit is shown without the scores and reasons that could sway a reviewer."""
    store = reviewers.running.store
    fence = await learner(store)
    await add(store, replace(arrival("one"), reason=AUDIT))
    (message,) = await pooled(store)
    cycle = await open_cycle(store, fence)
    picked = Picked(message.id, {"strategy": "random", "category": "self-harm"}, 0.01)
    await store.cycles.fill(cycle.id, [picked], fence=fence, figures={})
    shown = await _next(reviewers.ann)
    assert (shown["text"], shown["scores"], shown["reason"]) == ("one", None, {"audit": True})


async def test_store_away(reviewers: Reviewers, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store does not answer, a label is a 503 with when to try again, never a 201."""
    await reviewers.open("one")
    held = await _next(reviewers.ann)
    await reviewers.running.store.database.close()
    engine = reviewers.running.store.database.engine
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.sync_engine), "raw_connection", _refuse)
        patch.setattr(type(engine.sync_engine), "connect", _refuse)
        refused = await _label(reviewers.ann, held["pick_id"], "self-harm", "key-1")
        assert (refused.status_code, refused.json()["title"]) == (503, "Store unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    assert (await _label(reviewers.ann, held["pick_id"], "self-harm", "key-1")).status_code == 201


def _refuse(*_: object, **__: object) -> None:
    raise ConnectionRefusedError
