"""The stages as they run in service, one after the other, on a tiny random encoder."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store
from guard.store.lease import LEARNER
from guard.store.pool import Arrival
from guard.store.states import CycleState
from guard.taxonomy import Category
from learner.cycle import Loop
from learner.settings import LearnerSettings
from learner.work import Work
from tests.conftest import Clock
from tests.learner.conftest import WORDS
from tests.learner.stages import walk


@pytest.mark.slow
async def test_a_cycle_in_earnest(
    guard_settings: GuardSettings,
    settings: LearnerSettings,
    built: tuple[Exports, str],
    clock: Clock,
    tmp_path: Path,
) -> None:
    """From a pool to a judged challenger through every real stage, with progress told on the way and no key needed."""
    shutil.copytree(built[0].folder, tmp_path / "exports")
    exports, told = Exports(guard_settings.exports_dir), set[str]()
    exports.promote(built[1], by="test", reason="the first")
    mine = settings.model_copy(update={"batch_size": 6, "pool_min": 10})
    answers = {f"hmm {first} {second}": c for c, words in WORDS.items() for first in words for second in words}
    async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
        arrivals = [
            Arrival(
                text=text,
                user=f"user {number}",
                reason="uncertain",
                inclusion_probability=1.0,
                model_version=built[1],
                category=Category.NOT_HARMFUL,
                scores=(1 / 6,) * 6,
                uncertainty=1.0,
                seen_at=clock(),
            )
            for number, text in enumerate(answers)
        ]
        await store.pool.add(arrivals, max_messages=1000)
        fence = await store.leases.acquire(LEARNER, "one", ttl=timedelta(hours=1))
        assert fence is not None
        work = Work(store, exports, mine, progress=lambda stage, _done, _total: told.add(stage))
        loop = Loop(store, exports, mine, work, fence=fence)
        assert (await walk(loop)).state is CycleState.LABELLING
        while (held := await store.review.next("ann")) is not None:
            await store.review.label(held.pick_id, reviewer="ann", category=answers[held.text])
        while not (cycle := (await store.cycles.recent(1))[0]).state.ended:
            await loop.step()
    assert cycle.state in {CycleState.PROMOTED, CycleState.HELD}, cycle.reasons
    assert cycle.reasons
    assert cycle.figures["training"] == {"rows": 6}
    assert "no LLM key" in cycle.figures["generation"]["skipped"]
    assert 0 <= cycle.figures["gate"]["macro_f1"] <= 1
    manifest = exports.manifest(str(cycle.challenger))
    assert (manifest.cycle_id, manifest.parent) == (cycle.id, built[1])
    assert exports.champion() == (cycle.challenger if cycle.state is CycleState.PROMOTED else built[1])
    assert "embedding" in told
    assert len(told) > 1
