"""A learner killed with SIGKILL in every stage of a cycle: the next one goes on, and nothing is done twice."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store, open_store, utc_now
from guard.store.pool import Arrival
from guard.store.rows import Cycle, Label, Variation
from guard.store.states import CycleState
from guard.taxonomy import Category
from tests.e2e.corpora import reworded
from tests.e2e.models import FirstModel
from tests.fakes.llm import FakeLLM, Rehearsed, Request

LEARNER = (sys.executable, "-m", "learner.cli")
BATCH = 6
LEASE_S = 2
STAGES = (
    CycleState.SELECTING,
    CycleState.LABELLING,
    CycleState.GENERATING,
    CycleState.TRAINING,
    CycleState.GATING,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_a_learner_killed_in_every_stage_does_none_twice(tmp_path: Path, first_model: FirstModel) -> None:
    """One cycle ends although its learner is killed once in each stage; labels, variations and export are there once."""
    answers = dict(first_model.answers)
    texts = sorted(answers)[: BATCH * 5]
    written = {text: [reworded(text, 0)] for text in texts}
    categories = answers | {v: answers[text] for text, (v,) in written.items()}
    settings = GuardSettings(data_dir=tmp_path / "var", exports_dir=tmp_path / "exports")
    first_model.install(settings.exports_dir)
    exports = Exports(settings.exports_dir)
    with FakeLLM(Rehearsed(written, categories)) as llm:
        environment = {
            **os.environ,
            "GUARD_DATA_DIR": str(settings.data_dir),
            "GUARD_EXPORTS_DIR": str(settings.exports_dir),
            "LEARNER_CORPUS_DIR": str(first_model.corpus),
            "LEARNER_BATCH_SIZE": str(BATCH),
            "LEARNER_BUDGET": str(BATCH),
            "LEARNER_POOL_MIN": str(len(texts)),
            "LEARNER_VARIATIONS": "1",
            "LEARNER_TICK_S": "0.2",
            "LEARNER_FINE_TUNE_EPOCHS": "0",
            "LEARNER_LEASE_S": str(LEASE_S),
            "OPENAI_BASE_URL": llm.base_url,
            "OPENAI_API_KEY": "local",
        }
        async with open_store(settings, create_keyring=True) as store:
            await _fill(store, texts)
            for stage in STAGES:
                with _learner(environment) as process:
                    await _until(store, stage)
                    await _until_midway(stage, exports, llm)
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                cycle = await store.cycles.current()
                assert cycle is not None
                assert cycle.state in {stage, _after(stage)}, "killed within the stage, or at its very end"
                if cycle.state is CycleState.LABELLING and stage is CycleState.LABELLING:
                    await _label(store, answers)
            with _learner(environment):
                ended = await _until_ended(store)
            requests = list(llm.requests)
            await _check(store, exports, ended, requests)


async def _check(store: Store, exports: Exports, cycle: Cycle, requests: list[Request]) -> None:
    assert cycle.state in {CycleState.PROMOTED, CycleState.HELD}, cycle.reasons
    assert [entry["stage"] for entry in cycle.timeline] == list(STAGES), "each stage was entered once, in order"
    assert cycle.labels_spent == BATCH
    of_cycle = [v for v in exports.versions() if exports.manifest(v).cycle_id == cycle.id]
    assert of_cycle == [cycle.challenger], "one export, however often training began"
    assert not list(exports.folder.glob(".*.partial")), "what the killed learner left half written is gone"
    moves = Counter(move.version for move in exports.promotions())
    assert max(moves.values()) == 1, "no version was promoted twice"
    async with store.database.read() as session:
        labels = (await session.scalars(select(Label))).all()
        variations = (await session.scalars(select(Variation))).all()
    assert len({label.message_id for label in labels}) == len(labels) == BATCH
    assert len({v.message_id for v in variations}) == len(variations) == BATCH, "one variation of each seed"
    asked = Counter(request.prompt for request in requests if not (request.judges or request.edits))
    assert sum(asked.values()) <= 2 * BATCH, "only what was under way when the learner died was asked again"


def _after(stage: CycleState) -> CycleState:
    following = [*STAGES[1:], CycleState.GATING]
    return following[STAGES.index(stage)]


@contextmanager
def _learner(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*LEARNER, "run"], env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


async def _fill(store: Store, texts: list[str]) -> None:
    arrivals = [
        Arrival(
            text=text,
            user=f"user-{number}",
            reason="uncertain",
            inclusion_probability=1.0,
            model_version="0001",
            category=Category.NOT_HARMFUL,
            scores=(1 / 6,) * 6,
            uncertainty=1.0,
            seen_at=utc_now(),
        )
        for number, text in enumerate(texts)
    ]
    await store.pool.add(arrivals, max_messages=1000)


async def _label(store: Store, answers: dict[str, Category]) -> None:
    while (held := await store.review.next("anna")) is not None:
        await store.review.label(held.pick_id, reviewer="anna", category=answers[held.text])


async def _until(store: Store, stage: CycleState) -> None:
    until = utc_now() + timedelta(seconds=120)
    while (cycle := await store.cycles.current()) is None or cycle.state is not stage:
        assert utc_now() < until, f"{stage} was not reached"
        await asyncio.sleep(0.005)


async def _until_midway(stage: CycleState, exports: Exports, llm: FakeLLM) -> None:
    """Wait until some seeds were varied, or an export is half written; the other stages are killed as they begin."""
    until = utc_now() + timedelta(seconds=120)
    while (stage is CycleState.GENERATING and len(llm.requests) < BATCH) or (
        stage is CycleState.TRAINING and not list(exports.folder.glob(".*.partial"))
    ):
        assert utc_now() < until, f"{stage} did not get midway"
        await asyncio.sleep(0.005)


async def _until_ended(store: Store) -> Cycle:
    until = utc_now() + timedelta(seconds=120)
    while await store.cycles.current() is not None:
        assert utc_now() < until, "the cycle did not end"
        await asyncio.sleep(0.05)
    (cycle,) = await store.cycles.recent()
    return cycle
