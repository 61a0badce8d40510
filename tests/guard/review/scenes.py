"""What tests of the desk's pages begin with: a judged cycle with all that a learner records, another open, conflicts."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from guard.store import Store
from guard.store.cycles import Picked
from guard.store.pool import AUDIT
from guard.store.states import CycleState, Role
from guard.taxonomy import CATEGORIES
from tests.guard.store.scenes import add, advance, arrival, label_all, learner, open_batch, open_cycle, pooled

SECRET: Final = "my landlord stole the canary"  # stands in every message: it must not be on the page
_CHAMPION: Final = [[9 if row == column else 0 for column in range(6)] for row in range(6)]
CHAMPION: Final = [[6, 3, 0, 0, 0, 0], *_CHAMPION[1:]]
CHALLENGER: Final = [[8, 1, 0, 0, 0, 0], *_CHAMPION[1:5], [1, 0, 0, 0, 0, 8]]
CHANGES: Final = [[6, 0, 0, 0, 0, 0], [2, 10, 0, 0, 0, 0], *_CHAMPION[2:5], [1, 0, 0, 0, 0, 8]]
MAP: Final[dict[str, Any]] = {
    "explained": 0.31,
    "clusters": [
        {"cluster": 0, "size": 41, "x": -0.5, "y": 0.25, "uncertainty": 0.75},
        {"cluster": 1, "size": 7, "x": 0.5, "y": -0.125, "uncertainty": 0.5},
    ],
    "picks": [
        {"cluster": 0, "audit": False, "x": -0.5, "y": 0.125},
        {"cluster": None, "audit": True, "x": 0.25, "y": 0.0},
    ],
}
REASON: Final = "macro-F1 changes by +0.9 points to 96.3, 95 % between -1.0 and +2.0"


def measures() -> dict[str, float]:
    """Return what the gate measures of the two tables, as `learner.report.metrics` and `learner.gate` name it."""
    figures = {"rows": 54.0, "macro_f1": 0.963, "champion.macro_f1": 0.954, "delta_macro_f1": 0.009, "flips": 1 / 51}
    for prefix, table in (("", CHALLENGER), ("champion.", CHAMPION)):
        for place, category in enumerate(CATEGORIES):
            figures[f"rows.{category}"] = 9.0
            figures[f"{prefix}recall.{category}"] = table[place][place] / 9
            figures[f"{prefix}precision.{category}"] = table[place][place] / sum(row[place] for row in table)
    return figures


async def judged_and_open(store: Store) -> None:
    """Judge the challenger 0002 of cycle 1 with two labels, open cycle 2 with a map, and leave two messages waiting."""
    fence = await learner(store)
    texts = [f"{SECRET} {number}" for number in range(6)]
    await add(store, *(arrival(text) for text in texts[:2]))
    await _fill(store, fence, {"pool": 2, "picked": 2, "audits": 0, "clusters": 1})
    await label_all(store, CATEGORIES[0], None)
    await judge(store, fence, [REASON])
    arrivals = [arrival(text, after=timedelta(hours=-number)) for number, text in enumerate(texts)]
    arrivals[4] = replace(arrivals[4], source="moderations")
    arrivals[5] = replace(arrivals[5], reason=AUDIT)
    await add(store, *arrivals[2:])
    await _fill(store, fence, {"pool": 4, "picked": 2, "audits": 1, "clusters": 2, "map": MAP})


async def judge(store: Store, fence: int, reasons: list[str]) -> None:
    """Judge the challenger 0002 of the latest cycle, whose batch was labelled or closed, and hold it for these reasons."""
    stages = (
        (CycleState.GENERATING, {"labels": {"labelled": 1, "unclear": 1, "returned": 0}}, None),
        (CycleState.TRAINING, {"generation": {"skipped": "no LLM key"}}, None),
        (CycleState.GATING, {"training": {"rows": 1}}, "0002"),
        (
            CycleState.HELD,
            {
                "gate": measures(),
                "confusion": {"champion": CHAMPION, "challenger": CHALLENGER, "changes": CHANGES},
            },
            None,
        ),
    )
    cycle = (await store.cycles.recent())[0]
    source = cycle.state
    for target, figures, challenger in stages:
        if not source.before(target):
            continue
        said = reasons if target.ended else []
        await store.cycles.advance(
            cycle.id, fence=fence, source=source, target=target, figures=figures, challenger=challenger, reasons=said
        )
        source = target


async def differ(store: Store) -> None:
    """Close what is open, and let two reviewers label twelve messages that both are asked about; they differ about three."""
    fence = await learner(store)
    if (before := await store.cycles.current()) is not None:
        await advance(store, before, fence, CycleState.HELD)
    for name in ("bob", "cyd"):
        await store.reviewers.add(name, Role.REVIEWER, "hash")
    cycle = await open_batch(store, fence, *(f"{SECRET} or not {number}" for number in range(12)))
    assert cycle.state is CycleState.LABELLING
    said = [CATEGORIES[number % 6] for number in range(12)]
    await label_all(store, *said, reviewer="bob")
    await label_all(store, CATEGORIES[5], None, CATEGORIES[4], *said[3:], reviewer="cyd")


async def _fill(store: Store, fence: int, figures: dict[str, Any]) -> None:
    cycle = await open_cycle(store, fence)
    picks = [Picked(message.id, {"strategy": "cluster", "cluster": 0}, 0.5) for message in (await pooled(store))[:2]]
    await store.cycles.fill(cycle.id, picks, fence=fence, figures={"selection": figures})
