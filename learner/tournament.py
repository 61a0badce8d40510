"""A training set into the recipe that does best on scenarios it has not seen, and what the contest showed.

Recipes are compared by repeated cross-validation in which a scenario and its variations stay together, and only on what
people labelled: an LLM's paraphrases are easier than what people type. `learner.train` then follows the winner.
"""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from guard.decision import softmax
from guard.taxonomy import CATEGORIES
from learner.backbone import MINILM
from learner.calibrate import temperature
from learner.compare import by_group, resampled_deltas
from learner.head import Floats, Recipe, Rows, fit_head, one_blas_thread
from learner.network import Network
from learner.progress import Progress
from learner.report import macro_f1
from learner.settings import LearnerSettings
from learner.tune import cost, fit

STRENGTHS: Final = (0.3, 1.0, 3.0, 10.0)
BALANCES: Final = (1.0, 0.5)
VARIATION_WEIGHTS: Final = (0.3, 0.0, 0.1, 1.0)  # the first is tried with every balance
EPOCHS: Final = 3
_FOLDS: Final = 5
_FEW_FOLDS: Final = 3
_MANY_ROWS: Final = 1_500  # people's rows from which three folds, once, tell as much as five, twice, with fewer
_MAX_TUNED: Final = 3  # splits on which fine-tuning is compared
_CERTAIN: Final = 2.0  # standard errors

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Split = tuple[Indices, Indices]
Decided = tuple[npt.NDArray[np.int_], npt.NDArray[np.int_], npt.NDArray[np.int_]]


@dataclass(frozen=True)
class Contest:
    """What the tournament chose, and why.

    Args:
        recipe: The winner.
        cv_macro_f1: Macro-F1 of its head on held-out scenarios; None when there was too little data to hold any out.
        figures: Further figures by name: `variations_worth`, the change of macro-F1 that the best recipe with
            variations brings over the best without them, `tuning_worth`, likewise of fine-tuning, in shares of 1, each
            with its 95 % interval in `_low` and `_high`.
        unseen: `(people's rows, 6)` probabilities by heads of the winner that have not seen the row's scenario, means
            over the repeats; None when there was too little data.
    """

    recipe: Recipe
    cv_macro_f1: float | None
    figures: dict[str, float] = field(default_factory=dict)
    unseen: Logits | None = field(default=None, repr=False, compare=False)

    def metrics(self) -> dict[str, float]:
        """Return all of it by name, for the manifest."""
        recipe = {f"recipe.{name}": float(value) for name, value in asdict(self.recipe).items()}
        validated = {} if self.cv_macro_f1 is None else {"cv_macro_f1": self.cv_macro_f1}
        return recipe | validated | self.figures


def compete(
    network: Network,
    texts: Sequence[str],
    features: Floats,
    rows: Rows,
    settings: LearnerSettings,
    progress: Progress,
) -> Contest:
    """Choose a recipe. The same data and settings give the same one.

    C and the weight of variations are chosen by log-loss after its best temperature: on the paper's four sets of 250
    human rows, judged on 380 other rows, that brought 76.1 macro-F1 where choosing by macro-F1 itself, which is mostly
    noise with so few, brought 73.2. The balance, which log-loss cannot judge because it prefers the larger categories,
    is chosen by macro-F1. Fine-tuning is chosen when its log-loss is lower by two standard errors and its macro-F1 not
    lower; it is tried on as many splits as `tournament_s` allows.

    Args:
        network: With its pretrained encoder; not changed.
        texts: `n` training texts.
        features: `(n, layers * d)` of the texts.
        rows: Their labels, weights and groups.
        settings: `variation_weight` and `fine_tune_epochs` where they are not to be chosen, and `tournament_s`.
        progress: Told after every fit.
    """
    weights = VARIATION_WEIGHTS if settings.variation_weight is None else (1.0,)
    start = Recipe(variation_weight=weights[0], epochs=_default_epochs(network, settings))
    folds = _folds(rows)
    if folds < 2:  # noqa: PLR2004 - some category has nothing to hold out
        return Contest(start, None)
    weighed = not rows.human.all() and len(weights) > 1
    contenders = (len(BALANCES) + (len(weights) - 1 if weighed else 0)) * len(STRENGTHS)
    arena = _Arena(features, rows, _splits(rows, folds, settings.seed), settings.threads, progress, contenders)
    by_balance = [arena.best([replace(start, strength=c, balance=balance) for c in STRENGTHS]) for balance in BALANCES]
    winner = max(by_balance, key=arena.macro_f1)
    figures: dict[str, float] = {}
    if weighed:
        by_weight = [
            arena.best([replace(winner, strength=c, variation_weight=weight) for c in STRENGTHS]) for weight in weights
        ]
        without = by_weight[weights.index(0.0)]
        varied = arena.best([recipe for recipe in by_weight if recipe is not without])
        winner = arena.best([varied, without])
        figures |= _worth("variations_worth", arena.decided(without), arena.decided(varied), settings.seed)
    cv_macro_f1, unseen = arena.macro_f1(winner), arena.probabilities(winner)
    if settings.fine_tune_epochs is None:
        epochs, tuned = _tuned(network, texts, features, rows, winner, settings, progress)
        winner, figures = replace(winner, epochs=epochs), figures | tuned
    return Contest(winner, cv_macro_f1, figures, unseen)


@dataclass
class _Arena:
    """Cross-validated logits of heads, each recipe's computed once."""

    features: Floats
    rows: Rows
    splits: list[list[Split]]
    threads: int
    progress: Progress
    contenders: int  # how many recipes will be asked for
    _logits: dict[Recipe, Logits] = field(default_factory=dict)

    def best(self, recipes: Sequence[Recipe]) -> Recipe:
        """Return the recipe with the least log-loss, to four decimals, the earlier one of equals."""
        return min(recipes, key=lambda recipe: round(float(_losses(self.logits(recipe), self._labels()).mean()), 4))

    def macro_f1(self, recipe: Recipe) -> float:
        """Return macro-F1 over all repeats."""
        labels, decisions, _groups = self.decided(recipe)
        return macro_f1(labels, decisions)

    def probabilities(self, recipe: Recipe) -> Logits:
        """Return `(human rows, 6)` probabilities at the best temperature, means over the repeats."""
        logits = self.logits(recipe)
        found = softmax(logits / np.float32(temperature(logits, self._labels())))
        return np.asarray(found.reshape(len(self.splits), -1, len(CATEGORIES)).mean(axis=0), dtype=np.float32)

    def decided(self, recipe: Recipe) -> Decided:
        """Return labels, decisions and groups of people's rows, repeat after repeat."""
        groups = np.tile(self.rows.groups[self.rows.human], len(self.splits))
        return self._labels(), self.logits(recipe).argmax(axis=1), groups

    def logits(self, recipe: Recipe) -> Logits:
        """Return `(repeats * human rows, 6)` logits of rows that were held out."""
        if recipe not in self._logits:
            jobs = [(recipe, split) for repeat in self.splits for split in repeat]
            before, total = len(self._logits) * len(jobs), self.contenders * len(jobs)
            found = np.empty((len(self.splits), len(self.rows.labels), len(CATEGORIES)), dtype=np.float32)
            with one_blas_thread(), ThreadPoolExecutor(self.threads) as pool:
                for i, held_out in enumerate(pool.map(self._fit, jobs)):
                    found[i // len(self.splits[0]), jobs[i][1][1]] = held_out
                    self.progress("choose", before + i + 1, total)
            self._logits[recipe] = found[:, self.rows.human].reshape(-1, len(CATEGORIES))
        return self._logits[recipe]

    def _fit(self, job: tuple[Recipe, Split]) -> Logits:
        recipe, (inside, outside) = job
        return _head_logits(self.features, self.rows, recipe, inside, outside)

    def _labels(self) -> npt.NDArray[np.int_]:
        return np.tile(self.rows.labels[self.rows.human], len(self.splits))


def _head_logits(features: Floats, rows: Rows, recipe: Recipe, inside: Indices, outside: Indices) -> Logits:
    """Return `(outside, 6)` logits of a head fitted to the rows inside."""
    head = fit_head(features[inside], rows.some(inside), recipe)
    return np.asarray(features[outside] @ head.coef_.T + head.intercept_, dtype=np.float32)


def _tuned(
    network: Network,
    texts: Sequence[str],
    features: Floats,
    rows: Rows,
    recipe: Recipe,
    settings: LearnerSettings,
    progress: Progress,
) -> tuple[int, dict[str, float]]:
    """Return the epochs of fine-tuning that are worth it, and what they brought."""
    one = cost(network, texts, epochs=EPOCHS)
    affordable = min(_MAX_TUNED, int(settings.tournament_s / one))
    if affordable == 0:
        return _default_epochs(network, settings), {}
    splits = _splits(rows, _folds(rows), settings.seed)[0][:affordable]
    plain, tuned, held_out = [], [], []
    for place, (inside, outside) in enumerate(splits):
        scored = outside[rows.human[outside]]
        plain.append(_head_logits(features, rows, recipe, inside, scored))
        contender = copy.deepcopy(network)
        chosen = replace(recipe, epochs=EPOCHS)
        fit(
            contender,
            [texts[i] for i in inside],
            features[inside],
            rows.some(inside),
            chosen,
            seed=settings.seed,
            progress=partial(_compared, progress, place, affordable),
        )
        tuned.append(contender.score([texts[i] for i in scored]))
        held_out.append(scored)
    places = np.concatenate(held_out)
    labels, groups = rows.labels[places], rows.groups[places]
    before, after = np.concatenate(plain), np.concatenate(tuned)
    gains = _losses(before, labels) - _losses(after, labels)
    figures = _worth(
        "tuning_worth", (labels, before.argmax(axis=1), groups), (labels, after.argmax(axis=1), groups), settings.seed
    )
    sums = np.bincount(groups, weights=gains)[np.unique(groups)]
    error = float(np.sqrt(((sums - sums.mean()) ** 2).sum())) / len(gains)
    worth = gains.mean() > _CERTAIN * error and figures["tuning_worth"] >= 0
    return (EPOCHS if worth else 0), figures | {"tuning_log_loss_gain": float(gains.mean())}


def _compared(progress: Progress, place: int, splits: int, _stage: str, done: int, total: int) -> None:
    progress("compare", round(100 * (place + done / total)), 100 * splits)


def _default_epochs(network: Network, settings: LearnerSettings) -> int:
    """Return the epochs where they cannot be chosen: none for an encoder that was made for sentences."""
    if settings.fine_tune_epochs is not None:
        return settings.fine_tune_epochs
    return 0 if network.backbone.name == MINILM else EPOCHS


def _folds(rows: Rows) -> int:
    groups = (len(np.unique(rows.groups[rows.human & (rows.labels == c)])) for c in range(len(CATEGORIES)))
    return min(_FEW_FOLDS if rows.human.sum() > _MANY_ROWS else _FOLDS, *groups)


def _splits(rows: Rows, folds: int, seed: int) -> list[list[Split]]:
    repeats = 1 if rows.human.sum() > _MANY_ROWS else 2
    return [
        list(
            StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat).split(
                rows.labels, rows.labels, rows.groups
            )
        )
        for repeat in range(repeats)
    ]


def _losses(logits: Logits, labels: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """Return `(n,)` log-losses at the temperature that suits the logits best."""
    probabilities = softmax(logits / np.float32(temperature(logits, labels)))
    return -np.log(np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-12))


def _worth(name: str, before: Decided, after: Decided, seed: int) -> dict[str, float]:
    """Return the change of macro-F1 and its 95 % interval."""
    labels, _decisions, groups = before
    old, new = (by_group(labels, decided[1], groups) for decided in (before, after))
    low, high = np.percentile(resampled_deltas(old, new, seed), (2.5, 97.5))
    delta = macro_f1(labels, after[1]) - macro_f1(labels, before[1])
    return {name: delta, f"{name}_low": float(low), f"{name}_high": float(high)}
