"""The loop in gauges: what the store says, or that it says nothing."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from guard.errors import StoreUnavailable
from guard.loop import LoopGauges
from guard.metrics import Metrics
from guard.store import Store
from guard.store.cycles import add_figures
from guard.store.figures import Estimated
from guard.store.states import CycleState, MessageState
from guard.taxonomy import Category
from tests.conftest import Clock
from tests.guard.review.scenes import differ
from tests.guard.store.scenes import add, advance, arrival, label_all, learner, open_batch


class Gauges:
    """The gauges of a store, and a way to read them."""

    def __init__(self, store: Store) -> None:
        self.metrics = Metrics()
        self.loop = LoopGauges(store, self.metrics)

    async def refresh(self) -> None:
        """Bring them up to date, however fresh they are."""
        self.loop._read_at = -1e9
        await self.loop.refresh()

    def __call__(self, name: str, **labels: str) -> float | None:
        """Return a gauge's value."""
        return self.metrics.registry.get_sample_value(f"guard_{name}", labels)


@pytest.fixture
def gauges(store: Store) -> Gauges:
    """Gauges over the store."""
    return Gauges(store)


async def test_empty_store(gauges: Gauges) -> None:
    """An empty store is up, with nothing in it."""
    await gauges.refresh()
    assert gauges("store_up") == 1
    assert all(gauges("messages", state=state) == 0 for state in MessageState)
    assert all(gauges("cycles", state=state) == 0 for state in CycleState)
    assert all(gauges("labels", category=c) == 0 for c in (*Category, "unclear"))
    assert (gauges("pool_age_seconds"), gauges("labels_spent")) == (0, 0)


async def test_batch_under_way(gauges: Gauges, store: Store, clock: Clock) -> None:
    """While people label, pool, labels, batch, stage and lease are what they are."""
    fence = await learner(store)
    await open_batch(store, fence, "a", "b", "c", "d", "e")
    clock.advance(seconds=30)
    await label_all(store, Category.SELF_HARM, Category.SELF_HARM, None)
    await store.review.next("ben")
    await add(store, arrival("later"), arrival("latest", after=timedelta(seconds=10)))
    await gauges.refresh()
    states = ("labelled", "unclear", "contested", "waiting", "held")
    assert [gauges("batch", state=state) for state in states] == [2, 1, 0, 2, 1]
    assert [gauges("messages", state=s) for s in MessageState] == [2, 2, 2, 1, 0]
    assert (gauges("labels", category="self-harm"), gauges("labels", category="unclear")) == (2, 1)
    assert gauges("labels_spent") == 3
    assert gauges("pool_age_seconds") == 30
    assert gauges("cycle_stage_seconds", stage="labelling") == 30
    assert gauges("cycle_due_seconds", stage="labelling") == timedelta(days=3).total_seconds() - 30
    assert gauges("cycles", state="labelling") == 1
    assert gauges("learner_lease_seconds") == 30


async def test_agreement(gauges: Gauges, store: Store) -> None:
    """Conflicts are counted; a kappa is absent until there are messages enough that two people labelled."""
    await gauges.refresh()
    assert (gauges("review_conflicts"), gauges("review_kappa", bound="estimate")) == (0, None)
    await differ(store)
    await gauges.refresh()
    assert gauges("review_conflicts") == 3
    low, kappa, high = (gauges("review_kappa", bound=bound) or 0 for bound in ("lower", "estimate", "upper"))
    assert 0 < low < kappa < high < 1


async def test_lease_run_out(gauges: Gauges, store: Store, clock: Clock) -> None:
    """When nobody learns any more the lease's gauge falls below zero."""
    await learner(store)
    clock.advance(seconds=90)
    await gauges.refresh()
    assert gauges("learner_lease_seconds") == -30


async def test_cycle_ended(gauges: Gauges, store: Store) -> None:
    """A cycle that ended is in no stage; its gate's figures and the fates of its variations stay."""
    fence = await learner(store)
    cycle = await open_batch(store, fence, "a")
    await gauges.refresh()
    assert gauges("cycle_stage_seconds", stage="labelling") == 0
    for target in (CycleState.GENERATING, CycleState.TRAINING):
        await advance(store, cycle, fence, target)
    async with store.database.write() as session:
        await add_figures(session, cycle.id, "variations", {"accepted": 7, "not_novel": 2})
    await store.cycles.advance(
        cycle.id, fence=fence, source=CycleState.TRAINING, target=CycleState.GATING, challenger="0002"
    )
    await store.cycles.advance(
        cycle.id,
        fence=fence,
        source=CycleState.GATING,
        target=CycleState.HELD,
        figures={"gate": {"macro_f1": 0.75, "flips": 0.0}},
        reasons=["worse"],
    )
    await gauges.refresh()
    assert gauges("cycle_stage_seconds", stage="labelling") is None
    assert gauges("cycle_due_seconds", stage="labelling") is None
    assert gauges("gate", measure="macro_f1", model_version="0002") == 0.75
    assert (gauges("variations", fate="accepted"), gauges("variations", fate="not_novel")) == (7, 2)
    assert gauges("cycles", state="held") == 1


@pytest.mark.parametrize(
    ("figures", "outcome"),
    [
        ({"seeds": 3, "accepted": 12, "ended_early": None}, "complete"),
        ({"seeds": 3, "accepted": 2, "ended_early": "spending cap: LEARNER_LLM_MAX_CALLS=5"}, "ended_early"),
        ({"seeds": 3, "accepted": 0, "ended_early": "deadline", "skipped": "deadline"}, "ended_early"),
        ({"skipped": "LEARNER_VARIATIONS is 0"}, "skipped"),
    ],
)
async def test_variations_ended(gauges: Gauges, store: Store, figures: dict[str, Any], outcome: str) -> None:
    """How the latest stage of variations ended is told until the next one ends; before the first nothing is."""
    fence = await learner(store)
    cycle = await open_batch(store, fence, "a")
    await advance(store, cycle, fence, CycleState.GENERATING)
    await gauges.refresh()
    assert gauges("generation", outcome=outcome) is None
    source, target = CycleState.GENERATING, CycleState.HELD
    await store.cycles.advance(cycle.id, fence=fence, source=source, target=target, figures={"generation": figures})
    await open_batch(store, fence, "b")
    await gauges.refresh()
    outcomes = ("complete", "ended_early", "skipped")
    assert [name for name in outcomes if gauges("generation", outcome=name)] == [outcome]
    assert all(gauges("generation", outcome=name) is not None for name in outcomes)


async def test_error_rates(gauges: Gauges, store: Store, clock: Clock) -> None:
    """Rates have their bounds beside them; what is not known is absent, what is no longer estimated goes, labels stay."""

    def figure(measure: str, version: str | None, category: Category | None, value: float | None) -> Estimated:
        high = None if value is None else value + 0.1
        return Estimated(measure, version, category, value, value, high, 0.5, 7.5, clock(), clock())

    fence = await learner(store)
    medical, self_harm = Category.MEDICAL_ADVICE, Category.SELF_HARM
    known = [figure(m, "0001", medical, 0.2) for m in ("miss_rate", "false_alarm_rate", "precision", "cleared_rate")]
    unknown = [figure("miss_rate", "0001", self_harm, None)]
    drift = [figure("class_mix", None, None, 0.03), figure("uncertainty", None, None, None)]
    await store.figures.replace([*known, *unknown, *drift], fence=fence)
    await gauges.refresh()
    labels = {"category": "medical-advice", "model_version": "0001"}
    for measure in ("miss_rate", "false_alarm_rate", "precision", "cleared_rate"):
        bounds = [gauges(f"class_{measure}{end}", **labels) for end in ("", "_lower", "_upper")]
        assert bounds == [0.2, 0.2, pytest.approx(0.3)]
    absent = {"category": "self-harm", "model_version": "0001"}
    assert [gauges(f"class_miss_rate{end}", **absent) for end in ("", "_lower", "_upper")] == [None] * 3
    assert (gauges("class_labels", **labels), gauges("class_labels", **absent)) == (7.5, 7.5)
    assert (gauges("drift", measure="class_mix"), gauges("drift", measure="uncertainty")) == (0.03, None)
    await store.figures.replace([], fence=fence)
    await gauges.refresh()
    assert [gauges("class_miss_rate", **labels), gauges("class_labels", **labels)] == [None, None]
    assert gauges("drift", measure="class_mix") is None


async def test_reviewed_errors(gauges: Gauges, store: Store) -> None:
    """Labels that differ from the verdict are counted by both, from 0 on."""
    fence = await learner(store)
    await gauges.refresh()
    wrong = {"category": "legal-advice", "predicted": "self-harm"}
    assert gauges("reviewed_errors", **wrong) == 0
    await open_batch(store, fence, "a", "b")
    await label_all(store, Category.LEGAL_ADVICE, Category.SELF_HARM)
    await gauges.refresh()
    assert gauges("reviewed_errors", **wrong) == 1
    assert gauges("reviewed_errors", category="self-harm", predicted="self-harm") is None


class Blocked:
    """A query that waits until it is let go, then fails or answers."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked = 0
        self.free = asyncio.Event()
        self._error = error

    async def __call__(self) -> dict[MessageState, int]:
        """Wait."""
        self.asked += 1
        await self.free.wait()
        if self._error is not None:
            raise self._error
        return dict.fromkeys(MessageState, 0)


async def test_outage(gauges: Gauges, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer shows as 0 and in the log; when it answers again, as 1."""
    await gauges.refresh()
    broken = Blocked(StoreUnavailable("The database does not answer."))
    broken.free.set()
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(store.pool, "counts", broken)
        await gauges.refresh()
    assert gauges("store_up") == 0
    assert logs[-1]["event"] == "loop_unread"
    await gauges.refresh()
    assert gauges("store_up") == 1


async def test_slow_store_holds_no_scrape_up(gauges: Gauges, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape does not wait for a store that hangs, asks it once only, and the answer counts when it comes."""
    monkeypatch.setattr("guard.loop.WAIT_S", 0.01)
    hanging = Blocked()
    monkeypatch.setattr(store.pool, "counts", hanging)
    await gauges.refresh()
    await gauges.refresh()
    assert (gauges("store_up"), hanging.asked) == (0, 1)
    hanging.free.set()
    await gauges.loop.close()
    assert gauges("store_up") == 1


async def test_scrapes_share_a_reading(gauges: Gauges, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes that come together, or soon after one another, read the store once."""
    counting = Blocked()
    counting.free.set()
    monkeypatch.setattr(store.pool, "counts", counting)
    await asyncio.gather(*(gauges.loop.refresh() for _ in range(10)))
    await gauges.loop.refresh()
    assert counting.asked == 1


async def test_close_without_a_reading(gauges: Gauges) -> None:
    """Closing when nothing is read does nothing."""
    await gauges.loop.close()
    nothing: Any = gauges.loop._reading
    assert nothing is None
