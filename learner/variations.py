"""LLM variations of what people labelled (Algorithm 1's distillation step): labelled picks in, verified variations stored.

Takes its seeds from the store, asks through `llm` in the words of `prompts`, lets `verify` decide, and stores what
stands, one seed a transaction. What fails leaves people's labels as they are.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from guard.errors import BadConfiguration, Conflict
from guard.store import Store
from guard.store.rows import Cycle
from guard.store.variations import Seed
from guard.taxonomy import CATEGORIES
from guard.text import normalise
from learner.llm import LLM, Pause, Spending, connect
from learner.prompts import TEMPLATE, judge_prompt, read_variations, read_verdicts, variation_prompt
from learner.settings import LearnerSettings
from learner.verify import Fate, Novelty, objection, refuses, settle

Opinion = Callable[[Sequence[str]], npt.NDArray[np.float32]]

_SECTIONS: Final = ("llm", "variations")  # of a cycle's figures: where the store keeps the tally and the fates
_CONCURRENT_SEEDS: Final = 4
_WRITER_TEMPERATURE: Final = 1.0
_JUDGE_TEMPERATURE: Final = 0.0
_MODEL_CHARS: Final = 64  # the width of the column that names the LLM

_log = structlog.get_logger(__name__)


async def vary(
    store: Store,
    cycle: Cycle,
    *,
    fence: int,
    settings: LearnerSettings,
    opinion: Opinion | None = None,
    corpus_texts: Collection[str] = (),
    pause: Pause = asyncio.sleep,
) -> dict[str, Any]:
    """Have every labelled pick of a cycle varied once, and return the cycle's figures.

    A seed takes one call for k variations and one for the judge. Whatever the LLM does, the stage ends by its deadline
    and within its spending caps, which hold for the cycle over restarts; seeds that were varied before are not touched.

    Args:
        fence: The learner's, so that one that lost its lease stores nothing.
        opinion: The champion's `(n, 6)` probabilities of n texts; counted, never decisive.
        corpus_texts: Texts that no variation may repeat: the seed corpus with its dev, gate and must-pass texts.
        pause: Waits before a retry; injected in tests.

    Returns:
        `seeds`, `calls`, `tokens`, a count for each `Fate` that occurred, `agree` and `disagree` (accepted variations
        on which the champion is of the label's opinion, or not), `llm`, `judge`, `template` and `ended_early` (a reason
        or None). `skipped` gives the reason when no variation came of the stage.

    Raises:
        Conflict: The lease was lost.
        StoreUnavailable: The database does not answer.
    """
    if settings.variations == 0:
        return {"skipped": "LEARNER_VARIATIONS is 0"}
    try:
        client = connect(settings)
    except BadConfiguration as error:
        return {"skipped": error.detail}
    async with client:
        spent = await _counts(store, cycle.id)
        spending = Spending(
            settings.llm_max_calls, settings.llm_max_tokens, calls=spent.get("calls", 0), tokens=spent.get("tokens", 0)
        )
        llm = LLM(client, spending=spending, settings=settings, pause=pause, clock=store.clock)
        seeds = await store.variations.pending(cycle.id)
        novelty = Novelty([*corpus_texts, *(seed.text for seed in seeds)])
        await _Stage(store, cycle.id, fence, settings, llm, spending, opinion, novelty).run(seeds)
    counts = {"seeds": 0, "calls": 0, "tokens": 0, Fate.ACCEPTED: 0, **await _counts(store, cycle.id)}
    incomplete = counts.keys() & {Fate.FAILED, Fate.UNJUDGED} or await store.variations.pending(cycle.id)
    figures: dict[str, Any] = {
        **counts,
        "llm": settings.llm_model,
        "judge": settings.judge_model or settings.llm_model,
        "template": TEMPLATE,
        "ended_early": llm.ended if incomplete else None,
    }
    if figures["ended_early"] and not counts[Fate.ACCEPTED]:
        figures["skipped"] = figures["ended_early"]
    _log.info("variations_ended", cycle=cycle.id, **figures)
    return figures


async def _counts(store: Store, cycle_id: int) -> dict[str, int]:
    """Return what was counted in this cycle so far, by this learner or one that was killed."""
    cycle = await store.cycles.get(cycle_id)
    figures = cycle.figures if cycle is not None else {}
    return {name: number for section in _SECTIONS for name, number in figures.get(section, {}).items()}


@dataclass(slots=True)
class _Stage:
    """One run over the seeds of a cycle."""

    store: Store
    cycle_id: int
    fence: int
    settings: LearnerSettings
    llm: LLM
    spending: Spending
    opinion: Opinion | None
    novelty: Novelty
    _opinion_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, seeds: Sequence[Seed]) -> None:
        """Vary the seeds, a few at a time, until they or the LLM are at their end."""
        waiting = iter(seeds)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_CONCURRENT_SEEDS):
                    group.create_task(self._work(waiting))
        except ExceptionGroup as several:  # the caller knows Conflict and StoreUnavailable, not groups of them
            raise several.exceptions[0] from None

    async def _work(self, waiting: Iterator[Seed]) -> None:
        while self.llm.ended is None and (seed := next(waiting, None)) is not None:
            if await self._pends(seed):  # it may have been erased since: then it must not leave the house
                await self._vary(seed)

    async def _pends(self, seed: Seed) -> bool:
        return seed in await self.store.variations.pending(self.cycle_id)

    async def _vary(self, seed: Seed) -> None:
        fates: Counter[str] = Counter()
        accepted = await self._judged(seed, await self._candidates(seed, fates), fates)
        tally = {"seeds": 1, **await self._opinions(seed, accepted), **self.spending.report()}
        try:
            await self.store.variations.record(
                self.cycle_id,
                seed,
                accepted,
                fence=self.fence,
                llm=self.settings.llm_model[:_MODEL_CHARS],
                template=TEMPLATE,
                fates=dict(+fates),
                tally=tally,
            )
        except Conflict:
            if await self._pends(seed):  # then not the seed has gone, but the lease
                raise

    async def _candidates(self, seed: Seed, fates: Counter[str]) -> list[str]:
        """Ask for variations of a seed; return those whose form and novelty allow them, count the others."""
        k = self.settings.variations
        text = normalise(seed.text)
        nonce = secrets.token_hex(8)
        prompt = variation_prompt(text, seed.category, k=k, nonce=nonce, rng=self._rng(seed))
        answer = await self.llm.ask(prompt, model=self.settings.llm_model, temperature=_WRITER_TEMPERATURE)
        if answer is None or answer.refused:
            fates[Fate.FAILED if answer is None else Fate.REFUSED] += 1
            return []
        raws, malformed = read_variations(answer.content)
        if not raws and refuses(answer.content):
            fates[Fate.REFUSED] += 1
            return []
        fates[Fate.MALFORMED] += max(malformed, int(not raws))
        fates[Fate.SURPLUS] += max(0, len(raws) - k)
        named = [(raw, normalise(raw)) for raw in raws[:k]]
        known = await self.store.variations.known([candidate for _, candidate in named])
        siblings = Novelty([text])
        candidates = []
        for raw, candidate in named:
            fate = objection(raw, candidate, seed=text, nonce=nonce)
            if fate is None and (candidate in known or siblings.knows(candidate) or self.novelty.knows(candidate)):
                fate = Fate.DUPLICATE
            if fate is None:
                siblings.add(candidate)
                candidates.append(candidate)
            else:
                fates[fate] += 1
        return candidates

    async def _judged(self, seed: Seed, candidates: Sequence[str], fates: Counter[str]) -> list[str]:
        """Ask the blind judge; return the candidates it puts where the reviewer put the seed, count all."""
        if not candidates:
            return []
        options = list(CATEGORIES)
        self._rng(seed).shuffle(options)
        answer = await self.llm.ask(
            judge_prompt(candidates, options, nonce=secrets.token_hex(8)),
            model=self.settings.judge_model or self.settings.llm_model,
            temperature=_JUDGE_TEMPERATURE,
        )
        content = "" if answer is None or answer.refused else answer.content
        accepted = []
        for candidate, verdict in zip(
            candidates, read_verdicts(content, count=len(candidates), options=options), strict=True
        ):
            fate = settle(verdict, label=seed.category)
            if fate is Fate.ACCEPTED and self.novelty.knows(candidate):  # another seed was given it meanwhile
                fate = Fate.DUPLICATE
            fates[fate] += 1
            if fate is Fate.ACCEPTED:
                self.novelty.add(candidate)
                accepted.append(candidate)
        return accepted

    async def _opinions(self, seed: Seed, accepted: Sequence[str]) -> dict[str, int]:
        """Count on how many accepted variations the champion is of the reviewer's opinion."""
        if self.opinion is None or not accepted:
            return {}
        async with self._opinion_lock:  # one at a time: the model has its own threads
            probabilities = await asyncio.to_thread(self.opinion, accepted)
        agree = int((probabilities.argmax(axis=1) == CATEGORIES.index(seed.category)).sum())
        return {"agree": agree, "disagree": len(accepted) - agree}

    def _rng(self, seed: Seed) -> random.Random:
        """Return the seed's own source of chance, the same after a restart and in any order."""
        return random.Random(f"{self.settings.seed}:{self.cycle_id}:{seed.pick_id}")  # noqa: S311 - styles and letters
