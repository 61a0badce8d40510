"""The store's labels, draws and verdicts come in; error rates and drift go out, for `store.figures` and the terminal."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from guard.store import Store
from guard.store.entries import Reviewed, Traffic
from guard.store.figures import Estimated
from guard.taxonomy import CATEGORIES, Category
from learner.drift import drift
from learner.estimate import Floats, Sample, rates
from learner.weights import stands_for

LATEST: Final = timedelta(days=7)  # of traffic, held against all of the window before it


@dataclass(frozen=True, slots=True)
class Window:
    """Verdicts of which time the figures are about: to the opening of the last batch that people are done with."""

    since: datetime
    until: datetime


async def estimate(store: Store, *, days: int) -> list[Estimated]:
    """Return error rates of every version and category, and drift, over the verdicts of the last days.

    Args:
        days: No more than unlabelled messages are kept: without those that nobody was asked about, the others weigh
            too little.
    """
    now = store.clock()
    since = now - timedelta(days=days)
    return [*await _error_rates(store, since), *await _drift(store, since, now)]


async def _error_rates(store: Store, since: datetime) -> list[Estimated]:
    batches = await store.entries.batches()
    window = Window(since, max((batch.opened_at for batch in batches), default=since))
    weights = stands_for(batches, await store.entries.drawn())
    votes = {message_id: _shares(said) for message_id, said in (await store.entries.votes()).items()}
    totals: defaultdict[str, Floats] = defaultdict(lambda: np.zeros((2, len(CATEGORIES))))
    for kind in await store.entries.traffic(window.since, window.until):
        _add(totals[kind.model_version], kind)
    by_version: defaultdict[str, list[Reviewed]] = defaultdict(list)
    for row in await store.entries.reviewed(window.since, window.until):
        if weights.get(row.message_id):
            by_version[row.model_version].append(row)
    found: list[Estimated] = []
    for version, rows in sorted(by_version.items()):
        for (measure, category), rate in rates(_sample(rows, weights, votes, totals[version])).items():
            found.append(
                Estimated(
                    measure=measure.value,
                    model_version=version,
                    category=category,
                    value=rate.value,
                    low=rate.low,
                    high=rate.high,
                    naive=rate.naive,
                    labels=rate.labels,
                    since=window.since,
                    until=window.until,
                )
            )
    return found


async def _drift(store: Store, since: datetime, now: datetime) -> list[Estimated]:
    split = now - LATEST
    before, latest = await store.entries.mix(since, split), await store.entries.mix(split, now)
    return [
        Estimated(
            measure=measure.value,
            model_version=None,
            category=None,
            value=value,
            low=None,
            high=None,
            naive=None,
            labels=0.0,
            since=split,
            until=now,
        )
        for measure, value in drift(before, latest).items()
    ]


def _sample(
    rows: Sequence[Reviewed], weights: Mapping[int, float], votes: Mapping[int, Floats], totals: Floats
) -> Sample:
    """Return one row for all verdicts of one kind about a message, whatever the day."""
    verdicts: defaultdict[tuple[int, Category, bool], float] = defaultdict(float)
    single: defaultdict[tuple[int, Category, bool], float] = defaultdict(float)
    for row in rows:
        key = (row.message_id, row.category, row.certain)
        verdicts[key] += row.verdicts
        single[key] = max(single[key], 1 / row.probability)
    messages = np.array([weights[message_id] for message_id, _, _ in verdicts])
    return Sample(
        verdicts=np.array([CATEGORIES.index(category) for _, category, _ in verdicts]),
        certain=np.array([certain for _, _, certain in verdicts]),
        votes=np.array([votes[message_id] for message_id, _, _ in verdicts]),
        weights=messages * np.array(list(verdicts.values())),
        single=messages * np.array(list(single.values())),
        totals=totals,
    )


def _shares(said: Sequence[Category]) -> Floats:
    counts = np.bincount([CATEGORIES.index(category) for category in said], minlength=len(CATEGORIES))
    return np.asarray(counts / len(said), dtype=np.float64)


def _add(totals: Floats, kind: Traffic) -> None:
    totals[int(kind.certain), CATEGORIES.index(kind.category)] += kind.verdicts
