"""Picks come in; the same go out with what stands around each: messages like it, and labelled ones, by id and no text.

`work` calls it after `selection`. The desk opens the ids when it shows a pick, so that what is erased is shown to nobody.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from guard.store.cycles import Picked
from learner.cluster import Vectors, unit
from learner.embed import Embedded
from learner.selection import AUDIT

NEAR: Final = 12  # pooled messages whose common words tell what a pick stands for
LABELLED: Final = 3
_ALIKE: Final = 0.3  # cosine below which two messages have nothing to do with each other
_BLOCK: Final = 16_384  # vectors at once, 25 MB of them as float32

Ids = npt.NDArray[np.int64]


def surround(picks: Sequence[Picked], pool: Embedded, labelled_ids: Ids, labelled: Vectors) -> list[Picked]:
    """Return the picks with `near` and `neighbours` in their reasons, the nearest first; audits are left alone.

    Args:
        picks: All of them in the pool.
        pool: Embedded under the same model as `labelled`.
        labelled_ids: `(a,)` message ids.
        labelled: `(a, d)` their vectors.
    """
    asked = [pick for pick in picks if pick.reason["strategy"] != AUDIT]  # theirs would sway a label given blind
    if not asked:
        return list(picks)
    rows = {int(id_): row for row, id_ in enumerate(pool.ids)}
    centres = unit(pool.vectors[[rows[pick.message_id] for pick in asked]].astype(np.float32, copy=False))
    near = _nearest(centres, pool.ids, pool.vectors, NEAR + 1)
    neighbours = _nearest(centres, labelled_ids, labelled, LABELLED)
    around = {
        pick.message_id: {
            "near": [id_ for id_, _ in near[n] if id_ != pick.message_id][:NEAR],
            "neighbours": [[id_, round(cosine, 2)] for id_, cosine in neighbours[n]],
        }
        for n, pick in enumerate(asked)
    }
    return [replace(pick, reason={**pick.reason, **around.get(pick.message_id, {})}) for pick in picks]


def _nearest(centres: npt.NDArray[np.float32], ids: Ids, vectors: Vectors, count: int) -> list[list[tuple[int, float]]]:
    """Return for each centre the ids and cosines of the `count` nearest vectors that are `_ALIKE`, block by block."""
    found: list[list[tuple[int, float]]] = [[] for _ in centres]
    for start in range(0, len(ids), _BLOCK):
        cosines = centres @ unit(vectors[start : start + _BLOCK].astype(np.float32, copy=False)).T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        for n, columns in enumerate(best):
            more = [(int(ids[start + column]), float(cosines[n, column])) for column in columns]
            kept = [pair for pair in more if pair[1] >= _ALIKE]
            found[n] = sorted(found[n] + kept, key=lambda pair: -pair[1])[:count]
    return found
