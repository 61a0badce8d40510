"""That the tournament finds what is better on scenarios it has not seen."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from guard.taxonomy import CATEGORIES
from learner import backbone
from learner.dataset import Corpus
from learner.head import Recipe, Rows, balanced_weights, fit_head
from learner.network import Network
from learner.progress import silent
from learner.settings import LearnerSettings
from learner.tournament import STRENGTHS, compete

_WIDTH = 12


@pytest.fixture(scope="module")
def network(settings: LearnerSettings) -> Network:
    """A network with a random encoder."""
    return Network(backbone.load(settings.backbone), max_tokens=settings.max_tokens, threads=1)


@pytest.fixture(scope="module")
def free(settings: LearnerSettings) -> LearnerSettings:
    """Settings that leave the weight of variations to the tournament, and fine-tuning out of it."""
    return settings.model_copy(update={"variation_weight": None, "fine_tune_epochs": 0})


def noisy(seed: int, counts: Sequence[int], noise: float = 1.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int_]]:
    """Return features around a centre for each category, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CATEGORIES)), counts)
    features = 1.5 * np.eye(len(CATEGORIES), _WIDTH)[labels] + noise * generator.normal(size=(len(labels), _WIDTH))
    return features.astype(np.float32), labels


def people(labels: npt.NDArray[np.int_]) -> Rows:
    """Return rows of as many scenarios as there are labels."""
    size = len(labels)
    return Rows(labels, np.ones(size), np.arange(size), np.ones(size, dtype=np.bool_))


def with_variations(rows: Rows, labels: npt.NDArray[np.int_], groups: npt.NDArray[np.int_]) -> Rows:
    """Return rows with variations behind them."""
    return Rows(
        np.concatenate([rows.labels, labels]),
        np.ones(len(rows.labels) + len(labels)),
        np.concatenate([rows.groups, groups]),
        np.concatenate([rows.human, np.zeros(len(labels), dtype=np.bool_)]),
    )


def test_mislabelled_variations_get_no_weight(network: Network, free: LearnerSettings) -> None:
    """Variations whose labels are wrong are left out, and the figures say that they were worth less than nothing."""
    features, labels = noisy(0, [25] * 6)
    wrong = (labels + 1) % len(CATEGORIES)
    rows = with_variations(people(labels), wrong, np.arange(len(labels)))
    both = np.concatenate([features, features + 0.01])
    contest = compete(network, [""] * len(both), both, rows, free, silent)
    assert contest.recipe.variation_weight == 0
    assert contest.figures["variations_worth"] < 0


def test_good_variations_get_weight(network: Network, free: LearnerSettings) -> None:
    """Where people's rows are few and each variation is a fresh draw of its category, variations are trained on."""
    features, labels = noisy(1, [8] * 6)
    fresh, theirs = noisy(2, [40] * 6)
    rows = with_variations(people(labels), theirs, 1_000 + np.arange(len(theirs)))
    both = np.concatenate([features, fresh])
    contest = compete(network, [""] * len(both), both, rows, free, silent)
    assert contest.recipe.variation_weight > 0
    assert contest.figures["variations_worth"] > 0
    assert contest.figures["variations_worth_low"] <= contest.figures["variations_worth"]


def test_variations_stay_with_their_scenario(network: Network, free: LearnerSettings) -> None:
    """Copies of a message never help to recognise it: in noise, cross-validation stays at chance."""
    generator = np.random.default_rng(3)
    features = generator.normal(size=(120, _WIDTH)).astype(np.float32)
    labels = np.arange(120) % len(CATEGORIES)
    rows = with_variations(people(labels), labels, np.arange(120))
    contest = compete(network, [""] * 240, np.concatenate([features, features]), rows, free, silent)
    assert contest.cv_macro_f1 is not None
    assert contest.cv_macro_f1 < 0.35  # a copy on the other side of a split would make it nearly 1


def test_a_fixed_weight_is_kept(network: Network, free: LearnerSettings) -> None:
    """An operator's weight of variations is not put to the vote."""
    features, labels = noisy(0, [25] * 6)
    rows = with_variations(people(labels), (labels + 1) % 6, np.arange(len(labels)))
    fixed = free.model_copy(update={"variation_weight": 0.5})
    contest = compete(network, [""] * 300, np.concatenate([features, features]), rows, fixed, silent)
    assert contest.recipe.variation_weight == 1.0  # the data set has the operator's weight in its rows already
    assert "variations_worth" not in contest.figures


def test_what_tells_most_decides_the_regularisation(network: Network, free: LearnerSettings) -> None:
    """Features full of noise ask for a small C; faint ones that tell everything, beside loud ones that tell nothing, for a large."""
    noise, labels = noisy(4, [30] * 6, 2.0)
    faint = np.random.default_rng(5).normal(size=noise.shape).astype(np.float32)
    faint[:, : len(CATEGORIES)] = 0.1 * np.eye(len(CATEGORIES), dtype=np.float32)[labels]
    small, large = (
        compete(network, [""] * 180, features, people(labels), free, silent).recipe.strength
        for features in (noise, faint)
    )
    assert (small, large) == (min(STRENGTHS), max(STRENGTHS))


def test_fine_tuning_is_compared_and_has_to_win(corpus: Corpus, network: Network, settings: LearnerSettings) -> None:
    """The figures say what fine-tuning brought; what it did not improve by two standard errors stays undone."""
    rows, texts = Rows.of(corpus.train), [e.text for e in corpus.train]
    features = network.embed(texts)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    chosen = settings.model_copy(update={"fine_tune_epochs": None, "tournament_s": 300.0})
    contest = compete(network, texts, features, rows, chosen, silent)
    assert contest.figures["tuning_worth_low"] <= contest.figures["tuning_worth"]
    if contest.recipe.epochs:
        assert contest.figures["tuning_log_loss_gain"] > 0
        assert contest.figures["tuning_worth"] >= 0
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


def test_without_time_nothing_is_fine_tuned_to_compare(
    corpus: Corpus, network: Network, settings: LearnerSettings
) -> None:
    """A backbone that is no sentence encoder is fine-tuned where there is no time to ask whether it should be."""
    rows, texts = Rows.of(corpus.train), [e.text for e in corpus.train]
    chosen = settings.model_copy(update={"fine_tune_epochs": None, "tournament_s": 0.0})
    contest = compete(network, texts, network.embed(texts), rows, chosen, silent)
    assert contest.recipe.epochs == 3
    assert "tuning_worth" not in contest.figures


def test_rows_of_no_weight_do_not_count() -> None:
    """A head fitted with variations at weight 0 is the head without them."""
    features, labels = noisy(5, [20] * 6)
    rows = with_variations(people(labels), (labels + 2) % 6, np.arange(len(labels)))
    recipe = Recipe(variation_weight=0.0)
    both = fit_head(np.concatenate([features, features]), rows, recipe)
    alone = fit_head(features, people(labels), recipe)
    assert np.allclose(both.coef_, alone.coef_)


def test_half_balanced_weights_lie_between() -> None:
    """At balance 0.5 a category of four times the size weighs twice as much, at 0 four times."""
    labels = np.array([0] * 40 + [1] * 10)
    for balance, ratio in ((1.0, 1.0), (0.5, 2.0), (0.0, 4.0)):
        sums = np.bincount(labels, weights=balanced_weights(labels, np.ones(50), balance))
        assert sums[0] / sums[1] == pytest.approx(ratio)
