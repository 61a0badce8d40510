"""The loop as its page shows it: store and exports come in, one frozen structure goes out, without any text of a message.

`review.loop` answers with it; `review.pictures` draws it. The numbers are those of the store and the manifests, unchanged.
"""

import asyncio
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import msgspec

from guard.curve import LOOKBACK, Expectation, Point, curve, expect
from guard.errors import BrokenExport, NotFound
from guard.exports import Exports, Hold, Manifest, Promotion
from guard.interval import Rate, wilson
from guard.review_schemas import BatchStatus
from guard.store import Store
from guard.store.rows import Cycle
from guard.store.states import CycleState, MessageState
from guard.taxonomy import CATEGORIES, Category

_BATCH: Final = 20  # LEARNER_BATCH_SIZE's default: what is asked about before the first cycle has opened
_SHOWN: Final = 20  # moves of the pointer


class Source(msgspec.Struct, frozen=True):
    """How many waiting messages came from somewhere for a reason."""

    source: str
    reason: str
    messages: int


class PoolFigures(msgspec.Struct, frozen=True):
    """What the store holds; `age_s` is that of the oldest waiting message."""

    size: int
    age_s: float | None
    sources: list[Source]
    states: dict[MessageState, int]
    labels: dict[str, int]
    labels_spent: int


class StageTime(msgspec.Struct, frozen=True):
    """A stage of a cycle; one under way has no end and the time so far."""

    stage: str
    started_at: datetime
    ended_at: datetime | None
    duration_s: float


class CycleFigures(msgspec.Struct, frozen=True):
    """A cycle; `figures` are what its stages recorded, but for the map and the tables."""

    id: int
    state: CycleState
    strategy: str
    batch_size: int
    labels_spent: int
    champion: str
    challenger: str | None
    opened_at: datetime
    closed_at: datetime | None
    stages: list[StageTime]
    reasons: list[str]
    figures: dict[str, Any]


class ClassFigures(msgspec.Struct, frozen=True):
    """Recall and precision of a category; None where the gate set has no message that tells."""

    category: Category
    recall: Rate | None
    precision: Rate | None


class Contest(msgspec.Struct, frozen=True):
    """The latest challenger at the gate.

    Args:
        measures: As /metrics has them in `guard_gate`.
        tables: `(6, 6)` counts: `champion`, `challenger` (labels by decisions) and `changes` (the champion's decisions by
            the challenger's); none where the cycle is older than they are.
        changed: How many messages of the gate set change verdict; None without the table.
    """

    cycle_id: int
    state: CycleState
    champion: str
    challenger: str
    reasons: list[str]
    measures: dict[str, float]
    before: list[ClassFigures]
    after: list[ClassFigures]
    tables: dict[str, list[list[int]]]
    changed: int | None


class Version(msgspec.Struct, frozen=True):
    """An export; None where its manifest cannot be read or does not say."""

    version: str
    role: str
    parent: str | None
    cycle_id: int | None
    created_at: datetime | None
    macro_f1: float | None


class ClusterMap(msgspec.Struct, frozen=True):
    """Where the clusters of the latest selection lie: see `learner.chart`, which measured it."""

    cycle_id: int
    explained: float
    clusters: list[dict[str, float]]
    picks: list[dict[str, Any]]


class Loop(msgspec.Struct, frozen=True):
    """Everything on the page."""

    champion: str | None
    hold: Hold | None
    pool: PoolFigures
    batch: BatchStatus | None
    cycles: list[CycleFigures]
    map: ClusterMap | None
    contest: Contest | None
    versions: list[Version]
    moves: list[Promotion]
    curve: list[Point]
    expectation: Expectation
    said: str = ""


async def read(store: Store, exports: Exports, said: str = "") -> Loop:
    """Read the loop.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    cycles = await store.cycles.recent(LOOKBACK)
    now = store.clock()
    judged = await store.cycles.last_judged()
    batch = await store.review.batch()
    points = curve(cycles)
    return Loop(
        champion=await asyncio.to_thread(exports.champion),
        hold=await asyncio.to_thread(exports.hold),
        pool=await _pool(store, now),
        batch=None if batch is None else BatchStatus(**asdict(batch), waiting=batch.waiting),
        cycles=[_cycle(cycle, now) for cycle in cycles],
        map=_map(cycles[0]) if cycles else None,
        contest=None if judged is None else _contest(judged),
        versions=await asyncio.to_thread(_versions, exports),
        moves=list(reversed((await asyncio.to_thread(exports.promotions))[-_SHOWN:])),
        curve=points,
        expectation=expect(points, cycles[0].batch_size if cycles else _BATCH),
        said=said,
    )


def by_class(measures: dict[str, float], prefix: str = "") -> list[ClassFigures]:
    """Return recall and precision with their intervals from the gate's measures, whose counts they imply."""
    found = []
    for category in CATEGORIES:
        rows = measures.get(f"rows.{category}", 0.0)
        recall = measures.get(f"{prefix}recall.{category}")
        precision = measures.get(f"{prefix}precision.{category}")
        right = 0.0 if recall is None else recall * rows
        found.append(
            ClassFigures(
                category,
                recall=None if recall is None or not rows else wilson(round(right), rows),
                # how often it was decided follows from how often that was right; where it never was, nothing does
                precision=wilson(round(right), round(right / precision)) if precision and round(right) else None,
            )
        )
    return found


async def _pool(store: Store, now: datetime) -> PoolFigures:
    states = await store.pool.counts()
    oldest = await store.pool.oldest()
    labels = await store.review.label_counts()
    return PoolFigures(
        size=states[MessageState.POOLED],
        age_s=None if oldest is None else (now - oldest).total_seconds(),
        sources=[Source(*found) for found in await store.pool.sources()],
        states=states,
        labels={**{c.value: labels.get(c, 0) for c in CATEGORIES}, "unclear": labels.get(None, 0)},
        labels_spent=await store.cycles.labels_spent(),
    )


def _cycle(cycle: Cycle, now: datetime) -> CycleFigures:
    figures = {section: value for section, value in cycle.figures.items() if section != "confusion"}
    if "selection" in figures:
        figures["selection"] = {name: value for name, value in figures["selection"].items() if name != "map"}
    return CycleFigures(
        id=cycle.id,
        state=cycle.state,
        strategy=cycle.strategy,
        batch_size=cycle.batch_size,
        labels_spent=cycle.labels_spent,
        champion=cycle.champion,
        challenger=cycle.challenger,
        opened_at=cycle.opened_at,
        closed_at=cycle.closed_at,
        stages=[_stage(entry, now) for entry in cycle.timeline],
        reasons=list(cycle.reasons),
        figures=figures,
    )


def _stage(entry: dict[str, Any], now: datetime) -> StageTime:
    started = datetime.fromisoformat(entry["started_at"])
    ended = None if entry["ended_at"] is None else datetime.fromisoformat(entry["ended_at"])
    return StageTime(entry["stage"], started, ended, ((ended or now) - started).total_seconds())


def _map(cycle: Cycle) -> ClusterMap | None:
    found = cycle.figures.get("selection", {}).get("map")
    return None if not found else ClusterMap(cycle.id, found["explained"], found["clusters"], found["picks"])


def _contest(cycle: Cycle) -> Contest:
    measures = {n: v for n, v in cycle.figures.get("gate", {}).items() if isinstance(v, int | float)}
    tables = cycle.figures.get("confusion", {})
    changes = tables.get("changes")
    compared = any(name.startswith("champion.") for name in measures)
    return Contest(
        cycle_id=cycle.id,
        state=cycle.state,
        champion=cycle.champion,
        challenger=str(cycle.challenger),
        reasons=list(cycle.reasons),
        measures=measures,
        before=by_class(measures, "champion.") if compared else [],
        after=by_class(measures),
        tables=tables,
        changed=None if changes is None else sum(map(sum, changes)) - sum(changes[i][i] for i in range(len(changes))),
    )


def _versions(exports: Exports) -> list[Version]:
    roles = {exports.shadow(): "shadow", exports.champion(): "champion"}
    found = []
    for version in reversed(exports.versions()):
        manifest: Manifest | None = None
        with suppress(BrokenExport, NotFound):  # pruned meanwhile, or broken: it is listed all the same
            manifest = exports.manifest(version)
        found.append(
            Version(
                version=version,
                role=roles.get(version, ""),
                parent=manifest.parent if manifest else None,
                cycle_id=manifest.cycle_id if manifest else None,
                created_at=manifest.created_at if manifest else None,
                macro_f1=manifest.metrics.get("macro_f1") if manifest else None,
            )
        )
    return found
