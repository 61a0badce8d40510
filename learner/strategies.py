"""What a query strategy is, and the four that the paper compares: cluster, random, topn, coreset.

`learner.selection` hands the candidates in and makes the batch of what is chosen; `learner.rivals` has further ones.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from learner.cluster import Rows, UnitRows, Vectors, cluster_count, partition, unit
from learner.draws import Floats, Room, thin

_BLOCK: Final = 16_384  # vectors compared at once, 25 MB of them as float32,
_SPAN: Final = 512  # with so many others: 34 MB of cosines

Take = Callable[[int], bool]
"""Takes a row of the pool into the batch; False when its users have their share already. A refusal stands."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Near-duplicates side by side: a million groups are two arrays.

    Args:
        members: Rows of the pool, group after group; the first row of each stands for it.
        starts: `(n + 1,)` where each group begins, and the end.
    """

    members: Rows
    starts: Rows

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, group: int) -> Rows:
        return self.members[self.starts[group] : self.starts[group + 1]]

    def sizes(self) -> Rows:
        """Return `(n,)` how many rows each has."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The pool with near-duplicates standing as one, each group by its most uncertain member.

    Args:
        groups: `n` groups of rows of the pool.
        users: Who sent each row of the pool.
        vectors: `(n, d)` of length 1, made where they are read.
        probabilities: `(n, 6)` float32.
        uncertainty: `(n,)` in [0, 1], entropy / ln 6.
        room: How many more messages of a user the batch takes.
        seed: Of everything random.
        partitions: Each way in which a strategy has clustered all of them, for the map of the selection.
    """

    groups: Groups
    users: Sequence[tuple[str, ...]]
    vectors: Vectors | UnitRows
    probabilities: npt.NDArray[np.float32]
    uncertainty: npt.NDArray[np.float32]
    room: Room
    seed: int
    partitions: list[Rows] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.groups)

    def cluster(self, count: int) -> Rows:
        """Return the cluster of each candidate, of at most `count`, and keep it among the partitions."""
        labels = partition(self.vectors, min(count, len(self)), seed=self.seed)
        self.partitions.append(labels)
        return labels

    def row(self, candidate: int) -> int:
        """Return the row of the pool that stands for a candidate."""
        return int(self.groups.members[self.groups.starts[candidate]])

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
class Stand:
    """For each group one member drawn, whose users are not above their caps: what every draw begins with.

    Args:
        rows: `(n,)` rows of the pool, one of each group, any of its members alike.
        probabilities: `(n,)` with which this row stands here; 0 where the caps left it out.
    """

    rows: Rows
    probabilities: Floats

    @classmethod
    def draw(
        cls,
        groups: Groups,
        users: Sequence[tuple[str, ...]],
        weights: Floats,
        room: Room,
        generator: np.random.Generator,
    ) -> "Stand":
        """Draw a member of each group, then thin users out, by weight.

        Args:
            groups: `n` groups of rows of the pool.
            users: Who sent each row of the pool.
            weights: `(n,)`, positive.
            room: Of each user.
            generator: Of everything random.
        """
        sizes = groups.sizes()
        rows = groups.members[groups.starts[:-1] + generator.integers(sizes)]
        return cls(rows, thin([users[row] for row in rows], weights, room, generator) / sizes)

    def open(self) -> Rows:
        """Return the groups that are still to be drawn from."""
        return np.flatnonzero(self.probabilities > 0)


def uniform(stand: Stand, size: int, take: Take, generator: np.random.Generator) -> list[Choice]:
    """Take up to `size` of what stands, all alike, each with its probability."""
    left = generator.permutation(stand.open())
    rate = min(1.0, size / max(len(left), 1))
    return [
        Choice(int(group), int(stand.rows[group]), inclusion_probability=float(stand.probabilities[group]) * rate)
        for group in left[:size]
        if take(int(stand.rows[group]))  # never refused: the caps have had their say
    ]


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
        labels = candidates.cluster(wanted)
        order = candidates.by_uncertainty()
        queues = [order[labels[order] == cluster] for cluster in range(int(labels.max()) + 1)]
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
                candidate = int(queues[cluster][asked[cluster]])
                asked[cluster] += 1
                if take(row := candidates.row(candidate)):
                    score = {"cluster": cluster, "cluster_size": len(queues[cluster]), "rank": asked[cluster]}
                    chosen.append(Choice(candidate, row, score))
                elif asked[cluster] < len(queues[cluster]):  # refused: the cluster keeps its turn
                    heapq.heappush(turn, offer(cluster))
        return chosen


@dataclass(frozen=True, slots=True)
class Random:
    """A uniform draw without replacement: of the groups, then of a member of each, at most a user's cap of messages."""

    def __str__(self) -> str:
        return "random"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take candidates in a random order, with their probability; what caps left out fills up, without one."""
        generator = np.random.default_rng(candidates.seed)
        stand = Stand.draw(candidates.groups, candidates.users, np.ones(len(candidates)), candidates.room, generator)
        chosen = uniform(stand, size, take, generator)
        for candidate in generator.permutation(np.flatnonzero(stand.probabilities == 0)):
            if len(chosen) == size:
                break
            if take(row := int(stand.rows[candidate])):
                chosen.append(Choice(int(candidate), row))
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
        if self.anchors is not None and len(self.anchors):
            distances = _distances(vectors, unit(self.anchors))
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


def nearness(vectors: Vectors | UnitRows, others: Vectors) -> npt.NDArray[np.float32]:
    """Return each vector's cosine with the nearest of the others, all of length 1, block by block in float32."""
    nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float32, copy=False)
        mine = nearest[start : start + _BLOCK]
        for first in range(0, len(others), _SPAN):
            span = others[first : first + _SPAN].astype(np.float32, copy=False)
            np.maximum(mine, (block @ span.T).max(axis=1), out=mine)
    return nearest


def _distances(vectors: Vectors | UnitRows, centres: Vectors) -> npt.NDArray[np.float32]:
    """Return the Euclidean distance of each vector to its nearest centre, all of length 1."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * nearness(vectors, centres), 0)), dtype=np.float32)
