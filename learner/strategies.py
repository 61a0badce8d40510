"""What a query strategy is, and the four that the paper compares: cluster, random, topn, coreset.

`learner.selection` hands the candidates in and makes the batch of what is chosen; `learner.rivals` has further ones.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from learner.cluster import Rows, Vectors, cluster_count, partition, unit

_ANCHORS: Final = 64  # centres compared at once: 25 MB of cosines for a pool of 100,000

Take = Callable[[int], bool]
"""Takes a row of the pool into the batch; False when its users have their share already. A refusal stands."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The pool with near-duplicates standing as one, each group by its most uncertain member.

    Args:
        groups: `n` groups of rows of the pool; the first row of each stands for it.
        vectors: `(n, d)` float32 of length 1.
        probabilities: `(n, 6)` float32.
        uncertainty: `(n,)` in [0, 1], entropy / ln 6.
        capped: Whether some user has more messages in the pool than a batch takes.
        seed: Of everything random.
    """

    groups: list[Rows]
    vectors: Vectors
    probabilities: npt.NDArray[np.float32]
    uncertainty: npt.NDArray[np.float32]
    capped: bool
    seed: int

    def __len__(self) -> int:
        return len(self.groups)

    def row(self, candidate: int) -> int:
        """Return the row of the pool that stands for a candidate."""
        return int(self.groups[candidate][0])

    def by_uncertainty(self) -> Rows:
        """Return all candidates, the most uncertain first, ties in their order."""
        return np.argsort(-self.uncertainty, kind="stable")


@dataclass(frozen=True, slots=True)
class Choice:
    """A row of the pool that a strategy took, for which candidate, and what it can say about it."""

    candidate: int
    row: int
    score: Mapping[str, float | int] = field(default_factory=dict)
    inclusion_probability: float | None = None


class Strategy(Protocol):
    """Chooses a batch; its name is its `__str__`."""

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take up to `size` candidates, best first."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The N/m most uncertain messages of every cluster (Hassan, Sicilia and Alikhani, Algorithm 1).

    The clusters take turns, each giving its most uncertain message that is left. Where the room left is smaller than
    a turn (N not a multiple of m, m above N) the most uncertain messages on offer have it.

    Args:
        clusters: m; by `cluster_count` when None.
    """

    clusters: int | None = None

    def __str__(self) -> str:
        return "cluster"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take turns over the clusters."""
        wanted = self.clusters or cluster_count(len(candidates), size)
        labels = partition(candidates.vectors, min(wanted, len(candidates)), seed=candidates.seed)
        queues: list[list[int]] = [[] for _ in range(int(labels.max()) + 1)]
        for candidate in candidates.by_uncertainty():
            queues[labels[candidate]].append(int(candidate))
        asked = [0] * len(queues)

        def offer(cluster: int) -> tuple[float, int]:
            return -float(candidates.uncertainty[queues[cluster][asked[cluster]]]), cluster

        chosen: list[Choice] = []
        while len(chosen) < size:
            turn = [offer(cluster) for cluster, queue in enumerate(queues) if asked[cluster] < len(queue)]
            if not turn:
                break
            heapq.heapify(turn)
            while turn and len(chosen) < size:
                _, cluster = heapq.heappop(turn)
                candidate = queues[cluster][asked[cluster]]
                asked[cluster] += 1
                if take(row := candidates.row(candidate)):
                    score = {"cluster": cluster, "cluster_size": len(queues[cluster]), "rank": asked[cluster]}
                    chosen.append(Choice(candidate, row, score))
                elif asked[cluster] < len(queues[cluster]):  # refused: the cluster keeps its turn
                    heapq.heappush(turn, offer(cluster))
        return chosen


@dataclass(frozen=True, slots=True)
class Random:
    """A uniform draw without replacement: of the groups, then of a member of each."""

    def __str__(self) -> str:
        return "random"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take candidates in a random order; their probability is known unless the caps bend it."""
        generator = np.random.default_rng(candidates.seed)
        rate = min(1.0, size / len(candidates))
        chosen: list[Choice] = []
        for candidate in generator.permutation(len(candidates)):
            if len(chosen) == size:
                break
            group = candidates.groups[candidate]
            row = int(generator.choice(group))
            if take(row):
                known = None if candidates.capped else rate / len(group)
                chosen.append(Choice(int(candidate), row, inclusion_probability=known))
        return chosen


@dataclass(frozen=True, slots=True)
class TopN:
    """The most uncertain messages of the whole pool."""

    def __str__(self) -> str:
        return "topn"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take candidates by uncertainty."""
        chosen: list[Choice] = []
        for rank, candidate in enumerate(candidates.by_uncertainty(), 1):
            if len(chosen) == size:
                break
            if take(row := candidates.row(candidate)):
                chosen.append(Choice(int(candidate), row, {"rank": rank}))
        return chosen


@dataclass(frozen=True, slots=True)
class Coreset:
    """The messages furthest from all that is labelled or taken: k-centre greedy (Sener and Savarese 2018, Algorithm 1).

    Args:
        anchors: `(a, d)` vectors of what is labelled already; without any, the first centre is drawn.
    """

    anchors: Vectors | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return "coreset"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take the candidate furthest from every centre, make it a centre, and so on."""
        vectors = candidates.vectors
        distances = np.full(len(candidates), np.inf, dtype=np.float32)
        anchors = self.anchors if self.anchors is not None else vectors[:0]
        for start in range(0, len(anchors), _ANCHORS):
            distances = np.minimum(distances, _distances(vectors, unit(anchors[start : start + _ANCHORS])))
        draw = np.random.default_rng(candidates.seed).permutation(len(candidates))
        asked = np.zeros(len(candidates), dtype=bool)
        chosen: list[Choice] = []
        while len(chosen) < size and not asked.all():
            # in the order of the draw, the first of the furthest: before there is a centre all are equally far
            candidate = int(draw[np.where(asked[draw], -1, distances[draw]).argmax()])
            asked[candidate] = True
            if take(row := candidates.row(candidate)):
                distance = float(distances[candidate])
                chosen.append(Choice(candidate, row, {"distance": distance} if np.isfinite(distance) else {}))
                distances = np.minimum(distances, _distances(vectors, vectors[candidate : candidate + 1]))
        return chosen


def _distances(vectors: Vectors, centres: Vectors) -> npt.NDArray[np.float32]:
    """Return the Euclidean distance of each vector to its nearest centre, all of length 1."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * (vectors @ centres.T).max(axis=1), 0)), dtype=np.float32)
