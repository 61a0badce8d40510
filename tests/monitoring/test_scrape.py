"""A real Prometheus scrapes a guard that is at work: every expression of rules and dashboard has data."""

import asyncio
import math
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import httpx
import pytest

from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.cycles import add_figures
from guard.store.figures import Estimated
from guard.store.lease import LEARNER
from guard.store.states import CycleState, PairVerdict, Role
from guard.taxonomy import Category
from learner.drift import Drift
from learner.estimate import Measure
from tests.guard.store.scenes import TTL, add, advance, arrival, label_all, open_batch
from tests.monitoring.expressions import alerts, awaits, panels, rules, selectors, shown
from tests.monitoring.programs import program
from tests.monitoring.server import STEP_S, Prometheus
from tests.served import ServedGuard, wait_for
from tests.toys import VOTES, publish_toy

pytestmark = pytest.mark.slow

_LABELS: Final = 63
_PATIENCE_S: Final = 150  # for what takes a few scrapes
# what Grafana puts in for its variables; a rate over fewer than two scrapes has no data
_CHOSEN: Final = {"$__rate_interval": f"{STEP_S * 8:.0f}s", "$__range": "5m", "$category": "self-harm"}
_INSTANT: Final = {target["expr"] for panel in panels() for target in panel["targets"] if target["instant"]}


class Watched:
    """A guard at work and the Prometheus that watches it."""

    def __init__(self, guard: ServedGuard, prometheus: Prometheus) -> None:
        self.guard = guard
        self.prometheus = prometheus
        self._began = time.time()

    def work(self) -> None:
        """Send what chatbots, scanners and reviewers send: harm, doubt, jokes, disguises, errors and labels."""
        with httpx.Client(base_url=self.guard.base_url, trust_env=False, timeout=30) as client:
            for word in VOTES:
                client.post("/classify", json={"text": f"{word} {time.time_ns()}"})
            client.post("/classify", json={"text": "sue"})
            client.post("/classify", json={"texts": ["h u r t", "rash " * 200]})
            client.post("/v1/moderations", json={"input": "I want to die"})
            client.post("/classify", json={"text": ""})
            client.get("/nothing")
            client.get("/readyz")
            client.post("/review/next")
            text = f"joke {time.time_ns()}"
            answer = client.post("/classify", json={"text": text}).json()
            report = {"id": answer["id"], "text": text, "category": "self-harm", "source": "person"}
            client.post("/feedback", json=report)

    def values(self, expression: str) -> list[float]:
        """Return what a panel would draw of an expression, gaps left out."""
        for name, value in _CHOSEN.items():
            expression = expression.replace(name, value)
        if expression in _INSTANT:
            found = self.prometheus.instant(expression)
        else:
            found = self.prometheus.over_time(expression, seconds=time.time() - self._began)
        return [value for value in found if not math.isnan(value)]

    def empty(self, expressions: set[str]) -> set[str]:
        """Go on until each expression has had data, and return those that never had any."""
        until = time.monotonic() + _PATIENCE_S
        waiting = {expression for expression in expressions if not self.values(expression)}
        while waiting and time.monotonic() < until:
            self.work()
            waiting = {expression for expression in waiting if not self.values(expression)}
        return waiting


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A guard with a champion, a version on trial and a loop under way, at work and watched."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    guard = ServedGuard(folder, audit_rate=1, shadow_share=1, watch_interval_ms=50, intake_flush_ms=1)
    publish_toy(guard.exports, default=None, strength=60)
    other = {**VOTES, "sue": Category.NOT_HARMFUL}
    guard.exports.set_shadow(publish_toy(guard.exports, votes=other, default=None, strength=60, promote=False))
    with guard, Prometheus(folder, guard) as prometheus:
        settings = GuardSettings(data_dir=guard.data_dir)
        watched = Watched(guard, prometheus)
        asyncio.run(_train(settings))
        stage = 'lifeguard:cycle_stage_seconds{stage="training"}'
        wait_for(lambda: bool(watched.values(stage)), timeout_s=_PATIENCE_S)
        asyncio.run(_go_on(settings))
        yield watched


async def _train(settings: GuardSettings) -> None:
    """Write down a cycle whose labels are given and whose challenger is in training."""
    async with open_store(settings) as store:
        fence = await store.leases.acquire(LEARNER, "learner", ttl=TTL * 60)
        assert fence is not None
        for name in ("ann", "bob"):
            await store.reviewers.add(name, Role.REVIEWER, "hash")
        cycle = await open_batch(store, fence, *(f"text {n}" for n in range(_LABELS)))
        categories = [*Category, None]
        for name, shift in (("ann", 0), ("bob", 1)):  # they differ about the last one
            said = [categories[(n + shift * (n == _LABELS - 1)) % len(categories)] for n in range(_LABELS)]
            await label_all(store, *said, reviewer=name)
        await advance(store, cycle, fence, CycleState.GENERATING)
        await _check(store, cycle.id, fence)
        async with store.database.write() as session:
            await add_figures(session, cycle.id, "variations", {"accepted": 7, "mislabelled": 2})
        figures = {"generation": {"accepted": 7, "ended_early": None}}
        source, target = CycleState.GENERATING, CycleState.TRAINING
        await store.cycles.advance(cycle.id, fence=fence, source=source, target=target, figures=figures)
        await store.figures.replace([*_rates(store.clock()), *_drifts(store.clock())], fence=fence)


async def _check(store: Store, cycle_id: int, fence: int) -> None:
    """Have variations written for every labelled message, and most of them checked."""
    for seed in await store.variations.pending(cycle_id):
        texts = [f"variation {n} of {seed.text}" for n in (1, 2)]
        await store.variations.record(cycle_id, seed, texts, fence=fence, llm="m", template="t", fates={})
    pair = await store.pairs.next("ann")
    for _ in range(100):  # of 108, so at least 10 of each of the six categories' 18
        assert pair is not None
        pair = await store.pairs.decide(pair.kind, pair.id, verdict=PairVerdict.HOLDS, reviewer="ann")


def _rates(now: datetime) -> Iterator[Estimated]:
    """Yield error rates of the champion, each below its target."""
    for measure in Measure:
        for category in Category:
            if measure is not Measure.CLEARED_RATE or category is not Category.NOT_HARMFUL:
                yield Estimated(
                    measure=measure.value,
                    model_version="0001",
                    category=category,
                    value=0.04,
                    low=0.01,
                    high=0.09,
                    naive=0.2,
                    labels=63,
                    since=now,
                    until=now,
                )


def _drifts(now: datetime) -> Iterator[Estimated]:
    for measure in Drift:
        yield Estimated(
            measure=measure.value,
            model_version=None,
            category=None,
            value=0.02,
            low=None,
            high=None,
            naive=None,
            labels=0,
            since=now,
            until=now,
        )


async def _go_on(settings: GuardSettings) -> None:
    """Have that cycle promoted, and the next one's batch labelled in part."""
    async with open_store(settings) as store:
        fence = await store.leases.acquire(LEARNER, "learner", ttl=TTL * 60)
        cycle = await store.cycles.current()
        assert fence is not None
        assert cycle is not None
        source, target = CycleState.TRAINING, CycleState.GATING
        await store.cycles.advance(cycle.id, fence=fence, source=source, target=target, challenger="0002")
        figures = {"gate": {"macro_f1": 0.75, "flips": 0.01}}
        source, target = CycleState.GATING, CycleState.PROMOTED
        await store.cycles.advance(cycle.id, fence=fence, source=source, target=target, figures=figures)
        await open_batch(store, fence, "d", "e", "f")
        await label_all(store, Category.LEGAL_ADVICE)
        await add(store, arrival("g"))


def test_the_guard_is_scraped(watched: Watched) -> None:
    """Prometheus takes the whole exposition, in which it finds nothing to complain about."""
    assert watched.empty({"up == 1"}) == set()
    text = httpx.get(f"{watched.guard.base_url}/metrics", trust_env=False).text
    command = [program("promtool"), "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


def test_every_rule_has_data(watched: Watched) -> None:
    """Each recording rule has a value, and each series of an alert is there for it to be silent about."""
    expressions = {rule.expression for rule in rules() if not rule.alert}
    expressions |= {selector for alert in alerts() for selector in selectors(alert.expression)}
    assert watched.empty({one for one in expressions if not awaits(one)}) == set()


def test_every_panel_has_data(watched: Watched) -> None:
    """No query of the dashboard comes back empty, annotations included."""
    assert watched.empty({expression for _, expression in shown() if not awaits(expression)}) == set()


def test_what_is_awaited_is_not_there(watched: Watched) -> None:
    """What is excused from having data has none; an excuse that is no longer needed goes."""
    excused = {expression for _, expression in shown() if awaits(expression)}
    excused |= {rule.expression for rule in rules() if not rule.alert and awaits(rule.expression)}
    assert {one for one in excused if watched.values(one)} == set()


def test_every_rule_is_evaluated(watched: Watched) -> None:
    """Prometheus evaluates every rule without an error, and no alert fires for a guard that does its work."""
    assert watched.empty({"lifeguard:learner_lease_seconds", "lifeguard:drift:target"}) == set()
    found = watched.prometheus.rules()
    assert len(found) == len(rules())
    assert {rule["name"]: rule["lastError"] for rule in found if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in found if rule.get("state") == "firing"] == []
