"""What the stages of a cycle consist of: embed ▶ cluster ▶ select, vary, train ▶ calibrate ▶ export, judge, promote.

`cycle.Loop` calls it and records what comes out. Whatever computes does so in a thread, so that the lease is renewed.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    from learner.cluster import Vectors
    from learner.dataset import Corpus
    from learner.gate import Judgement


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
        from learner.selection import ANCHORED, AUDIT, select, strategy

        bundle = await asyncio.to_thread(self._bundle, cycle.champion)
        pool = await embed(
            self._store.pool.texts(),
            bundle,
            threads=self._settings.threads,
            total=await self._store.pool.size(),
            progress=self._progress,
        )
        anchors, labels = await self._anchors(bundle) if cycle.strategy in ANCHORED else (None, None)
        layout: dict[str, Any] = {}
        picks = await asyncio.to_thread(
            select,
            pool,
            strategy(cycle.strategy, clusters=self._settings.clusters, anchors=anchors, anchor_labels=labels),
            size=cycle.batch_size,
            user_cap=self._settings.user_cap,
            seed=cycle.seed,
            audits=await self._store.pool.audits(),
            audit_share=self._settings.audit_share,
            layout=layout,
        )
        audits = sum(pick.reason["strategy"] == AUDIT for pick in picks)
        clusters = {pick.reason["cluster"] for pick in picks if "cluster" in pick.reason}
        figures = {"pool": len(pool), "picked": len(picks), "audits": audits, "clusters": len(clusters)}
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

    async def train(self, cycle: Cycle) -> str:
        """Train, calibrate and export a challenger on the cycle's frozen snapshot; return its version."""
        return await asyncio.to_thread(self._train, cycle.id, await self._store.variations.snapshot(cycle.id))

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

    async def _anchors(self, bundle: "Bundle") -> "tuple[Vectors, npt.NDArray[np.int_]]":
        """Return vectors and categories of all that is labelled: the corpus and the latest frozen snapshot."""
        labelled = [(example.text, example.category) for example in (await asyncio.to_thread(self._corpus)).train]
        for cycle in await self._store.cycles.recent():
            if snapshot := await self._store.variations.snapshot(cycle.id):
                labelled += [(row.text, row.category) for row in snapshot if not row.variation]
                break
        _, vectors = await asyncio.to_thread(bundle.score, [text for text, _ in labelled])
        return vectors, np.array([CATEGORIES.index(category) for _, category in labelled])

    # the following run in threads, imports included: torch takes seconds to load, and the lease must be renewed meanwhile

    def _bootstrap(self) -> str:
        from learner.bootstrap import bootstrap

        return bootstrap(self._settings, self._exports, self._progress, quick=True)

    def _refine(self) -> str | None:
        from learner.bootstrap import refine

        return refine(self._settings, self._exports, self._progress)

    def _train(self, cycle_id: int, snapshot: Sequence[LabelledText]) -> str:
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
