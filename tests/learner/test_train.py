"""What `learner.train` learns, and that it learns the same twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from guard.errors import BadConfiguration
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES, Category
from learner import backbone
from learner.dataset import Corpus, Dataset, assemble
from learner.head import balanced_weights
from learner.network import Network
from learner.progress import silent
from learner.settings import LearnerSettings
from learner.train import train
from tests.learner.conftest import without


@pytest.fixture(scope="module")
def dataset(corpus: Corpus) -> Dataset:
    """The easy corpus alone."""
    return assemble(corpus, [], variation_weight=0.3)


@pytest.fixture(scope="module")
def network(dataset: Dataset, settings: LearnerSettings) -> Network:
    """A network without fine-tuning."""
    return train(dataset, backbone.load(settings.backbone), settings, silent)[0]


def right(network: Network, dataset: Dataset) -> float:
    """Return the share of dev rows whose likeliest category is theirs."""
    labels = np.array([CATEGORIES.index(e.category) for e in dataset.dev])
    return float((network.score([e.text for e in dataset.dev]).argmax(axis=1) == labels).mean())


def test_it_learns(dataset: Dataset, settings: LearnerSettings) -> None:
    """On words that give the category away, dev is nearly all right, where a guess would be right in one of six."""
    network, contest = train(dataset, backbone.load(settings.backbone), settings, silent)
    assert right(network, dataset) > 0.9
    assert contest.cv_macro_f1 is not None
    assert contest.cv_macro_f1 > 0.9
    assert network.layers == [1, 2, 3]


def test_the_head_is_the_regression(network: Network, dataset: Dataset, settings: LearnerSettings) -> None:
    """Without fine-tuning the encoder is the pretrained one, to the bit."""
    pretrained = backbone.load(settings.backbone).encoder.state_dict()
    trained = network.encoder.state_dict()
    assert all(torch.equal(pretrained[name], trained[name]) for name in pretrained)


def test_forward_gives_logits_and_the_mean_of_the_last_layer(network: Network) -> None:
    """The embedding is the plain mean over a text's own tokens, whatever it is padded with."""
    short, long = network.encode(["fire", "i wrote joke because of poem"])
    ids, mask = network.collate([short, long])
    with torch.inference_mode():
        logits, embedding = network(ids, mask)
        alone = network.encoder(input_ids=torch.tensor([short])).last_hidden_state.mean(dim=1)
    assert logits.shape == (2, 6)
    assert embedding.shape == (2, 96)
    assert torch.allclose(embedding[0], alone[0], atol=1e-5)


def test_scores_do_not_depend_on_the_batch(network: Network) -> None:
    """A text gets the same logits alone and among others, in the order it was given."""
    texts = ["then fire because flood", "joke", "landlord and lawsuit and contract and custody and rash"]
    together = network.score(texts)
    assert np.allclose(together, np.concatenate([network.score([text]) for text in texts]), atol=1e-4)


@pytest.mark.parametrize("epochs", [0, 1])
def test_one_seed_gives_one_model(dataset: Dataset, settings: LearnerSettings, epochs: int) -> None:
    """Two runs with one seed give identical weights, with dropout and shuffling as without."""
    chosen = settings.model_copy(update={"fine_tune_epochs": epochs})
    torch.manual_seed(1)
    first = train(dataset, backbone.load(chosen.backbone), chosen, silent)[0].state_dict()
    torch.manual_seed(2)
    second = train(dataset, backbone.load(chosen.backbone), chosen, silent)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_more_threads_give_the_same_model(dataset: Dataset, settings: LearnerSettings, network: Network) -> None:
    """Threads embed whole batches each, so that their number changes nothing but the time."""
    many, _ = train(dataset, backbone.load(settings.backbone), settings.model_copy(update={"threads": 4}), silent)
    assert torch.equal(many.head.weight, network.head.weight)
    assert torch.equal(many.head.bias, network.head.bias)


def test_the_seed_matters_to_fine_tuning(dataset: Dataset, settings: LearnerSettings) -> None:
    """Another seed shuffles otherwise."""
    weights = []
    for seed in (1, 2):
        chosen = settings.model_copy(update={"fine_tune_epochs": 1, "seed": seed})
        weights.append(train(dataset, backbone.load(chosen.backbone), chosen, silent)[0].head.weight)
    assert not torch.equal(*weights)


def test_training_leaves_the_callers_random_numbers_alone(dataset: Dataset, settings: LearnerSettings) -> None:
    """Whoever draws random numbers around a training gets those of their own seed."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(dataset, backbone.load(settings.backbone), settings, silent)
    assert torch.equal(torch.rand(3), expected)


def test_fine_tuning_moves_the_encoder(dataset: Dataset, settings: LearnerSettings, network: Network) -> None:
    """Fine-tuning changes the encoder and leaves a network that is ready to serve."""
    chosen = settings.model_copy(update={"fine_tune_epochs": 3})
    tuned, contest = train(dataset, backbone.load(chosen.backbone), chosen, silent)
    assert contest.recipe.epochs == 3
    assert not tuned.training
    before, after = network.encoder.state_dict(), tuned.encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert right(tuned, dataset) > 0.9


def test_progress_says_how_far_it_is(dataset: Dataset, settings: LearnerSettings) -> None:
    """Every stage reports up to its end and never goes back."""
    seen: dict[str, list[tuple[int, int]]] = {}

    def note(stage: str, done: int, total: int) -> None:
        seen.setdefault(stage, []).append((done, total))

    train(dataset, backbone.load(settings.backbone), settings.model_copy(update={"fine_tune_epochs": 1}), note)
    assert list(seen) == ["embed", "choose", "fine-tune"]
    for reports in seen.values():
        assert reports == sorted(reports)
        assert reports[-1][0] == reports[-1][1]


def test_a_category_without_rows_is_named(corpus: Corpus, settings: LearnerSettings) -> None:
    """Nothing is trained when a category has no row."""
    dataset = assemble(without(corpus, Category.LEGAL_ADVICE), [], variation_weight=0.3)
    with pytest.raises(BadConfiguration, match=r"no training row of legal-advice: .*train\.jsonl"):
        train(dataset, backbone.load(settings.backbone), settings, silent)


def test_one_row_a_category_is_enough(dataset: Dataset, settings: LearnerSettings) -> None:
    """With nothing to hold out there is no cross-validation, and a model all the same."""
    firsts = {e.category: e for e in reversed(dataset.train)}
    few = replace(dataset, train=tuple(firsts.values()))
    _network, contest = train(few, backbone.load(settings.backbone), settings, silent)
    assert contest.cv_macro_f1 is None


def test_variations_are_trained_on_and_not_scored(corpus: Corpus, settings: LearnerSettings, network: Network) -> None:
    """Variations change the model by their weight, while the cross-validated figure is of people's rows alone."""
    unlearnable = [
        LabelledText(900 + i, f"zyx wvu number {i} of {len(CATEGORIES)}", CATEGORIES[i % 6], variation=True)
        for i in range(120)
    ]
    dataset = assemble(corpus, unlearnable, variation_weight=0.01)
    assert len(dataset.train) == len(corpus.train) + 120
    fixed = settings.model_copy(update={"variation_weight": 0.01})
    varied, contest = train(dataset, backbone.load(settings.backbone), fixed, silent)
    assert not torch.equal(varied.head.weight, network.head.weight)
    assert contest.cv_macro_f1 is not None
    assert contest.cv_macro_f1 > 0.9  # about 0.6 if they were scored


def test_balanced_weights_give_every_category_the_same_sum() -> None:
    """However many rows a category has and however light they are, it weighs as much as another."""
    labels = np.array([0] * 50 + [1] * 5 + [2, 3, 4, 5])
    weights = np.array([1.0] * 40 + [0.3] * 10 + [1.0] * 9)
    balanced = balanced_weights(labels, weights)
    assert np.allclose(np.bincount(labels, weights=balanced), len(labels) / 6)
    assert balanced[45] / balanced[0] == pytest.approx(0.3)


def test_windows_longer_than_the_encoder_are_refused(dataset: Dataset, distilbert: Path) -> None:
    """The setting is checked against the backbone before anything is trained."""
    settings = LearnerSettings(backbone=str(distilbert), max_tokens=256)
    with pytest.raises(BadConfiguration, match="LEARNER_MAX_TOKENS=256"):
        train(dataset, backbone.load(settings.backbone), settings, silent)
