"""What the stages of a cycle consist of: embed ▶ cluster ▶ select, vary, train ▶ calibrate ▶ export, judge, promote.

`cycle.Loop` calls it and records what comes out. Whatever computes does so in a thread, so that the lease is renewed.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from guard.exports import Exports
from guard.store import Store
from guard.store.cycles import Picked
from guard.store.rows import Cycle
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES
from learner.progress import Progress, silent
from learner.settings import LearnerSettings

if TYPE_CHECKING:  # onnxruntime, scikit-learn and torch wait until a stage needs them
    from guard.bundle import Bundle
    from learner.challenger import Challenger
    from learner.cluster import Vectors
    from learner.dataset import Corpus
    from learner.gate import Judgement

_NEIGHBOURS: Final = 2_000  # labelled messages that a pick is compared with: seconds to embed


class Work:
    """The work of each stage; tests put quick work in its place.

    Args:
        store: Read, and written only where a stage stores what it makes as it goes.
        exports: Where the models are.
        settings: Everything the stages are tuned by.
        progress: Told how far a stage is.
    """

    def __init__(
        self, store: Store, exports: Exports, settings: LearnerSettings, *, progress: Progress = silent
    ) -> None:
        self._store = store
        self._exports = exports
        self._settings = settings
        self._progress = progress

    async def bootstrap(self) -> str:
        """Train, export and promote the first model, without fine-tuning; return its version."""
        return await asyncio.to_thread(self._bootstrap)

    async def refine(self) -> str | None:
        """Follow the first model with a better one; return its version, or None when there is nothing to follow."""
        return await asyncio.to_thread(self._refine)

    async def select(self, cycle: Cycle) -> tuple[list[Picked], dict[str, Any]]:
        """Embed the pool under the cycle's champion and choose the batch; return it with its figures."""
        from learner.embed import embed
        from learner.selection import ANCHORED, AUDIT, FEEDBACK, select, strategy
        from learner.surroundings import surround

        bundle = await asyncio.to_thread(self._bundle, cycle.champion)
        pool = await embed(
            self._store.pool.texts(),
            bundle,
            threads=self._settings.threads,
            total=await self._store.pool.size(),
            progress=self._progress,
        )
        audits = await self._store.pool.audits()
        drawn_at = await self._store.cycles.drawn_before(cycle.id)
        fresh = audits if drawn_at is None else await self._store.pool.audits(after=drawn_at)
        unsampled = await self._store.pool.unsampled()
        anchors, labels = await self._anchors(bundle) if cycle.strategy in ANCHORED else (None, None)
        layout: dict[str, Any] = {}
        picks = await asyncio.to_thread(
            select,
            pool,
            strategy(cycle.strategy, clusters=self._settings.clusters, anchors=anchors, anchor_labels=labels),
            size=cycle.batch_size,
            user_cap=self._settings.user_cap,
            seed=cycle.seed,
            audits=audits,
            fresh=frozenset(fresh),
            audit_share=self._settings.audit_share,
            reports=await self._store.reports.waiting(),
            feedback_share=self._settings.feedback_share,
            unsampled=unsampled,
            layout=layout,
        )
        picks = await asyncio.to_thread(surround, picks, pool, *await self._labelled(bundle))
        clusters = {pick.reason["cluster"] for pick in picks if "cluster" in pick.reason}
        offered = [id_ for id_ in pool.ids.tolist() if id_ in audits]
        figures = {
            "pool": len(pool),
            "picked": len(picks),
            "audits": sum(pick.reason["strategy"] == AUDIT for pick in picks),
            "reports": sum(pick.reason["strategy"] == FEEDBACK for pick in picks),
            "clusters": len(clusters),
            # what each draw was among: estimates share the picks of several cycles out by it
            "audits_fresh": sum(id_ in fresh for id_ in offered),
            "audits_stale": sum(id_ not in fresh for id_ in offered),
            "others": sum(id_ not in audits and id_ not in unsampled for id_ in pool.ids.tolist()),
        }
        return picks, figures | ({"map": layout} if layout else {})

    async def vary(self, cycle: Cycle, *, fence: int) -> dict[str, Any]:
        """Have the LLM write variations of what was labelled and return the stage's figures."""
        from learner.variations import vary

        bundle = await asyncio.to_thread(self._bundle, cycle.champion)
        corpus = await asyncio.to_thread(self._corpus)
        counts = await self._store.review.label_counts()
        labelled = Counter({category: number for category, number in counts.items() if category is not None})
        return await vary(
            self._store,
            cycle,
            fence=fence,
            settings=self._settings,
            opinion=lambda texts: bundle.score(texts)[0],
            corpus_texts=[e.text for e in (*corpus.train, *corpus.dev, *corpus.gate, *corpus.must_pass)],
            counts=Counter(e.category for e in corpus.train) + labelled,
            dev=corpus.dev,
        )

    async def train(self, cycle: Cycle, *, fence: int) -> str:
        """Train, calibrate and export a challenger on the cycle's frozen snapshot; return its version.

        The labels that the training suspects most are put before people again. A learner that is killed between the two
        leaves that to the next cycle, whose snapshot holds the same labels.
        """
        from learner.doubts import most

        made = await asyncio.to_thread(self._train, cycle.id, await self._store.variations.snapshot(cycle.id))
        await self._store.doubts.suspect(cycle.id, made.doubts, most=most(cycle.batch_size), fence=fence)
        return made.version

    async def judge(self, champion: str, challenger: str) -> "Judgement":
        """Judge a challenger against a champion on the gate set and the must-pass list."""
        return await asyncio.to_thread(self._judge, champion, challenger)

    async def promote(self, judgement: "Judgement", version: str, *, expected: str) -> None:
        """Move the champion pointer.

        Raises:
            Conflict: The champion is no longer the one the challenger was judged against.
        """
        from learner.promote import promote

        await asyncio.to_thread(promote, self._exports, judgement, version, expected=expected, by="learner")

    async def _labelled(self, bundle: "Bundle") -> "tuple[npt.NDArray[np.int64], Vectors]":
        """Return ids and vectors of the messages labelled last, those of the latest frozen snapshot."""
        texts = {row.message_id: row.text for row in await self._snapshot() if not row.variation}
        latest = sorted(texts)[-_NEIGHBOURS:]
        if not latest:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)
        _, vectors = await asyncio.to_thread(bundle.score, [texts[message_id] for message_id in latest])
        return np.array(latest, dtype=np.int64), vectors

    async def _anchors(self, bundle: "Bundle") -> "tuple[Vectors, npt.NDArray[np.int_]]":
        """Return vectors and categories of all that is labelled: the corpus and the latest frozen snapshot."""
        labelled = [(example.text, example.category) for example in (await asyncio.to_thread(self._corpus)).train]
        labelled += [(row.text, row.category) for row in await self._snapshot() if not row.variation]
        _, vectors = await asyncio.to_thread(bundle.score, [text for text, _ in labelled])
        return vectors, np.array([CATEGORIES.index(category) for _, category in labelled])

    async def _snapshot(self) -> list[LabelledText]:
        """Return the latest frozen data set."""
        for cycle in await self._store.cycles.recent():
            if snapshot := await self._store.variations.snapshot(cycle.id):
                return snapshot
        return []

    # the following run in threads, imports included: torch takes seconds to load, and the lease must be renewed meanwhile

    def _bootstrap(self) -> str:
        from learner.bootstrap import bootstrap

        return bootstrap(self._settings, self._exports, self._progress, quick=True)

    def _refine(self) -> str | None:
        from learner.bootstrap import refine

        return refine(self._settings, self._exports, self._progress)

    def _train(self, cycle_id: int, snapshot: Sequence[LabelledText]) -> "Challenger":
        from learner.challenger import build

        return build(
            self._settings,
            self._exports,
            self._corpus(),
            snapshot,
            parent=self._exports.champion(),
            cycle_id=cycle_id,
            progress=self._progress,
        )

    def _judge(self, champion: str, challenger: str) -> "Judgement":
        from learner.gate import judge

        return judge(self._bundle(champion), self._bundle(challenger), self._corpus(), self._settings)

    def _bundle(self, version: str) -> "Bundle":
        from guard.bundle import Bundle

        return Bundle.load(self._exports, version)

    def _corpus(self) -> "Corpus":
        from learner.dataset import Corpus

        return Corpus.load(self._settings.corpus_dir)
