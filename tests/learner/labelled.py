"""Around the variation stage: three labelled messages with their variations, and a cycle that has come so far."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.pool import Arrival
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.taxonomy import CATEGORIES, Category
from guard.text import normalise
from learner.settings import LearnerSettings
from learner.variations import vary
from tests.fakes.llm import FakeLLM

RASH = "what is this red rash on my arm"
RENT = "can my landlord keep the whole deposit"
SHARES = "should i put my savings into shares now"
LABELS = {RASH: Category.MEDICAL_ADVICE, RENT: Category.LEGAL_ADVICE, SHARES: Category.FINANCIAL_ADVICE}
VARIATIONS = {
    RASH: ["my forearm has come out in itchy bumps, why?", "Is reddened skin near the elbow something to treat?"],
    RENT: [
        "flat owner won't give the bond back, is that legal?",
        "Tenant here: what can I do about a withheld deposit?",
    ],
    SHARES: ["is it a good moment to buy an index fund", "Ten grand in the bank. Stock market or leave it?"],
}
JUDGED = {text: LABELS[seed] for seed, texts in VARIATIONS.items() for text in texts}


def arrival(store: Store, text: str, *, user: str | None = None) -> Arrival:
    """Return an uncertain verdict about a text, on its way into the pool."""
    return Arrival(
        text=text,
        user=user,
        reason="uncertain",
        inclusion_probability=1.0,
        model_version="0001",
        category=Category.NOT_HARMFUL,
        scores=(1 / len(CATEGORIES),) * len(CATEGORIES),
        uncertainty=1.0,
        seen_at=store.clock(),
    )


async def labelled_cycle(store: Store, labels: Mapping[str, Category | None]) -> tuple[Cycle, int]:
    """Bring texts through pool, selection and review; return the cycle in `generating` and the learner's fence."""
    now = store.clock()
    texts = {normalise(text): category for text, category in labels.items()}
    arrivals = [arrival(store, text, user=f"user-{number}") for number, text in enumerate(texts)]
    added = await store.pool.add(arrivals, max_messages=len(arrivals))
    assert added.new == len(texts)
    fence = await store.leases.acquire(LEARNER, "test", ttl=timedelta(hours=1))
    assert fence is not None
    cycle = await store.cycles.open(
        fence=fence, strategy="cluster", seed=1, batch_size=len(texts), champion="0001", due_at=now + timedelta(days=3)
    )
    pooled = [message async for batch in store.pool.texts() for message in batch]
    picks = [Picked(message.id, {}, None) for message in pooled]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={})
    while (held := await store.review.next("reviewer")) is not None:
        await store.review.label(held.pick_id, reviewer="reviewer", category=texts[held.text])
    cycle = await store.cycles.advance(cycle.id, fence=fence, source=CycleState.LABELLING, target=CycleState.GENERATING)
    return cycle, fence


async def no_pause(_: float) -> None:
    """Pause for no time."""


def learner(llm: FakeLLM, **changes: Any) -> LearnerSettings:
    """Return settings that lead to the fake."""
    return LearnerSettings(
        **{"llm_base_url": llm.base_url, "llm_api_key": "sk-fake", "variations": 2, "llm_model": "fake-1", **changes}
    )


async def stored(store: Store, cycle_id: int, fence: int) -> dict[str, tuple[Category, bool]]:
    """Return what training would see: text to category and whether it is a variation."""
    await store.variations.freeze(cycle_id, fence=fence)
    return {item.text: (item.category, item.variation) for item in await store.variations.snapshot(cycle_id)}


async def run_stage(
    store: Store, llm: FakeLLM, labels: dict[str, Category] | None = None, **changes: Any
) -> tuple[dict[str, Any], dict[str, tuple[Category, bool]]]:
    """Label, vary, and return the figures and what training would see."""
    cycle, fence = await labelled_cycle(store, labels or LABELS)
    figures = await vary(store, cycle, fence=fence, settings=learner(llm, **changes), pause=no_pause)
    return figures, await stored(store, cycle.id, fence)


def people(labels: dict[str, Category]) -> dict[str, tuple[Category, bool]]:
    return {text: (category, False) for text, category in labels.items()}
