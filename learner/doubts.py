"""People's labels and what models say that never saw them come in; the labels that look wrong go out, the likeliest first.

Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70, 1373-1411).
`learner.challenger` asks, with the probabilities that the tournament's cross-validation leaves behind; `store.doubts` keeps
what comes out until somebody has looked again.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from guard.store.doubts import Suspicion
from guard.taxonomy import CATEGORIES
from learner.dataset import Dataset
from learner.head import Floats, Labels

Places = npt.NDArray[np.intp]

_AGAIN: Final = 0.1  # of a batch, as many labels more are looked at again: their people's time is for new ones


def most(batch_size: int) -> int:
    """Return how many labels a cycle has people look at again, one at least."""
    return max(1, round(_AGAIN * batch_size))


def doubts(dataset: Dataset, unseen: Floats | None) -> tuple[Suspicion, ...]:
    """Return people's labels that are suspected, the likeliest errors first.

    The thresholds are taken over all rows that no LLM varied, the corpus among them; only what people labelled is
    suspected.

    Args:
        dataset: What was trained on.
        unseen: `(n, 6)` probabilities of its rows that are no variations, by models that had neither the row nor others
            of its group; None gives no doubts.
    """
    if unseen is None:
        return ()
    examples = [example for example in dataset.train if not example.variation]
    labels = np.array([CATEGORIES.index(example.category) for example in examples], dtype=np.int_)
    rows, opinions = suspected(unseen, labels)
    return tuple(
        Suspicion(message_id, examples[row].category, CATEGORIES[opinion], float(unseen[row, opinion]))
        for row, opinion in zip(rows.tolist(), opinions.tolist(), strict=True)
        if (message_id := examples[row].message_id) is not None
    )


def suspected(unseen: Floats, labels: Labels) -> tuple[Places, Labels]:
    """Return the rows that the confident joint puts off its diagonal, and the category it puts each in.

    A category's threshold is the mean probability that its own rows have for it (equation 2 there), so that one which a
    model is shy about is reached at less. Of the categories whose threshold a row reaches, it is counted in the likeliest
    (equation 1); where that is not its label, it is suspected. The row with the least normalised margin, the label's
    probability less the highest of the others, comes first (section 3.2.1 there, after Wei et al. 2018).

    Args:
        unseen: `(n, 6)` probabilities by models that have not seen the row.
        labels: `(n,)` indices into `CATEGORIES`.
    """
    own = unseen[np.arange(len(labels)), labels].astype(np.float64)
    counts = np.bincount(labels, minlength=len(CATEGORIES))
    sums = np.bincount(labels, weights=own, minlength=len(CATEGORIES))
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(unseen >= thresholds, unseen, -1.0)
    opinions = np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), labels)
    rows = np.flatnonzero(opinions != labels)
    others = unseen[rows].copy()
    others[np.arange(len(rows)), labels[rows]] = -1.0
    order = np.argsort(own[rows] - others.max(axis=1), kind="stable")
    return rows[order], opinions[rows[order]]
