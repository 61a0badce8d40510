"""The embedded pool comes in; the batch for people goes out, with the reason for each pick and never a text.

The audit draw takes its share, a query strategy, found by its name, the rest. `embed` stands before it, the store's
`fill` after.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from guard.errors import BadConfiguration
from guard.store.cycles import Picked
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

__all__ = [
    "ANCHORED",
    "AUDIT",
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
    audit_share: float = 0.0,
    layout: dict[str, Any] | None = None,
) -> list[Picked]:
    """Choose the batch that people label: the strategy's picks, best first, the audit's at random places among them.

    The audit draw is uniform over the audit arrivals, whatever the strategy. A pick's probability is that of the message
    being in the pool times that of its draw here, so that it weighs back to the traffic. Three things keep it known:

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
        audit_share: The part of N that is drawn among them.
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
    drawn: list[Choice] = []
    if audit.any():
        generator = np.random.default_rng([seed, 1])  # apart from the strategy's own draws
        groups, _leaders = _grouped(leader, order[audit[order]])
        stand = Stand.draw(groups, pool.users, np.ones(len(groups)), room, generator)
        drawn = uniform(stand, max(round(audit_share * size), size - int((~audit).sum())), take, generator)
    covered = np.isin(leader, leader[[choice.row for choice in drawn]])
    open_ = order[~(audit | covered)[order]]
    chosen: list[Choice] = []
    if len(open_) and len(drawn) < size:
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
        chosen = by.choose(candidates, size - len(drawn), take)
        if layout is not None:
            taken = [(choice, False) for choice in chosen] + [(choice, True) for choice in drawn]
            vectors = unit(pool.vectors[[choice.row for choice, _ in taken]].astype(np.float32, copy=False))
            marks = [(v, _cluster(choice), audited) for v, (choice, audited) in zip(vectors, taken, strict=True)]
            labels = candidates.partitions[0] if candidates.partitions else None
            layout.update(chart(candidates.vectors, labels, candidates.uncertainty, marks))
    picks = [_picked(pool, str(by), choice, doubles=int(doubles[choice.row])) for choice in chosen]
    places = np.random.default_rng([seed, 2]).integers(len(picks) + 1, size=len(drawn))
    for place, choice in sorted(zip(places.tolist(), drawn, strict=True), key=lambda pair: -pair[0]):
        pick = _picked(pool, AUDIT, choice, doubles=int(doubles[choice.row]), let_in=audits[int(pool.ids[choice.row])])
        picks.insert(place, pick)
    return picks


def _cluster(choice: Choice) -> int | None:
    found = choice.score.get("cluster")
    return None if found is None else int(found)


def _grouped(leader: Rows, order: Rows) -> tuple[Groups, Rows]:
    """Return rows by leader, those of a group as they are ordered, the most uncertain first; and the leaders, ascending."""
    members = order[np.argsort(leader[order], kind="stable")]
    lead, starts = np.unique(leader[members], return_index=True)
    return Groups(members, np.append(starts, len(members))), lead


def _picked(pool: Embedded, by: str, choice: Choice, *, doubles: int, let_in: float = 1.0) -> Picked:
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
        inclusion_probability=None if known is None else known * let_in,
    )
