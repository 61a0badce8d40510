"""How the variation stage ends when it cannot go on: an endpoint that is down, time, money, a kill, a lost lease."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from guard.errors import Conflict
from guard.store import Store
from guard.store.lease import LEARNER
from guard.taxonomy import CATEGORIES, Category
from learner.variations import vary
from learner.verify import Fate
from tests.conftest import Clock
from tests.fakes.llm import FakeLLM, Rehearsed, Reply, error, quoted, variations
from tests.learner.labelled import (
    JUDGED,
    LABELS,
    RASH,
    RENT,
    SHARES,
    VARIATIONS,
    labelled_cycle,
    learner,
    no_pause,
    people,
    run_stage,
    stored,
)


async def test_endpoint_that_is_down_costs_the_variations_only(embedded: Store) -> None:
    """The stage ends by itself, says why, and training has people's labels."""
    labels = {f"question number {n} about some rash": Category.MEDICAL_ADVICE for n in range(12)}
    with FakeLLM(error(503)) as llm:
        figures, seen = await run_stage(embedded, llm, labels)
        assert len(llm.requests) <= 3 * 4
    assert figures["skipped"] == figures["ended_early"] == ("the LLM failed 3 calls in a row, the last with: HTTP 503")
    assert seen == people(labels)


async def test_deadline_ends_the_stage_with_what_there_is(embedded: Store) -> None:
    """When the time is up the stage returns; what was accepted before stays."""

    def slow_but_once(request: dict[str, Any]) -> Reply:
        data = quoted(request)
        return Reply(hangs=True) if data in (RENT, SHARES) else Rehearsed(VARIATIONS, JUDGED)(request)

    with FakeLLM(slow_but_once) as llm:
        figures, seen = await run_stage(embedded, llm, llm_stage_s=1.9)
    assert figures["ended_early"] == "deadline: LEARNER_LLM_STAGE_S=1.9"
    assert "skipped" not in figures
    assert (figures["accepted"], figures["failed"]) == (2, 2)
    assert len(seen) == 5


async def test_spending_cap_ends_the_stage(embedded: Store) -> None:
    """No more calls are made than allowed, and the seeds that were not reached stay as they are."""
    labels = {f"question number {n} about some rash": Category.MEDICAL_ADVICE for n in range(12)}
    with FakeLLM(Rehearsed({}, {})) as llm:
        figures, seen = await run_stage(embedded, llm, labels, llm_max_calls=5)
        assert len(llm.requests) == 5
    assert figures["calls"] == 5
    assert figures["skipped"] == "spending cap: LEARNER_LLM_MAX_CALLS=5"
    assert seen == people(labels)


async def test_killed_learner_varies_no_seed_twice(embedded: Store) -> None:
    """After a kill between two seeds the next learner asks only for those that are left, on one account."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    answers = Rehearsed(VARIATIONS, JUDGED)
    stuck = threading.Event()

    def first_alone(request: dict[str, Any]) -> Reply:
        data = quoted(request)
        if data in (RENT, SHARES):
            stuck.set()
            return Reply(hangs=True)
        return answers(request)

    with FakeLLM(first_alone) as llm:
        run = asyncio.create_task(vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause))
        while not stuck.is_set() or len(await embedded.variations.pending(cycle.id)) == 3:
            await embedded.variations.count()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert {seed.text for seed in await embedded.variations.pending(cycle.id)} == {RENT, SHARES}
    with FakeLLM(answers) as llm:
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
        assert len(llm.requests) == 4
        assert not [request for request in llm.requests if RASH in request.prompt]
    assert (figures["seeds"], figures["accepted"], figures["calls"] >= 6) == (3, 6, True)
    assert len(await stored(embedded, cycle.id, fence)) == 9


async def test_spending_is_counted_over_restarts(embedded: Store) -> None:
    """A learner that resumes a cycle has only what the one before left of the cap."""
    labels = {f"question number {n} about some rash": Category.MEDICAL_ADVICE for n in range(12)}
    cycle, fence = await labelled_cycle(embedded, labels)
    with FakeLLM(Rehearsed({}, {})) as llm:
        for _ in range(3):
            figures = await vary(embedded, cycle, fence=fence, settings=learner(llm, llm_max_calls=5), pause=no_pause)
        assert len(llm.requests) == figures["calls"] == 5
    assert len(await embedded.variations.pending(cycle.id)) == 7


async def test_full_category_is_asked_for_less(embedded: Store) -> None:
    """The fuller a category, the fewer variations of its seeds; of one that overflows nothing is sent, and it is done."""
    labels = {RASH: Category.MEDICAL_ADVICE, RENT: Category.LEGAL_ADVICE, SHARES: Category.FINANCIAL_ADVICE}
    counts = dict.fromkeys(CATEGORIES, 100) | {Category.LEGAL_ADVICE: 200, Category.FINANCIAL_ADVICE: 900}
    cycle, fence = await labelled_cycle(embedded, labels)
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), counts=counts, pause=no_pause)
        asked = {quoted(r.json): r.json["messages"][0]["content"] for r in llm.requests if not r.judges}
    assert asked.keys() == {RASH, RENT}
    assert "with exactly 2 strings" in asked[RASH]
    assert "with exactly 1 strings" in asked[RENT]
    assert (figures["seeds"], figures["full"], figures["accepted"], figures[Fate.SURPLUS]) == (3, 1, 3, 1)
    assert figures["rates"].keys() == {Category.MEDICAL_ADVICE, Category.LEGAL_ADVICE}
    assert figures["ended_early"] is None
    assert await embedded.variations.pending(cycle.id) == []


async def test_second_run_has_nothing_to_do(embedded: Store) -> None:
    """Run again, the stage calls nobody and returns the same figures."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm:
        first = await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
        second = await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
        assert len(llm.requests) == 6
    assert second == first


async def test_learner_without_lease_stores_nothing(embedded: Store, clock: Clock) -> None:
    """Once another learner acts, the stage stops with a conflict and leaves every seed to the other."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    clock.advance(hours=2)
    await embedded.leases.acquire(LEARNER, "another", ttl=timedelta(hours=1))
    with FakeLLM(Rehearsed(VARIATIONS, JUDGED)) as llm, pytest.raises(Conflict, match="taken over"):
        await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
    assert len(await embedded.variations.pending(cycle.id)) == 3
    assert await embedded.variations.count() == 0


async def test_erased_message_is_neither_sent_nor_varied(embedded: Store) -> None:
    """A user erased while the stage runs: a text not yet sent is not sent, one under way leaves nothing behind."""
    labels = {f"question number {n} about some rash": Category.MEDICAL_ADVICE for n in range(6)}
    cycle, fence = await labelled_cycle(embedded, labels)
    loop = asyncio.get_running_loop()
    all_under_way = threading.Barrier(4, timeout=10)

    async def erase() -> None:
        for number in range(6):
            await embedded.pool.erase_user(f"user-{number}")

    def erasing(request: dict[str, Any]) -> Reply:
        if not isinstance(quoted(request), str):
            return Rehearsed({}, {}, default=Category.MEDICAL_ADVICE)(request)
        if all_under_way.wait() == 0:
            asyncio.run_coroutine_threadsafe(erase(), loop).result()
        all_under_way.wait()
        return variations("my forearm has come out in bumps")

    with FakeLLM(erasing) as llm:
        figures = await vary(embedded, cycle, fence=fence, settings=learner(llm), pause=no_pause)
        assert len([request for request in llm.requests if not request.judges]) == 4
    assert figures["accepted"] == 0
    assert await embedded.variations.count() == 0
