"""Query strategies beside the paper's four: margin, cluster-margin, badge, stochastic, rare.

They take and give what those of `learner.strategies` do; `learner simulate` measures them all against random.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from guard.taxonomy import CATEGORIES
from learner.cluster import Vectors, cluster_count, partition, unit
from learner.draws import Floats, inclusion, systematic
from learner.strategies import Candidates, Choice, Cluster, Stand, Take, nearness

_SHORTLIST: Final = 10  # messages on the shortlist for each that is taken
# Exponent of the entropy: the higher, the nearer to `cluster`, and the wider do estimates from such picks spread. By
# the laboratory after 5 x 20 labels, macro-F1 against random at 32 / 64 and with `cluster` itself: +7.8 / +8.1 / +8.6
# (each ± 1.2) on the seed corpus made imbalanced, 80 seeds; +0.4 / +1.1 / +1.0 (each ± 0.7) on the paper's human rows, 160.
_SHARPNESS: Final = 64
_FLOOR: Final = 1e-12  # weight of a message of no entropy: nothing in the pool has the probability 0


def margins(candidates: Candidates) -> Floats:
    """Return `(n,)` closeness of the two likeliest categories, 1 - (p1 - p2), in [0, 1]."""
    top = np.partition(candidates.probabilities, -2, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(1 - (top[:, 1] - top[:, 0]), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Margin:
    """The messages whose two likeliest categories are closest (breaking ties; arXiv 2107.05687)."""

    def __str__(self) -> str:
        return "margin"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take candidates by margin."""
        scores = margins(candidates)
        chosen: list[Choice] = []
        for rank, candidate in enumerate(np.argsort(-scores, kind="stable"), 1):
            if len(chosen) == size:
                break
            if take(row := candidates.row(candidate)):
                chosen.append(Choice(int(candidate), row, {"margin": float(scores[candidate]), "rank": rank}))
        return chosen


@dataclass(frozen=True, slots=True)
class ClusterMargin:
    """The closest margins, spread over clusters (Citovsky et al. 2021, arXiv 2107.14263, Algorithm 1).

    The 10 N messages with the closest margins are clustered into N; the clusters take turns, the smallest first, each
    giving its closest. The paper clusters the whole pool once by average linkage and draws within a cluster: k-means of
    the shortlist costs the same whatever the pool.
    """

    def __str__(self) -> str:
        return "cluster-margin"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Take turns over the clusters of the shortlist; what is behind it comes only where caps empty it."""
        scores = margins(candidates)
        order = np.argsort(-scores, kind="stable")
        close, behind = order[: _SHORTLIST * size], order[_SHORTLIST * size :]
        labels = partition(candidates.vectors[close], min(size, len(close)), seed=candidates.seed)
        queues = sorted((close[labels == cluster] for cluster in range(int(labels.max()) + 1)), key=len)
        turns = sorted((turn, place) for place, queue in enumerate(queues) for turn in range(len(queue)))
        chosen: list[Choice] = []
        for candidate in chain((queues[place][turn] for turn, place in turns), behind):
            if len(chosen) == size:
                break
            if take(row := candidates.row(candidate)):
                chosen.append(Choice(int(candidate), row, {"margin": float(scores[candidate])}))
        return chosen


@dataclass(frozen=True, slots=True)
class Badge:
    """k-means++ on the gradients of the last layer (Ash et al., ICLR 2020, Algorithm 1).

    The gradient of a message, were its likeliest category right, is (p - onehot(argmax p)) ⊗ h, with 6 d numbers. The
    inner product of two is the product of the inner products of their two factors, so none of them is ever made. The
    first is the longest, as in the authors' code; h has length 1.
    """

    def __str__(self) -> str:
        return "badge"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Draw each next candidate in proportion to the squared distance to the nearest one taken."""
        generator = np.random.default_rng(candidates.seed)
        errors = candidates.probabilities.astype(np.float64)
        errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
        lengths = (errors**2).sum(axis=1)
        squares = np.full(len(candidates), np.inf)
        asked = np.zeros(len(candidates), dtype=bool)
        chosen: list[Choice] = []
        while len(chosen) < size and not asked.all():
            if chosen:
                candidate = _draw(np.where(asked, 0.0, squares), ~asked, generator)
            else:
                candidate = int(np.where(asked, -1.0, lengths).argmax())
            asked[candidate] = True
            if take(row := candidates.row(candidate)):
                chosen.append(Choice(candidate, row, {"gradient": float(np.sqrt(lengths[candidate]))}))
                cosines = nearness(candidates.vectors, candidates.vectors[candidate : candidate + 1])
                products = (errors @ errors[candidate]) * cosines
                distances = np.maximum(lengths + lengths[candidate] - 2 * products, 0.0)
                squares = np.minimum(squares, distances)
        return chosen


@dataclass(frozen=True, slots=True)
class Stochastic:
    """Draws in every cluster, in proportion to entropy^64, with a known inclusion probability: the default.

    Of near-duplicates, which weigh as one, any is drawn alike; of a user who sent more than a batch takes as many are
    drawn as it takes; then each cluster has its share of N, decided before anything is drawn in it. The draws in users
    and in clusters are systematic in random order (Madow 1949), so their probabilities are exactly share · w / Σ w, the
    certain ones (those above 1) apart, and what is claimed is the product of all, given the clusters. Only what fills up
    a batch that the caps left short has none.

    What the probabilities are for is the Horvitz-Thompson estimator. It is unbiased here, but says little of so sharp a
    draw: of 1,403 pooled messages, 14.2 % answered wrongly, 80 picks estimate 14.6 ± 10.6 % (Hájek's form, standard
    deviation over 150 draws) where 80 uniform ones have ± 3.8. So error rates rest on the audit stream
    (`learner.selection`); these picks only add what it has none of, the verdicts that were uncertain when given.

    Args:
        clusters: m; by `cluster_count` when None.
    """

    clusters: int | None = None

    def __str__(self) -> str:
        return "stochastic"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Draw in cluster after cluster; what the caps left out fills up."""
        generator = np.random.default_rng(candidates.seed)
        wanted = self.clusters or cluster_count(len(candidates), size)
        labels = candidates.cluster(wanted)
        uncertainty = candidates.uncertainty.astype(np.float64)
        weights = np.maximum((uncertainty / max(float(uncertainty.max()), _FLOOR)) ** _SHARPNESS, _FLOOR)
        stand = Stand.draw(candidates.groups, candidates.users, weights, candidates.room, generator)
        left = stand.open()
        clusters = [rows for cluster in range(int(labels.max()) + 1) if len(rows := left[labels[left] == cluster])]
        clusters.sort(key=lambda rows: -float(weights[rows].sum()))  # the more uncertain ones get what is left over
        chosen: list[Choice] = []

        def ask(candidate: int, probability: float | None) -> None:
            if take(row := int(stand.rows[candidate])):
                known = None if probability is None else probability * float(stand.probabilities[candidate])
                score = {"cluster": int(labels[candidate])}
                chosen.append(Choice(candidate, row, score, inclusion_probability=known))

        for rows, share in zip(clusters, _shares([len(rows) for rows in clusters], size), strict=True):
            probabilities = inclusion(weights[rows], share)
            for position in systematic(probabilities, generator):
                ask(int(rows[position]), float(probabilities[position]))
        behind = np.flatnonzero(stand.probabilities == 0)
        for candidate in behind[np.argsort(-weights[behind], kind="stable")]:
            if len(chosen) == size:
                break
            ask(int(candidate), None)
        return chosen


@dataclass(frozen=True, slots=True)
class Rare:
    """Half of the batch seeks the rarest categories near their labelled messages; the other half is `cluster`'s.

    The category with the fewest labels has its turn: of the ten messages left that are nearest to any of its labelled
    ones the most uncertain is taken (after AnchorAL, arXiv 2404.05623), and counts for the category from then on. Only
    categories with fewer labels than the mean are sought; without anchors none is.

    Args:
        anchors: `(a, d)` vectors of what is labelled already.
        labels: `(a,)` their categories, as indices into `CATEGORIES`.
        clusters: m of the other half; by `cluster_count` when None.
    """

    anchors: Vectors | None = field(default=None, repr=False)
    labels: npt.NDArray[np.int_] | None = field(default=None, repr=False)
    clusters: int | None = None

    def __str__(self) -> str:
        return "rare"

    def choose(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        """Seek the rare, then take turns over the clusters."""
        sought = self._seek(candidates, size // 2, take)
        taken = {choice.candidate for choice in sought}
        rows = {candidates.row(candidate) for candidate in taken}
        others = Cluster(self.clusters).choose(
            candidates, size - len(sought), lambda row: row not in rows and take(row)
        )
        return [*sought, *others]

    def _seek(self, candidates: Candidates, size: int, take: Take) -> list[Choice]:
        if self.anchors is None or self.labels is None or not len(self.anchors):
            return []
        anchors = unit(self.anchors)
        counts = np.bincount(self.labels, minlength=len(CATEGORIES)).astype(np.float64)
        counts[counts == 0] = np.inf  # nothing to be near to
        level = len(anchors) / len(CATEGORIES)
        near_to: dict[int, npt.NDArray[np.float32]] = {}
        asked = np.zeros(len(candidates), dtype=bool)
        chosen: list[Choice] = []
        while len(chosen) < size and not asked.all() and counts.min() < level:
            category = int(counts.argmin())
            if category not in near_to:
                near_to[category] = nearness(candidates.vectors, anchors[self.labels == category])
            near = np.where(asked, -np.inf, near_to[category])
            room = min(_SHORTLIST, int((~asked).sum()))
            shortlist = np.sort(np.argpartition(-near, room - 1)[:room])
            candidate = int(shortlist[candidates.uncertainty[shortlist].argmax()])
            asked[candidate] = True
            if take(row := candidates.row(candidate)):
                counts[category] += 1
                chosen.append(Choice(candidate, row, {"nearness": float(near_to[category][candidate])}))
        return chosen


def _shares(sizes: list[int], total: int) -> list[int]:
    """Share a total out one by one, in turns, to whom has room."""
    shares = [0] * len(sizes)
    left = min(total, sum(sizes))
    while left:
        for place, room in enumerate(sizes):
            if left and shares[place] < room:
                shares[place] += 1
                left -= 1
    return shares


def _draw(weights: Floats, open_: npt.NDArray[np.bool_], generator: np.random.Generator) -> int:
    """Draw one row in proportion to the weights; of those still open alike where none has any weight."""
    total = weights.sum()
    return int(generator.choice(len(weights), p=weights / total if total > 0 else open_ / open_.sum()))
