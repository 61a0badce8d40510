"""Contrast pairs: a labelled message and the smallest edit that moves it into the category the champion takes it for.

Dev rows and the champion's opinion come in; proposals for people to confirm go into the store, and none of them is
trained on before. After Gardner et al. (2020), Kaushik et al. (2020): edits made where the model's boundary is wrong.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from guard.errors import Conflict
from guard.store import Store
from guard.store.contrasts import Proposal
from guard.store.variations import Seed
from guard.taxonomy import CATEGORIES, Category
from guard.text import normalise
from learner.dialogue import Dialogue
from learner.llm import Spending
from learner.prompts import CONTRAST_TEMPLATE, EDITS, contrast_prompt
from learner.rates import jeffreys
from learner.verify import Fate, Novelty, edit_objection, resemblance, settle

if TYPE_CHECKING:
    from learner.dataset import Example

Opinion = Callable[[Sequence[str]], npt.NDArray[np.float32]]

_LEAST_LOW: Final = 0.01  # of a rate's lower bound: surely one message in a hundred, so 3 of 60 count and 2 do not
_MOST: Final = 3  # confusions a cycle: the pairs are few and should not be spread thin


@dataclass(frozen=True, slots=True)
class Confusion:
    """That the champion takes `rows` of a category's `of` dev rows for another; `low` is the rate's lower 95 % bound."""

    category: Category
    taken_for: Category
    rows: int
    of: int
    low: float


def confusions(labels: Sequence[Category], probabilities: npt.NDArray[np.float32]) -> list[Confusion]:
    """Return the ordered pairs of categories that a model surely confuses, the worst first.

    By its most probable category, not by its thresholds: those are lowered until little is cleared, and every false
    alarm that was paid for with it would count as a confusion.

    Args:
        labels: n labels.
        probabilities: `(n, 6)`.
    """
    truth = np.array([CATEGORIES.index(label) for label in labels], dtype=np.intp)
    table = np.zeros((len(CATEGORIES), len(CATEGORIES)), dtype=np.int_)
    np.add.at(table, (truth, probabilities.argmax(axis=1)), 1)
    found = [
        Confusion(
            category, other, int(table[i, j]), int(table[i].sum()), round(jeffreys(table[i, j], table[i].sum())[0], 4)
        )
        for i, category in enumerate(CATEGORIES)
        for j, other in enumerate(CATEGORIES)
        if i != j and table[i, j]
    ]
    sure = [confusion for confusion in found if confusion.low >= _LEAST_LOW]
    return sorted(sure, key=lambda confusion: -confusion.low)[:_MOST]


def plan(
    seeds: Sequence[Seed], probabilities: npt.NDArray[np.float32], confused: Sequence[Confusion]
) -> list[tuple[Seed, Category]]:
    """Return each seed of a confused category with the category to edit it into, in the order they should be asked for.

    The confusions take turns; within one the seed whose two probabilities lie nearest together comes first. A seed
    that two confusions want goes to the worse one.

    Args:
        probabilities: The champion's `(len(seeds), 6)`.
    """
    taken: set[int] = set()
    lists: list[list[tuple[Seed, Category]]] = []
    for confusion in confused:
        here, there = CATEGORIES.index(confusion.category), CATEGORIES.index(confusion.taken_for)
        margins = np.abs(probabilities[:, here] - probabilities[:, there])
        rows = [i for i, seed in enumerate(seeds) if seed.category is confusion.category and i not in taken]
        taken.update(rows)
        lists.append(
            [(seeds[i], confusion.taken_for) for i in sorted(rows, key=lambda i: (margins[i], seeds[i].pick_id))]
        )
    return [item for turn in zip_longest(*lists) for item in turn if item is not None]


@dataclass(slots=True)
class Contrasts:
    """One run over the seeds of a cycle.

    Args:
        fence: The learner's, so that one that lost its lease stores nothing.
        limit: Seeds asked about in one cycle, over restarts.
        seed: Of everything random.
        opinion: The champion's `(n, 6)` probabilities of n texts.
        dev: Rows the confusions are measured on; never the gate's.
        corpus_texts: Texts that no edit may repeat.
    """

    store: Store
    cycle_id: int
    fence: int
    limit: int
    seed: int
    dialogue: Dialogue
    spending: Spending
    opinion: Opinion
    dev: "Sequence[Example]"
    corpus_texts: Collection[str]

    async def run(self) -> dict[str, Any]:
        """Propose contrast pairs, one seed after the other, until the limit or the LLM's end; return the figures.

        Returns:
            `confusions`, and over restarts `seeds` that were asked about, the `proposed` and a count for each `Fate`
            that occurred among the rest.

        Raises:
            Conflict: The lease was lost.
            StoreUnavailable: The database does not answer.
        """
        confused = confusions([row.category for row in self.dev], await self._ask([row.text for row in self.dev]))
        left = self.limit - (await self._counts()).get("seeds", 0)
        if confused and left > 0 and self.dialogue.ended is None:
            seeds = await self.store.contrasts.pending({confusion.category for confusion in confused})
            planned = plan(seeds, await self._ask([normalise(seed.text) for seed in seeds]), confused)
            novelty = Novelty(self.corpus_texts)
            for seed, other in planned[:left]:
                # it may have been erased since: then it must not leave the house
                if self.dialogue.ended is None and await self.store.contrasts.pends(seed):
                    await self._propose(seed, other, novelty)
        counts = {"seeds": 0, "proposed": 0, **await self._counts()}
        return {**counts, "confusions": [asdict(confusion) for confusion in confused]}

    async def _propose(self, seed: Seed, other: Category, novelty: Novelty) -> None:
        fates: Counter[str] = Counter()
        edit = await self._edit(seed, other, novelty, fates)
        proposal = None
        if edit is not None:
            view = CATEGORIES[int((await self._ask([edit]))[0].argmax())]
            proposal = Proposal(edit, other, view, llm=self.dialogue.writer, template=CONTRAST_TEMPLATE)
            novelty.add(edit)
        counts = {"seeds": 1, "proposed": int(proposal is not None), **+fates}
        try:
            await self.store.contrasts.propose(
                self.cycle_id, seed, proposal, fence=self.fence, counts=counts, tally=self.spending.report()
            )
        except Conflict:
            if await self.store.contrasts.pends(seed):  # then not the seed has gone, but the lease
                raise

    async def _edit(self, seed: Seed, other: Category, novelty: Novelty, fates: Counter[str]) -> str | None:
        """Return the smallest edit of a seed that stands as the other category; count what does not."""
        text = normalise(seed.text)
        nonce = secrets.token_hex(8)
        prompt = contrast_prompt(text, seed.category, other, nonce=nonce)
        named = [(raw, normalise(raw)) for raw in await self.dialogue.texts(prompt, most=EDITS, fates=fates)]
        known = await self.store.variations.known([candidate for _, candidate in named])
        candidates: list[str] = []
        for raw, candidate in named:
            fate = edit_objection(raw, candidate, seed=text, nonce=nonce)
            if fate is None and (candidate in known or candidate in candidates or novelty.knows(candidate)):
                fate = Fate.DUPLICATE
            if fate is None:
                candidates.append(candidate)
            else:
                fates[fate] += 1
        rng = random.Random(f"{self.seed}:{self.cycle_id}:{seed.pick_id}")  # noqa: S311 - the order of options
        standing = []
        for candidate, verdict in zip(candidates, await self.dialogue.verdicts(candidates, rng=rng), strict=True):
            fate = settle(verdict, label=other)
            if fate is Fate.ACCEPTED:
                standing.append(candidate)
            else:
                fates[fate] += 1
        if not standing:
            return None
        fates[Fate.SURPLUS] += len(standing) - 1
        return max(standing, key=lambda candidate: resemblance(candidate, text))

    async def _ask(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if not texts:
            return np.zeros((0, len(CATEGORIES)), dtype=np.float32)
        return await asyncio.to_thread(self.opinion, texts)

    async def _counts(self) -> Mapping[str, int]:
        """Return what was counted in this cycle so far, by this learner or one that was killed."""
        cycle = await self.store.cycles.get(self.cycle_id)
        found: Mapping[str, int] = cycle.figures.get("contrasts", {}) if cycle is not None else {}
        return found
