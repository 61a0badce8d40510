"""The embedded pool comes in; the batch for people goes out, with the reason for each pick and never a text.

A query strategy, found by its name, chooses it. `embed` stands before it, the store's `fill` after.
"""

from collections import Counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from guard.errors import BadConfiguration
from guard.store.cycles import Picked
from guard.taxonomy import CATEGORIES
from learner.cluster import Vectors, leaders, unit
from learner.embed import Embedded
from learner.rivals import Badge, ClusterMargin, Margin, Rare, Stochastic
from learner.strategies import Candidates, Choice, Cluster, Coreset, Random, Strategy, TopN

STRATEGIES: Final = ("cluster", "random", "topn", "coreset", "margin", "cluster-margin", "badge", "stochastic", "rare")
ANCHORED: Final = ("coreset", "rare")  # they look at what is labelled already

__all__ = [
    "ANCHORED",
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


def select(pool: Embedded, by: Strategy, *, size: int, user_cap: int, seed: int) -> list[Picked]:
    """Choose the batch that people label, best first.

    Args:
        pool: The embedded pool.
        by: The query strategy.
        size: N; fewer come out when the pool or the caps give no more.
        user_cap: Messages of one user in the batch; messages of nobody known are not capped.
        seed: Of everything random; the same pool, strategy and seed give the same batch.
    """
    if not len(pool) or size < 1:
        return []
    shares: Counter[str] = Counter()

    def take(row: int) -> bool:
        users = pool.users[row]
        if any(shares[user] >= user_cap for user in users):
            return False
        shares.update(users)
        return True

    candidates = _candidates(pool, user_cap=user_cap, seed=seed)
    return [
        Picked(
            message_id=int(pool.ids[choice.row]),
            reason=_reason(pool, by, choice, doubles=len(candidates.groups[choice.candidate]) - 1),
            inclusion_probability=choice.inclusion_probability,
        )
        for choice in by.choose(candidates, size, take)
    ]


def _candidates(pool: Embedded, *, user_cap: int, seed: int) -> Candidates:
    vectors = unit(pool.vectors)
    order = np.argsort(-pool.uncertainty, kind="stable")
    leader = leaders(vectors, order)
    # rows by leader, the leader itself first: within a group the most uncertain came first in `order`
    grouped = order[np.argsort(leader[order], kind="stable")]
    rows, starts = np.unique(leader[grouped], return_index=True)
    sent = Counter(user for users in pool.users for user in users)
    return Candidates(
        groups=np.split(grouped, starts[1:]),
        vectors=vectors[rows],
        probabilities=pool.probabilities[rows],
        uncertainty=pool.uncertainty[rows],
        capped=max(sent.values(), default=0) > user_cap,
        seed=seed,
    )


def _reason(pool: Embedded, by: Strategy, choice: Choice, *, doubles: int) -> dict[str, Any]:
    probabilities = pool.probabilities[choice.row]
    likeliest = int(probabilities.argmax())
    return {
        "strategy": str(by),
        "uncertainty": round(float(pool.uncertainty[choice.row]), 4),
        "category": CATEGORIES[likeliest].value,
        "probability": round(float(probabilities[likeliest]), 4),
        "near_duplicates": doubles,
        **{name: round(value, 4) for name, value in choice.score.items()},
    }
