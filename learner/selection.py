"""The embedded pool comes in; the batch for people goes out, with the reason for each pick and never a text.

The audit draw and what was reported take their shares, a query strategy, found by its name, the rest. `embed` stands before it, the store's
`fill` after.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from guard.errors import BadConfiguration
from guard.store.cycles import Picked
from guard.store.reports import Reported
from guard.taxonomy import CATEGORIES
from learner.chart import chart
from learner.cluster import Rows, UnitRows, Vectors, leaders, unit
from learner.embed import Embedded
from learner.rivals import Badge, ClusterMargin, Margin, Rare, Stochastic
from learner.strategies import (
    Candidates,
    Choice,
    Cluster,
    Coreset,
    Groups,
    Random,
    Stand,
    Strategy,
    TopN,
    uniform,
)

STRATEGIES: Final = ("cluster", "random", "topn", "coreset", "margin", "cluster-margin", "badge", "stochastic", "rare")
ANCHORED: Final = ("coreset", "rare")  # they look at what is labelled already
AUDIT: Final = "audit"  # stands in a reason where a strategy's name does
FEEDBACK: Final = "feedback"  # so does this

__all__ = [
    "ANCHORED",
    "AUDIT",
    "FEEDBACK",
    "STRATEGIES",
    "Badge",
    "Cluster",
    "ClusterMargin",
    "Coreset",
    "Margin",
    "Random",
    "Rare",
    "Stochastic",
    "Strategy",
    "TopN",
    "select",
    "strategy",
]


def strategy(
    name: str,
    *,
    clusters: int | None = None,
    anchors: Vectors | None = None,
    anchor_labels: npt.NDArray[np.int_] | None = None,
) -> Strategy:
    """Return a strategy by its name.

    Args:
        name: One of `STRATEGIES`.
        clusters: m; by `cluster_count` when None.
        anchors: `(a, d)` vectors of what is labelled already, for those in `ANCHORED`.
        anchor_labels: `(a,)` its categories, as indices into `CATEGORIES`.

    Raises:
        BadConfiguration: There is none of that name.
    """
    every: tuple[Strategy, ...] = (
        Cluster(clusters),
        Random(),
        TopN(),
        Coreset(anchors),
        Margin(),
        ClusterMargin(),
        Badge(),
        Stochastic(clusters),
        Rare(anchors, anchor_labels, clusters),
    )
    for one in every:
        if str(one) == name:
            return one
    raise BadConfiguration(f"LEARNER_STRATEGY is {name[:40]!r}: choose one of {', '.join(STRATEGIES)}.")


def select(
    pool: Embedded,
    by: Strategy,
    *,
    size: int,
    user_cap: int,
    seed: int,
    audits: Mapping[int, float] = MappingProxyType({}),
    fresh: frozenset[int] = frozenset(),
    audit_share: float = 0.0,
    reports: Mapping[int, Reported] = MappingProxyType({}),
    feedback_share: float = 0.1,
    unsampled: Collection[int] = frozenset(),
    layout: dict[str, Any] | None = None,
) -> list[Picked]:
    """Choose the batch that people label: the strategy's picks, best first, the audit's at random places among them.

    What was reported as wrong has a draw of its own, uniform and of at most its share, so that whoever reports a lot
    decides about no more of the batch than that; the strategy never sees it. So an uncertain message that was reported
    keeps a known probability, that of this draw; what nothing but a report brought in has none.

    The audit draw is uniform over the audit arrivals, whatever the strategy: first over the fresh ones, and over all
    others only where these are too few. So each arrival has one good chance, and all labels weigh alike; were it over
    all of them every time, those of the first of ten batches would have had ten chances and those of the last one, and
    error rates would have the noise of 0.6 of the labels. A pick's probability is that of the message being in the pool
    times that of its draw here, so that it weighs back to the traffic. Three things keep it known:

    * The strategy never sees audit arrivals. Were it to take the most uncertain of them, those left for the next cycle's
      draw would be the easy ones.
    * Near-duplicates and users above the cap are thinned out before the draw, by draws whose probabilities count
      (`strategies.Stand`), instead of refused after it. Exempting audit picks would keep the probability, too, but let
      one user who writes a lot have a fifth of what is learned.
    * The draw comes first. What it takes counts towards the caps and stands for its near-duplicates, which the strategy
      then passes over; the strategy's own probabilities are given that.

    Each gives room to the other where it cannot fill its own: the audit where there are too few audit arrivals, the
    strategy where there are too few other messages.

    Args:
        pool: The embedded pool.
        by: The query strategy.
        size: N; fewer come out when the pool or the caps give no more.
        user_cap: Messages of one user in the batch; messages of nobody known are not capped.
        seed: Of everything random; the same pool, strategy and seed give the same batch.
        audits: The probability of being in the pool, by id, of those messages that came by the audit stream.
        fresh: Those of them that no draw has been offered yet.
        audit_share: The part of N that is drawn among them.
        reports: What was reported, by id, none of it an audit arrival.
        feedback_share: The part of N that is drawn among it, one at least.
        unsampled: The ids of what was not drawn from the traffic: its picks have no probability.
        layout: Filled with the map of the selection, as `learner.chart` makes it.
    """
    if not len(pool) or size < 1:
        return []
    shares: Counter[str] = Counter()

    def room(user: str) -> int:
        return max(0, user_cap - shares[user])

    def take(row: int) -> bool:
        users = pool.users[row]
        if not all(room(user) for user in users):
            return False
        shares.update(users)
        return True

    order = np.argsort(-pool.uncertainty, kind="stable")
    leader = leaders(UnitRows(pool.vectors, np.arange(len(pool))), order)
    doubles = np.bincount(leader)[leader] - 1
    audit = np.fromiter((int(id_) in audits for id_ in pool.ids), dtype=bool, count=len(pool))
    reported = np.fromiter((int(id_) in reports for id_ in pool.ids), dtype=bool, count=len(pool)) & ~audit

    def draw(strata: Sequence[npt.NDArray[np.bool_]], number: int, stream: int) -> list[Choice]:
        generator = np.random.default_rng([seed, stream])  # apart from the strategy's own draws
        return _drawn(pool, leader, [order[stratum[order]] for stratum in strata], number, room, take, generator)

    slots = max(1, round(feedback_share * size))
    others = int((~(audit | reported)).sum()) + min(slots, int(reported.sum()))
    newest = np.isin(pool.ids, list(fresh))
    wanted = max(round(audit_share * size), size - others)
    drawn = draw([audit & newest, audit & ~newest], wanted, 1)
    covered = np.isin(leader, leader[[choice.row for choice in drawn]])
    told = draw([reported & ~covered], min(slots, size - len(drawn)), 3)
    covered |= np.isin(leader, leader[[choice.row for choice in told]])
    open_ = order[~(audit | reported | covered)[order]]
    chosen: list[Choice] = []
    left = size - len(drawn) - len(told)
    if len(open_) and left:
        groups, lead = _grouped(leader, open_)
        first = groups.members[groups.starts[:-1]]
        candidates = Candidates(
            groups=groups,
            users=pool.users,
            vectors=UnitRows(pool.vectors, lead),
            probabilities=pool.probabilities[first],
            uncertainty=pool.uncertainty[first],
            room=room,
            seed=seed,
        )
        chosen = by.choose(candidates, left, take)
        if layout is not None:
            layout.update(_map(pool, candidates, [*told, *chosen], drawn))
    picks = [_of_report(pool, reports, choice, doubles=int(doubles[choice.row])) for choice in told]
    picks += [
        _picked(
            pool,
            str(by),
            choice,
            doubles=int(doubles[choice.row]),
            let_in=None if int(pool.ids[choice.row]) in unsampled else 1.0,
        )
        for choice in chosen
    ]
    places = np.random.default_rng([seed, 2]).integers(len(picks) + 1, size=len(drawn))
    for place, choice in sorted(zip(places.tolist(), drawn, strict=True), key=lambda pair: -pair[0]):
        pick = _picked(pool, AUDIT, choice, doubles=int(doubles[choice.row]), let_in=audits[int(pool.ids[choice.row])])
        picks.insert(place, pick)
    return picks


def _drawn(
    pool: Embedded,
    leader: Rows,
    strata: Sequence[Rows],
    number: int,
    room: Callable[[str], int],
    take: Callable[[int], bool],
    generator: np.random.Generator,
) -> list[Choice]:
    """Draw evenly from the first stratum, and from each further one only what those before it could not give."""
    drawn: list[Choice] = []
    for stratum in strata:
        offered = stratum[~np.isin(leader[stratum], leader[[choice.row for choice in drawn]])]
        if len(offered) and len(drawn) < number:
            groups, _leaders = _grouped(leader, offered)
            stand = Stand.draw(groups, pool.users, np.ones(len(groups)), room, generator)
            drawn += uniform(stand, number - len(drawn), take, generator)
    return drawn


def _map(pool: Embedded, candidates: Candidates, picked: Sequence[Choice], audited: Sequence[Choice]) -> dict[str, Any]:
    taken = [(choice, False) for choice in picked] + [(choice, True) for choice in audited]
    vectors = unit(pool.vectors[[choice.row for choice, _ in taken]].astype(np.float32, copy=False))
    marks = [(vector, _cluster(choice), audit) for vector, (choice, audit) in zip(vectors, taken, strict=True)]
    labels = candidates.partitions[0] if candidates.partitions else None
    return chart(candidates.vectors, labels, candidates.uncertainty, marks)


def _cluster(choice: Choice) -> int | None:
    found = choice.score.get("cluster")
    return None if found is None else int(found)


def _grouped(leader: Rows, order: Rows) -> tuple[Groups, Rows]:
    """Return rows by leader, those of a group as they are ordered, the most uncertain first; and the leaders, ascending."""
    members = order[np.argsort(leader[order], kind="stable")]
    lead, starts = np.unique(leader[members], return_index=True)
    return Groups(members, np.append(starts, len(members))), lead


def _picked(pool: Embedded, by: str, choice: Choice, *, doubles: int, let_in: float | None) -> Picked:
    probabilities = pool.probabilities[choice.row]
    likeliest = int(probabilities.argmax())
    known = choice.inclusion_probability
    return Picked(
        message_id=int(pool.ids[choice.row]),
        reason={
            "strategy": by,
            "uncertainty": round(float(pool.uncertainty[choice.row]), 4),
            "category": CATEGORIES[likeliest].value,
            "probability": round(float(probabilities[likeliest]), 4),
            "near_duplicates": doubles,
            **{name: round(value, 4) for name, value in choice.score.items()},
        },
        inclusion_probability=None if known is None or let_in is None else known * let_in,
    )


def _of_report(pool: Embedded, reports: Mapping[int, Reported], choice: Choice, *, doubles: int) -> Picked:
    report = reports[int(pool.ids[choice.row])]
    pick = _picked(pool, FEEDBACK, choice, doubles=doubles, let_in=report.inclusion_probability)
    return replace(pick, reason={**pick.reason, **report.reason()})
