"""Vectors come in; their near-duplicates and their clusters go out, as row numbers.

No words are drawn from a cluster: a typical word may be a person's name, and what leaves here is stored in clear.
"""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32 | np.float16]
Rows = npt.NDArray[np.intp]

SAME: Final = 0.98  # cosine above which two texts are one: a changed letter, a comma, a name
_MAX_CLUSTERS: Final = 50
_EXACT: Final = 20_000  # rows that are compared each with each: 3 s on one core
_PASSES: Final = (
    4  # rounds of cutting what is more into leaves; each misses some 15 % of the pairs, others than the last
)
_LEAF: Final = 2048  # rows of a leaf, compared each with each: 3 MB as float32
_AXES: Final = 16  # along which the cuts are made: 64 MB for a million rows
_MIDDLE: Final = (0.35, 0.65)  # of a node's rows, where a cut falls: at most 15 cuts one after the other for a million
_BLOCK: Final = 512  # rows of a leaf compared at once,
_SPAN: Final = 8192  # with so many others: 16 MiB of cosines
_READ: Final = 16_384  # rows read at once: 25 MB as float32
_SAMPLE: Final = 65_536  # rows that centres and axes are found from: 100 MB as float32
_SEEDS: Final = 2**32  # scikit-learn's random states end here


def cluster_count(pool: int, batch_size: int) -> int:
    """Return the default m, min(N, max(6, sqrt(pool / 2)), 50): some 40 messages a cluster in a pool of 3,000."""
    return min(batch_size, max(6, round(math.sqrt(pool / 2))), _MAX_CLUSTERS)


class UnitRows:
    """Some rows of an array, made of length 1 where they are read: a copy of a million would be 0.8 GB.

    Args:
        vectors: `(n, d)`, of any length.
        rows: Which of them, in the order in which they are read.
    """

    def __init__(self, vectors: Vectors, rows: Rows) -> None:
        self._vectors = vectors
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: slice | Rows) -> Floats:
        return unit(self._vectors[self._rows[places]].astype(np.float32, copy=False))


def unit(vectors: Vectors) -> Floats:
    """Return `(n, d)` vectors of length 1, so that inner products are cosines."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def leaders(vectors: Vectors | UnitRows, order: Rows, *, same: float = SAME) -> Rows:
    """Collapse near-duplicates: return for each row the row that stands for it, itself when it has no double.

    The leader algorithm: a row joins its nearest leader when their cosine is above `same`, and leads from then on
    otherwise. Up to 20,000 rows are compared each with each. More are cut along their widest axes, as in a k-d tree
    (Bentley 1975), into leaves of at most 2,048 that are compared each with each; then those that lead are cut elsewhere,
    four times in all or until 20,000 are left. So the cost is n times the leaf, whatever the pool is full of.

    Nobody ever follows a row that is not above `same`, or that follows another. What cuts can miss is that two leaders
    are doubles: of those that should be gone 99.0 % are among 15,000 MiniLM embeddings of real texts cut into 300 leaves,
    as half a million rows would be, and 99.4 % among a million synthetic ones (`benchmarks.scale`).

    Args:
        vectors: `(n, d)` float32 or float16, of length 1.
        order: All rows; the earlier ones lead.
        same: Cosine above which two are one.
    """
    leader = np.arange(len(vectors))
    if len(order) <= _EXACT:
        leader[order] = order[_collapse(_read(vectors, order), same)]
        return leader
    leading, axes = order, _along_axes(vectors)
    for attempt in range(_PASSES):
        few = len(leading) <= _EXACT
        with threadpool_limits(1, "blas"):  # leaves are small: two threads on busy cores took eight times as long
            for rows in [leading] if few else _leaves(axes, leading, seed=attempt):
                leader[rows] = rows[_collapse(_read(vectors, rows), same)]
        # those whose leader follows another now do so, too, or lead until the next time
        lost = np.flatnonzero(leader[leader] != leader)
        found = leader[leader[lost]]
        alike = _alike(vectors, lost, found, same)
        leader[lost] = np.where(alike, found, lost)
        if few and alike.all():
            break
        leading = order[leader[order] == order]
    return leader


def _collapse(own: Floats, same: float) -> Rows:
    """Collapse all rows among themselves, the earlier ones leading; `own` is overwritten."""
    leader = np.arange(len(own))
    leading = np.empty(len(own), dtype=np.intp)
    count = 0  # of those that lead; their vectors are moved to the front
    for start in range(0, len(own), _BLOCK):
        block = own[start : start + _BLOCK]
        nearest = np.full(len(block), -np.inf, dtype=np.float32)
        mine = leader[start : start + _BLOCK]
        for first in range(0, count, _SPAN):
            cosines = block @ own[first : min(first + _SPAN, count)].T
            best = cosines.argmax(axis=1)
            found = cosines[np.arange(len(block)), best]
            joins = found > np.maximum(nearest, same)
            mine[joins] = leading[first + best[joins]]
            nearest = np.maximum(nearest, found)
        alone = np.flatnonzero(nearest <= same)
        new = alone[_among(block[alone], same)]  # for each row alone, who leads it
        mine[alone] = start + new
        heads = np.unique(new)
        leading[count : count + len(heads)] = start + heads
        own[count : count + len(heads)] = block[heads]
        count += len(heads)
    return leader


def _among(block: Floats, same: float) -> Rows:
    """Collapse the few rows of one block among themselves."""
    doubles = block @ block.T > same
    leader = np.arange(len(block))
    undecided = doubles.sum(axis=1) > 1  # all others lead, and nobody follows them
    for row in np.flatnonzero(undecided):
        if undecided[row]:
            joins = doubles[row] & undecided
            leader[joins] = row
            undecided &= ~joins
            undecided[row] = False
    return leader


def _alike(vectors: Vectors | UnitRows, rows: Rows, others: Rows, same: float) -> npt.NDArray[np.bool_]:
    """Return whether each row is the same as the one of the others beside it."""
    alike = np.empty(len(rows), dtype=bool)
    for start in range(0, len(rows), _READ):
        these, those = (_read(vectors, r[start : start + _READ]) for r in (rows, others))
        alike[start : start + _READ] = np.einsum("ij,ij->i", these, those) > same
    return alike


def _along_axes(vectors: Vectors | UnitRows) -> Floats:
    """Return `(n, 16)` positions along the widest axes of a sample (principal components)."""
    sample = _read(vectors, _sampled(len(vectors), _READ, seed=0))
    _, axes = np.linalg.eigh(np.cov(sample, rowvar=False))
    widest = axes[:, -_AXES:].astype(np.float32)
    positions = np.empty((len(vectors), widest.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors), _READ):
        positions[start : start + _READ] = _read(vectors, slice(start, start + _READ)) @ widest
    return positions


def _leaves(axes: Floats, rows: Rows, *, seed: int) -> Iterator[Rows]:
    """Cut rows along the axis on which they are widest, near the middle, until none is left with too many.

    Near-duplicates differ by little along the widest axis, so few of them are parted; where another seed cuts, others
    are. By rank, not by place: rows of one and the same place, a flood, are parted, too, and no leaf is too large.
    """
    generator = np.random.default_rng(seed)
    nodes = [np.arange(len(rows))]
    while nodes:
        node = nodes.pop()
        if len(node) <= _LEAF:
            yield rows[np.sort(node)]  # in their order
            continue
        places = axes[rows[node]]
        along = places[:, places.var(axis=0).argmax()]
        cut = int(len(node) * generator.uniform(*_MIDDLE))
        parted = node[np.argpartition(along, cut)]
        nodes += [parted[:cut], parted[cut:]]


def partition(vectors: Vectors | UnitRows, count: int, *, seed: int) -> Rows:
    """Return the cluster of each row, in `range(count)`, by mini-batch k-means (Sculley 2010); some may stay empty.

    The centres are found from a sample of up to 65,536 rows, more than a thousand for each of 50 clusters.

    Args:
        vectors: `(n, d)` float32 or float16, of length 1.
        count: m, at most n.
        seed: Of the sample and the first centres.
    """
    labels = np.zeros(len(vectors), dtype=np.intp)
    if count == 1:
        return labels
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(count, random_state=seed % _SEEDS, batch_size=1024, n_init=3, compute_labels=False)
    kmeans.fit(_read(vectors, _sampled(len(vectors), _SAMPLE, seed=seed)))
    for start in range(0, len(vectors), _READ):
        labels[start : start + _READ] = kmeans.predict(_read(vectors, slice(start, start + _READ)))
    return labels


def _read(vectors: Vectors | UnitRows, rows: slice | Rows) -> Floats:
    """Return some rows as float32, copied where they are an array of places."""
    return np.asarray(vectors[rows], dtype=np.float32)


def _sampled(count: int, size: int, *, seed: int) -> Rows:
    """Return up to `size` of `count` rows, drawn without replacement, ascending."""
    if count <= size:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False))
