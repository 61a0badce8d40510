"""The stages as they run in service, one after the other, on a tiny random encoder."""

from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from guard.errors import Conflict
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.doubts import Suspicion
from guard.store.lease import LEARNER
from guard.store.pool import Arrival
from guard.store.states import CycleState
from guard.store.variations import LabelledText
from guard.taxonomy import Category
from learner.cycle import Loop
from learner.dataset import Corpus
from learner.progress import silent
from learner.settings import LearnerSettings
from learner.work import Work
from tests.conftest import Clock
from tests.learner.conftest import WORDS
from tests.learner.labelled import LABELS, labelled_cycle
from tests.learner.stages import walk

if TYPE_CHECKING:  # torch takes seconds to load
    from learner.challenger import Challenger


class _Doubting(Work):
    """Trains nothing, and doubts what it is told to."""

    suspicions: tuple[Suspicion, ...] = ()

    def _train(self, cycle_id: int, snapshot: Sequence[LabelledText]) -> "Challenger":
        assert {row.message_id for row in snapshot} == {1, 2, 3}
        return cast("Challenger", SimpleNamespace(version="0002", doubts=self.suspicions))


async def test_training_has_labels_looked_at_again(
    embedded: Store, guard_settings: GuardSettings, settings: LearnerSettings
) -> None:
    """Of the labels that a training suspects, the likeliest error waits for people when the version is there."""
    cycle, fence = await labelled_cycle(embedded, LABELS)
    await embedded.variations.freeze(cycle.id, fence=fence)
    labels = {row.message_id: row.category for row in await embedded.variations.snapshot(cycle.id)}
    work = _Doubting(embedded, Exports(guard_settings.exports_dir), settings)
    work.suspicions = tuple(Suspicion(id_, labels[id_], Category.NOT_HARMFUL, 0.9) for id_ in (2, 1))
    assert await work.train(cycle, fence=fence) == "0002"
    assert await embedded.doubts.count() == 1, "a batch of three has one label looked at again"
    (doubted,) = await embedded.doubts.waiting("somebody")
    assert (doubted.category, doubted.opinion) == (labels[2], Category.NOT_HARMFUL)
    with pytest.raises(Conflict):
        await work.train(cycle, fence=fence + 1)


@pytest.mark.slow
async def test_a_cycle_in_earnest(
    guard_settings: GuardSettings, settings: LearnerSettings, corpus: Corpus, clock: Clock
) -> None:
    """From a pool to a judged challenger through every real stage, with progress told on the way and no key needed."""
    from learner.challenger import build

    exports, told = Exports(guard_settings.exports_dir), set[str]()
    first = build(settings, exports, corpus, [], parent=None, cycle_id=None, progress=silent).version
    exports.promote(first, by="test", reason="the first")
    mine = settings.model_copy(update={"batch_size": 6, "pool_min": 10})
    answers = {f"hmm {one} {two}": c for c, words in WORDS.items() for one in words for two in words}
    async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
        arrivals = [
            Arrival(
                text=text,
                user=f"user {number}",
                reason="uncertain",
                inclusion_probability=1.0,
                model_version=first,
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
    assert (manifest.cycle_id, manifest.parent) == (cycle.id, first)
    assert exports.champion() == (cycle.challenger if cycle.state is CycleState.PROMOTED else first)
    assert "embedding" in told
    assert len(told) > 1
