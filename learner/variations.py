"""LLM variations of what people labelled (Algorithm 1's distillation step): labelled picks in, verified variations stored.

Takes its seeds from the store, asks through `dialogue` in the words of `prompts`, lets `verify` decide, and stores what
stands, one seed a transaction. What fails leaves people's labels as they are. `contrast` has what is left of the stage.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from guard.errors import BadConfiguration, Conflict
from guard.store import Store
from guard.store.rows import Cycle
from guard.store.variations import Seed
from guard.taxonomy import CATEGORIES, Category
from guard.text import normalise
from learner.contrast import Contrasts, Opinion
from learner.dialogue import Dialogue
from learner.llm import LLM, Pause, Spending, connect
from learner.prompts import TEMPLATE, variation_prompt
from learner.rates import Offer, accept_rates, quotas
from learner.settings import LearnerSettings
from learner.verify import Fate, Novelty, objection, settle

if TYPE_CHECKING:  # scikit-learn waits until a stage needs it
    from learner.dataset import Example

_SECTIONS: Final = ("llm", "variations")  # of a cycle's figures: where the store keeps the tally and the fates
_CONCURRENT_SEEDS: Final = 4

_log = structlog.get_logger(__name__)


async def vary(
    store: Store,
    cycle: Cycle,
    *,
    fence: int,
    settings: LearnerSettings,
    opinion: Opinion | None = None,
    corpus_texts: Collection[str] = (),
    counts: Mapping[Category, int] | None = None,
    dev: "Sequence[Example]" = (),
    pause: Pause = asyncio.sleep,
) -> dict[str, Any]:
    """Have every labelled pick of a cycle varied once, contrasts proposed, and return the cycle's figures.

    A seed takes one call for k variations and one for the judge, a contrast likewise. Whatever the LLM does, the stage
    ends by its deadline and within its spending caps, which hold for the cycle over restarts; seeds that were varied
    before are not touched.

    Args:
        fence: The learner's, so that one that lost its lease stores nothing.
        opinion: The champion's `(n, 6)` probabilities of n texts; counted, never decisive. Without it no contrasts.
        corpus_texts: Texts that no variation may repeat: the seed corpus with its dev, gate and must-pass texts.
        counts: Rows by category that people labelled: of a seed in a full one fewer variations are asked for, see
            `rates.quotas`.
        dev: What the champion's confusions are measured on; without rows no contrasts.
        pause: Waits before a retry; injected in tests.

    Returns:
        `seeds`, `full` (seeds of categories that want no variations), `calls`, `tokens`, a count for each `Fate` that
        occurred, `agree` and `disagree` (accepted variations on which the champion is of the label's opinion, or not),
        `rates` by category (see `rates.accept_rates`), `contrasts` (see `contrast`), `llm`, `judge`, `template` and
        `ended_early` (a reason or None). `skipped` gives the reason when no variation came of the stage.

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
        dialogue = Dialogue(llm, settings)
        seeds = await store.variations.pending(cycle.id)
        novelty = Novelty([*corpus_texts, *(seed.text for seed in seeds)])
        k = quotas(settings.variations, counts or {})
        await _Stage(store, cycle.id, fence, settings.seed, k, dialogue, spending, opinion, novelty).run(seeds)
        contrasts = None
        if settings.contrast_pairs and opinion is not None and dev:
            stage = Contrasts(
                store,
                cycle.id,
                fence,
                limit=settings.contrast_pairs,
                seed=settings.seed,
                dialogue=dialogue,
                spending=spending,
                opinion=opinion,
                dev=dev,
                corpus_texts=corpus_texts,
            )
            contrasts = await stage.run()
    found = {"seeds": 0, "calls": 0, "tokens": 0, Fate.ACCEPTED: 0, **await _counts(store, cycle.id)}
    incomplete = found.keys() & {Fate.FAILED, Fate.UNJUDGED} or await store.variations.pending(cycle.id)
    figures: dict[str, Any] = {
        **found,
        "rates": accept_rates(await _section(store, cycle.id, "offers")),
        **({} if contrasts is None else {"contrasts": contrasts}),
        "llm": settings.llm_model,
        "judge": settings.judge_model or settings.llm_model,
        "template": TEMPLATE,
        "ended_early": llm.ended if incomplete else None,
    }
    if figures["ended_early"] and not found[Fate.ACCEPTED]:
        figures["skipped"] = figures["ended_early"]
    _log.info("variations_ended", cycle=cycle.id, **figures)
    return figures


async def _counts(store: Store, cycle_id: int) -> dict[str, int]:
    """Return what was counted in this cycle so far, by this learner or one that was killed."""
    return {name: n for section in _SECTIONS for name, n in (await _section(store, cycle_id, section)).items()}


async def _section(store: Store, cycle_id: int, section: str) -> dict[str, int]:
    cycle = await store.cycles.get(cycle_id)
    return dict(cycle.figures.get(section, {})) if cycle is not None else {}


@dataclass(slots=True)
class _Stage:
    """One run over the seeds of a cycle."""

    store: Store
    cycle_id: int
    fence: int
    seed: int
    k: Mapping[Category, int]
    dialogue: Dialogue
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
        while self.dialogue.ended is None and (seed := next(waiting, None)) is not None:
            if await self._pends(seed):  # it may have been erased since: then it must not leave the house
                await self._vary(seed)

    async def _pends(self, seed: Seed) -> bool:
        return seed in await self.store.variations.pending(self.cycle_id)

    async def _vary(self, seed: Seed) -> None:
        fates: Counter[str] = Counter()
        tally: Counter[str] = Counter(seeds=1)
        accepted: list[str] = []
        offers = {}
        if k := self.k[seed.category]:
            candidates, offered = await self._candidates(seed, k, fates)
            accepted = await self._judged(seed, candidates, fates)
            offers = {Offer(seed.category, len(accepted), offered - fates[Fate.UNJUDGED]).name: 1}
            tally += Counter(await self._opinions(seed, accepted))
        else:
            tally["full"] = 1
        try:
            await self.store.variations.record(
                self.cycle_id,
                seed,
                accepted,
                fence=self.fence,
                llm=self.dialogue.writer,
                template=TEMPLATE,
                fates=dict(+fates),
                tally={**tally, **self.spending.report()},
                offers=offers,
            )
        except Conflict:
            if await self._pends(seed):  # then not the seed has gone, but the lease
                raise

    async def _candidates(self, seed: Seed, k: int, fates: Counter[str]) -> tuple[list[str], int]:
        """Ask for k variations of a seed; return those whose form and novelty allow them, and how many were offered."""
        text = normalise(seed.text)
        nonce = secrets.token_hex(8)
        prompt = variation_prompt(text, seed.category, k=k, nonce=nonce, rng=self._rng(seed))
        offered = [(raw, normalise(raw)) for raw in await self.dialogue.texts(prompt, most=k, fates=fates)]
        known = await self.store.variations.known([candidate for _, candidate in offered])
        siblings = Novelty([text])
        candidates = []
        for raw, candidate in offered:
            fate = objection(raw, candidate, seed=text, nonce=nonce)
            if fate is None and (candidate in known or siblings.knows(candidate) or self.novelty.knows(candidate)):
                fate = Fate.DUPLICATE
            if fate is None:
                siblings.add(candidate)
                candidates.append(candidate)
            else:
                fates[fate] += 1
        return candidates, len(offered)

    async def _judged(self, seed: Seed, candidates: Sequence[str], fates: Counter[str]) -> list[str]:
        """Ask the blind judge; return the candidates it puts where the reviewer put the seed, count all."""
        accepted = []
        verdicts = await self.dialogue.verdicts(candidates, rng=self._rng(seed))
        for candidate, verdict in zip(candidates, verdicts, strict=True):
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
        return random.Random(f"{self.seed}:{self.cycle_id}:{seed.pick_id}")  # noqa: S311 - styles and letters
