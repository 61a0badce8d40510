"""Two answers to the same labelled rows into the difference between them, with its interval over scenarios."""

from typing import Final

import numpy as np
import numpy.typing as npt

from guard.taxonomy import CATEGORIES
from learner.report import Indices, mean_f1

RESAMPLES: Final = 2_000
_CHUNK: Final = 250  # resamples drawn at once: 250 x 5,000 groups are 10 MB


def by_group(labels: Indices, decisions: Indices, groups: Indices) -> npt.NDArray[np.int_]:
    """Return `(groups, 6, 6)` confusions.

    Args:
        labels: `(n,)` indices into `CATEGORIES`.
        decisions: `(n,)` likewise.
        groups: `(n,)` numbers from 0.
    """
    size = len(CATEGORIES)
    table = np.zeros((groups.max() + 1, size, size), dtype=np.int_)
    np.add.at(table, (groups, labels, decisions), 1)
    return table


def resampled_deltas(before: npt.NDArray[np.int_], after: npt.NDArray[np.int_], seed: int) -> npt.NDArray[np.float64]:
    """Return `(2000,)` changes of macro-F1 (the paired bootstrap), each over as many groups as there are.

    Args:
        before: `(groups, 6, 6)` confusions.
        after: Likewise, of the same rows.
        seed: Of the draws.
    """
    groups, size = len(before), len(CATEGORIES)
    generator = np.random.default_rng(seed)
    deltas = []
    for _ in range(RESAMPLES // _CHUNK):
        draws = generator.multinomial(groups, np.full(groups, 1 / groups), size=_CHUNK)
        old, new = ((draws @ table.reshape(groups, -1)).reshape(_CHUNK, size, size) for table in (before, after))
        deltas.append(mean_f1(new) - mean_f1(old))
    return np.concatenate(deltas)
