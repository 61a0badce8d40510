"""The guard killed with SIGKILL while reviewers label over HTTP: what was acknowledged is there, once."""

import asyncio
import random
import signal
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from guard.settings import GuardSettings
from guard.store import open_store, utc_now
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.pool import Arrival
from guard.store.rows import Label, Message
from guard.taxonomy import CATEGORIES, GRAVE, Category
from tests.e2e import crashes
from tests.e2e.driver import create_keys
from tests.served import ServedGuard
from tests.toys import publish_toy

MESSAGES = 400
KILLS = 6
DESK_KILLS = 5
SEED = 7

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_every_acknowledged_label_is_there_exactly_once(tmp_path: Path) -> None:
    """Reviewers who repeat a label until it is acknowledged lose none and double none, however often the guard dies."""
    settings = GuardSettings(data_dir=tmp_path / "var", exports_dir=tmp_path / "exports")
    keys = asyncio.run(create_keys(settings))
    asyncio.run(_open_batch(settings))
    acknowledged: dict[tuple[int, str], Category] = {}
    stop = threading.Event()
    guard = ServedGuard(tmp_path)
    publish_toy(guard.exports)
    guard.start()
    reviewers = [
        threading.Thread(target=_label, args=(guard.base_url, name, keys[name], acknowledged, stop))
        for name in ("anna", "ben")
    ]
    for reviewer in reviewers:
        reviewer.start()
    waits = random.Random(SEED)
    for _ in range(KILLS):
        seen = len(acknowledged)
        while len(acknowledged) < min(MESSAGES, seen + waits.randint(5, 40)):
            stop.wait(0.002)
        guard.stop(signal.SIGKILL)
        guard.start()
    stop.set()
    for reviewer in reviewers:
        reviewer.join()
    guard.stop()
    labels = asyncio.run(_labels(settings))
    assert len(acknowledged) > KILLS * 5
    stored = {(label.pick_id, label.reviewer): label.category for label in labels}
    assert len(stored) == len(labels), "nobody has two labels on a pick"
    times = Counter(pick for pick, _ in stored)
    assert all(times[pick] == 1 for (pick, _), said in stored.items() if said not in GRAVE), "nor has a pick, but"
    assert max(times.values()) == 2, "what one calls self-harm or an emergency is asked of the other"
    assert {one: stored.get(one) for one in acknowledged} == acknowledged


async def test_desk_survives_kills(tmp_path: Path) -> None:
    """At the desk every acknowledged label stands once, with one line in the ledger, and nobody is refused or logged out."""
    guard = ServedGuard(tmp_path)
    publish_toy(guard.exports)
    settings = GuardSettings(data_dir=guard.data_dir, exports_dir=guard.exports.folder)
    await crashes.prepare(settings, DESK_KILLS)
    await asyncio.to_thread(guard.start)
    try:
        found = await crashes.kill_while_labelling(guard, kills=DESK_KILLS, seed=SEED)
    finally:
        await asyncio.to_thread(guard.stop)
    assert found["acknowledged"] > DESK_KILLS
    wrong = ("lost", "twice", "changed", "labels_without_one_line", "lines_without_label")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert found["refused"] == {}


def _label(
    base_url: str,
    name: str,
    headers: dict[str, str],
    acknowledged: dict[tuple[int, str], Category],
    stop: threading.Event,
) -> None:
    """Label for as long as allowed; send a label that was not acknowledged again, under the same key."""
    client = httpx.Client(headers=headers, timeout=10)
    pending: dict[str, object] | None = None
    while not stop.is_set():
        try:
            if pending is None:
                response = client.post(f"{base_url}/review/next")
                if response.status_code != httpx.codes.OK:
                    stop.wait(0.05)
                    continue
                pick = response.json()["pick_id"]
                pending = {"pick_id": pick, "category": CATEGORIES[pick % 6], "idempotency_key": f"{name}-{pick}"}
            response = client.post(f"{base_url}/review/labels", json=pending)
        except httpx.HTTPError:
            stop.wait(0.02)
            continue
        if response.status_code == httpx.codes.CREATED:
            acknowledged[int(str(pending["pick_id"])), name] = Category(str(pending["category"]))
        if response.status_code in {httpx.codes.CREATED, httpx.codes.CONFLICT}:
            pending = None
    client.close()


async def _open_batch(settings: GuardSettings) -> None:
    """Put a batch of messages before the reviewers, as the learner does."""
    now = utc_now()
    arrivals = [
        Arrival(f"message {number}", None, "uncertain", 1.0, "0001", Category.NOT_HARMFUL, (1 / 6,) * 6, 1.0, now)
        for number in range(MESSAGES)
    ]
    async with open_store(settings) as store:
        await store.pool.add(arrivals, max_messages=MESSAGES)
        fence = await store.leases.acquire(LEARNER, "test", ttl=timedelta(minutes=10))
        assert fence is not None
        cycle = await store.cycles.open(
            fence=fence,
            strategy="random",
            seed=1,
            batch_size=MESSAGES,
            champion="0001",
            due_at=now + timedelta(hours=1),
        )
        async with store.database.read() as session:
            ids = (await session.scalars(select(Message.id))).all()
        picks = [Picked(message_id, {"strategy": "random"}, 1.0) for message_id in ids]
        await store.cycles.fill(cycle.id, picks, fence=fence, figures={})


async def _labels(settings: GuardSettings) -> list[Label]:
    async with open_store(settings) as store, store.database.read() as session:
        return list((await session.scalars(select(Label).where(Label.undone_at.is_(None)))).all())
