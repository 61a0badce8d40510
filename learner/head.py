"""The linear head: rows of features with weights into a logistic regression, in the ways a recipe can ask for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from guard.taxonomy import CATEGORIES
from learner.dataset import Example

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int_]  # indices into CATEGORIES

_MAX_ITERATIONS: Final = 1_000
_LEAST: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is made of a data set.

    Args:
        strength: C of the head's regression.
        balance: How far category sizes are evened out: 0 not at all, 1 entirely.
        variation_weight: Factor on the weight of variations.
        epochs: Epochs of fine-tuning after the head.
    """

    strength: float = 1.0
    balance: float = 1.0
    variation_weight: float = 0.3
    epochs: int = 0


@dataclass(frozen=True)
class Rows:
    """A training set in numbers, `n` rows.

    Args:
        labels: `(n,)` indices into `CATEGORIES`.
        weights: `(n,)` as the data set has them.
        groups: `(n,)` numbers of the scenarios.
        human: `(n,)` whether it is no variation.
    """

    labels: Labels
    weights: Doubles
    groups: npt.NDArray[np.int_]
    human: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Rows":
        """Return the numbers of some examples."""
        _names, groups = np.unique([e.group for e in examples], return_inverse=True)
        return cls(
            labels=np.array([CATEGORIES.index(e.category) for e in examples], dtype=np.int_),
            weights=np.array([e.weight for e in examples], dtype=np.float64),
            groups=groups,
            human=np.array([not e.variation for e in examples], dtype=np.bool_),
        )

    def some(self, chosen: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Rows":
        """Return the chosen ones."""
        return Rows(self.labels[chosen], self.weights[chosen], self.groups[chosen], self.human[chosen])

    def balanced(self, recipe: Recipe) -> Doubles:
        """Return the `(n,)` weights that a recipe gives the rows; 0 where it leaves variations out."""
        factors = np.where(self.human, 1.0, recipe.variation_weight)
        return balanced_weights(self.labels, self.weights * factors, recipe.balance)


def balanced_weights(labels: Labels, weights: Doubles, balance: float = 1.0) -> Doubles:
    """Return `(n,)` weights, those above 0 with mean 1, divided by the total of their category to the power of `balance`.

    At 1 every category weighs the same in all; at 0.5 the larger ones weigh more, by the root of their size.
    """
    totals = np.bincount(labels, weights=weights, minlength=len(CATEGORIES))
    shares = weights * np.maximum(totals[labels], _LEAST) ** -balance
    return np.asarray(shares / shares[weights > 0].mean(), dtype=np.float64)


def regression(strength: float) -> LogisticRegression:
    """Return the head as it is fitted, with `balanced_weights`, on features."""
    return LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS)


def fit_head(features: Floats, rows: Rows, recipe: Recipe) -> LogisticRegression:
    """Return a recipe's head, fitted to `(n, layers * d)` features."""
    weights = rows.balanced(recipe)
    kept = weights > 0
    return regression(recipe.strength).fit(features[kept], rows.labels[kept], sample_weight=weights[kept])


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Fit heads on one thread each: matrices this small gain nothing from a second, and lose where cores are shared.

    Not around fine-tuning, which needs them all, and entered once around threads that fit, for it is global.
    """
    with threadpool_limits(1, "blas"):
        yield
