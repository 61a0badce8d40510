"""Vectors come in; their near-duplicates and their clusters go out, as row numbers.

No words are drawn from a cluster: a typical word may be a person's name, and what leaves here is stored in clear.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

SAME: Final = 0.98  # cosine above which two texts are one: a changed letter, a comma, a name
_MAX_CLUSTERS: Final = 50
_BLOCK: Final = 512  # rows compared at once,
_SPAN: Final = 8192  # with so many others: 16 MiB of cosines
_SEEDS: Final = 2**32  # scikit-learn's random states end here


def cluster_count(pool: int, batch_size: int) -> int:
    """Return the default m, min(N, max(6, sqrt(pool / 2)), 50): some 40 messages a cluster in a pool of 3,000."""
    return min(batch_size, max(6, round(math.sqrt(pool / 2))), _MAX_CLUSTERS)


def unit(vectors: Vectors) -> Vectors:
    """Return `(n, d)` vectors of length 1, so that inner products are cosines."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def leaders(vectors: Vectors, order: Rows, *, same: float = SAME) -> Rows:
    """Collapse near-duplicates: return for each row the row that stands for it, itself when it has no double.

    The leader algorithm, exact, in blocks: a row joins its nearest leader when their cosine is above `same`, and leads
    from then on otherwise. Without doubles that is n² / 2 cosines: 80 s for 100,000 messages on two busy cores, less
    than scoring them takes.

    Args:
        vectors: `(n, d)`, of length 1.
        order: All rows; the earlier ones lead.
        same: Cosine above which two are one.
    """
    leader = np.arange(len(vectors))
    leading = np.empty(0, dtype=np.intp)
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        nearest = np.full(len(rows), -np.inf, dtype=np.float32)
        for first in range(0, len(leading), _SPAN):
            span = leading[first : first + _SPAN]
            cosines = vectors[rows] @ vectors[span].T
            best = cosines.argmax(axis=1)
            found = cosines[np.arange(len(rows)), best]
            nearer = found > nearest
            leader[rows[nearer]] = span[best[nearer]]
            nearest = np.maximum(nearest, found)
        alone = rows[nearest <= same]
        leader[alone] = alone
        leading = np.concatenate([leading, _collapse(vectors, alone, leader, same)])
    return leader


def _collapse(vectors: Vectors, rows: Rows, leader: Rows, same: float) -> Rows:
    """Collapse the rows of one block among themselves and return those that lead."""
    doubles = vectors[rows] @ vectors[rows].T > same
    undecided = np.ones(len(rows), dtype=bool)
    leading = []
    for position, row in enumerate(rows):
        if undecided[position]:
            joins = doubles[position] & undecided
            joins[position] = True
            leader[rows[joins]] = row
            undecided &= ~joins
            leading.append(row)
    return np.array(leading, dtype=np.intp)


def partition(vectors: Vectors, count: int, *, seed: int) -> Rows:
    """Return the cluster of each row, in `range(count)`, by mini-batch k-means (Sculley 2010); some may stay empty.

    Args:
        vectors: `(n, d)`, of length 1.
        count: m, at most n.
        seed: Of the first centres.
    """
    if count == 1:
        return np.zeros(len(vectors), dtype=np.intp)
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(count, random_state=seed % _SEEDS, batch_size=1024, n_init=3)
    return np.asarray(kmeans.fit_predict(vectors), dtype=np.intp)
