"""The candidates, their clusters and the picks come in; where they lie in two dimensions goes out, in plain numbers.

`learner.selection` calls it, the cycle's figures keep it, the desk's loop page draws it. No text and no id of a message.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from learner.cluster import Floats, Rows, UnitRows, Vectors

_SAMPLE: Final = 16_384  # rows that the axes are found from, and rows read at once: 25 MB as float32
_DIGITS: Final = 3  # of a place: vectors have length 1, and a picture of 640 points shows no more


def chart(
    vectors: Vectors | UnitRows,
    labels: Rows | None,
    uncertainty: npt.NDArray[np.float32],
    picks: Sequence[tuple[npt.NDArray[np.floating[Any]], int | None, bool]],
) -> dict[str, Any]:
    """Lay the candidates out along the two axes on which they differ most (principal components; Pearson 1901).

    Args:
        vectors: `(n, d)` of length 1, at least one.
        labels: `(n,)` clusters; None where the strategy made none.
        uncertainty: `(n,)` in [0, 1].
        picks: The vector of each, its cluster, and whether it is an audit.

    Returns:
        `explained`, the axes' part of the variance; `clusters` with number, size, place of the mean and mean uncertainty;
        `picks` with cluster, audit and place, in an order that does not tell which message is which.
    """
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).astype(np.intp)].astype(np.float64)
    middle = sample.mean(axis=0)
    variances, directions = np.linalg.eigh((sample - middle).T @ (sample - middle))
    axes = directions[:, :-3:-1]
    axes = axes * np.where(
        axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1
    )  # eigh leaves signs open
    whole = float(variances.sum())
    spots = [
        {"cluster": cluster, "audit": audit, **_place((vector - middle) @ axes)} for vector, cluster, audit in picks
    ]
    return {
        "explained": round(float(variances[-2:].sum()) / whole, _DIGITS) if whole > 0 else 0.0,
        "clusters": [] if labels is None else _clusters(vectors, labels, uncertainty, middle, axes),
        "picks": sorted(spots, key=lambda spot: (spot["audit"], spot["cluster"] or 0, spot["x"], spot["y"])),
    }


def _clusters(
    vectors: Vectors | UnitRows,
    labels: Rows,
    uncertainty: npt.NDArray[np.float32],
    middle: npt.NDArray[np.float64],
    axes: npt.NDArray[np.float64],
) -> list[dict[str, Any]]:
    sizes = np.bincount(labels)
    sums = np.zeros((len(sizes), 2))
    for start in range(0, len(vectors), _SAMPLE):
        block: Floats = np.asarray(vectors[start : start + _SAMPLE], dtype=np.float32)
        np.add.at(sums, labels[start : start + _SAMPLE], (block - middle) @ axes)
    doubt = np.bincount(labels, weights=uncertainty)
    return [
        {
            "cluster": int(cluster),
            "size": int(sizes[cluster]),
            "uncertainty": round(float(doubt[cluster] / sizes[cluster]), _DIGITS),
            **_place(sums[cluster] / sizes[cluster]),
        }
        for cluster in np.flatnonzero(sizes)
    ]


def _place(point: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    return {"x": round(float(point[0]), _DIGITS), "y": round(float(point[1]), _DIGITS)}
