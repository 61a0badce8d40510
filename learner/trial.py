"""Training sets and test rows into what heads trained on the ones are worth on the others, resample by resample.

`learner.reproduce` asks for them. The test rows choose nothing; the same resamples of them serve every head, so that any
two may be compared in pairs.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold

from guard.decision import softmax
from guard.taxonomy import CATEGORIES, Category
from learner.calibrate import temperature
from learner.dataset import Example
from learner.head import Doubles, Floats, Labels, Recipe, Rows, fit_head, one_blas_thread
from learner.network import Network
from learner.paper import PaperRow
from learner.progress import Progress
from learner.report import mean_f1
from learner.settings import LearnerSettings
from learner.tournament import STRENGTHS

RESAMPLES: Final = 2_000
FOLDS: Final = 5
REPEATS: Final = 2
# The paper's Table 3 is only matched by the sample standard deviation, so its Table 8 is taken to be one too.
DDOF: Final = 1
_CHUNK: Final = 500  # resamples drawn at once: 500 x 1,349 rows are 5 MB
_SIZE: Final = len(CATEGORIES)
_FIVE: Final = [i for i, category in enumerate(CATEGORIES) if category is not Category.EMERGENCY_SITUATION]

TrainingSet = tuple[Example, ...]


class Estimate(msgspec.Struct, frozen=True):
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure on the data as they are, first, and on every resample of them: `(2001,)`."""

    values: Doubles

    def __sub__(self, other: "Spread") -> "Spread":
        return Spread(self.values - other.values)

    def percentile(self) -> Estimate:
        """Return the figure with the percentile interval of the bootstrap."""
        low, high = np.percentile(self.values[1:], (2.5, 97.5))
        return Estimate(float(self.values[0]), float(low), float(high))

    def basic(self) -> Estimate:
        """Return the figure with the basic interval, for one that resampling by itself makes larger."""
        return Spread(2 * self.values[0] - self.values).percentile()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the heads of one training set, one a seed, are worth on the test rows, in percent and as means over seeds.

    Args:
        rows: Training rows.
        strengths: C of each seed.
        six: Macro-F1.
        five: Macro-F1 over the categories other than emergency.
        six_seeds: Macro-F1 of each seed.
        error_std: Standard deviation of the categories' error rates.
        errors: Those rates, in the order of `CATEGORIES`.
    """

    rows: int
    strengths: list[float]
    six: Spread
    five: Spread
    six_seeds: list[float]
    error_std: Spread
    errors: list[float]


def outcomes(
    sets: Sequence[TrainingSet], test: Sequence[PaperRow], settings: LearnerSettings, progress: Progress, *, seeds: int
) -> dict[TrainingSet, Outcome]:
    """Train on each set and test; those that are equal, as where the repair changes no label, are one.

    Every head is a class-balanced logistic regression on the pooled layers of the backbone. Its C is chosen for each
    seed by repeated stratified cross-validation on the training rows alone: groups stay together, only what people
    labelled is judged, by log-loss after its best temperature.

    Args:
        sets: Each with at least five groups of people's rows of every category.
        test: Only reported on.
        settings: `backbone`, `max_tokens` and `threads`.
        progress: Told of embedding and choosing.
        seeds: Of the cross-validation, from 0.
    """
    distinct = list(dict.fromkeys(sets))
    texts = list(dict.fromkeys([e.text for examples in distinct for e in examples] + [row.text for row in test]))
    places = {text: place for place, text in enumerate(texts)}
    from learner.backbone import load

    network = Network(load(settings.backbone), max_tokens=settings.max_tokens, threads=settings.threads)
    features = network.embed(texts, progress)
    inputs = [features[[places[e.text] for e in examples]] for examples in distinct]
    rows = [Rows.of(examples) for examples in distinct]
    jobs = [(which, seed) for which in range(len(distinct)) for seed in range(seeds)]
    chosen: list[list[float]] = [[] for _ in distinct]
    with warnings.catch_warnings(), one_blas_thread(), ThreadPoolExecutor(settings.threads) as pool:
        warnings.filterwarnings("ignore", category=ConvergenceWarning)  # a head far from its optimum loses by log-loss
        turned = [_turned(x) for x in inputs]
        strengths = pool.map(lambda job: _strength(turned[job[0]], rows[job[0]], job[1]), jobs)
        for done, ((which, _seed), strength) in enumerate(zip(jobs, strengths, strict=True), 1):
            chosen[which].append(strength)
            progress("choose", done, len(jobs))
        bench = _Bench.of(test, features[[places[row.text] for row in test]])
        parts = zip(distinct, inputs, rows, chosen, strict=True)
        return {examples: bench.judge(x, r, c) for examples, x, r, c in parts}


def resamples(rows: int, seed: int) -> Doubles:
    """Return `(2001, rows)` how often each row is in each resample; in the first every row is once."""
    generator = np.random.default_rng(seed)
    chances = np.full(rows, 1 / rows)
    parts = [generator.multinomial(rows, chances, size=_CHUNK) for _ in range(RESAMPLES // _CHUNK)]
    return np.concatenate([np.ones((1, rows)), *parts])


def _turned(features: Floats) -> Floats:
    """Return features turned into the space of their own rows, at most `(n, n)`.

    The penalty does not change under a rotation, so fitted logits are the same, and 250 or 750 rows fit in half the time.
    """
    left, values, _right = np.linalg.svd(features, full_matrices=False)
    return np.asarray(left * values, dtype=np.float32)


def _strength(features: Floats, rows: Rows, seed: int) -> float:
    """Return the C with the least log-loss on people's rows that were held out, their groups with them."""
    human = np.flatnonzero(rows.human)
    labels, groups = rows.labels[human], rows.groups[human]
    logits = np.empty((len(STRENGTHS), REPEATS, len(human), _SIZE), dtype=np.float32)
    for repeat in range(REPEATS):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=REPEATS * seed + repeat)
        for _inside, held_out in folds.split(human, labels, groups):
            inside = ~np.isin(rows.groups, groups[held_out])
            for place, strength in enumerate(STRENGTHS):
                head = fit_head(features[inside], rows.some(inside), _recipe(strength))
                logits[place, repeat, held_out] = head.decision_function(features[human[held_out]])
    losses = [_loss(found.reshape(-1, _SIZE), np.tile(labels, REPEATS)) for found in logits]
    return STRENGTHS[int(np.argmin(losses))]


def _recipe(strength: float) -> Recipe:
    return Recipe(strength=strength, balance=1.0, variation_weight=1.0)  # times the weight that a row has already


def _loss(logits: Floats, labels: Labels) -> float:
    probabilities = softmax(logits / np.float32(temperature(logits, labels)))
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


@dataclass(frozen=True, slots=True)
class _Bench:
    """The test rows: `(n, layers * d)` features, `(n,)` labels, `(2001, n)` resamples."""

    features: Floats
    labels: Labels
    resamples: Doubles

    @classmethod
    def of(cls, test: Sequence[PaperRow], features: Floats) -> "_Bench":
        labels = np.array([CATEGORIES.index(row.category) for row in test])
        return cls(features, labels, resamples(len(test), 0))

    def judge(self, features: Floats, rows: Rows, strengths: list[float]) -> Outcome:
        """Fit the heads of all seeds and measure them."""
        tables = {c: self._confusions(fit_head(features, rows, _recipe(c)).predict(self.features)) for c in strengths}
        six = np.array([100 * mean_f1(tables[c]) for c in strengths])
        five = np.array([100 * mean_f1(tables[c], categories=_FIVE) for c in strengths])
        errors = np.array([_errors(tables[c]) for c in strengths])
        return Outcome(
            rows=len(rows.labels),
            strengths=strengths,
            six=Spread(six.mean(axis=0)),
            five=Spread(five.mean(axis=0)),
            six_seeds=six[:, 0].tolist(),
            error_std=Spread(np.nanstd(errors, axis=2, ddof=DDOF).mean(axis=0)),
            errors=errors[:, 0].mean(axis=0).tolist(),
        )

    def _confusions(self, decisions: Labels) -> Labels:
        """Return `(2001, 6, 6)` counts, a row for each label and a column for each decision."""
        cells = np.eye(_SIZE * _SIZE)[self.labels * _SIZE + decisions]
        counts = np.rint(self.resamples @ cells)
        return np.asarray(counts.reshape(-1, _SIZE, _SIZE), dtype=np.int_)


def _errors(tables: Labels) -> Doubles:
    """Return `(..., 6)` error rates in percent of `(..., 6, 6)` counts; nan for a category without a row."""
    totals = tables.sum(axis=-1)
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    shares = np.divide(right, totals, out=np.full(totals.shape, np.nan), where=totals > 0)
    return np.asarray(100 * (1 - shares), dtype=np.float64)
