"""A data set and a backbone into a trained network: embed ▶ tournament ▶ fit.

`learner.calibrate` takes the network's logits, `learner.export` its weights.
"""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES
from learner.backbone import Backbone
from learner.dataset import Dataset
from learner.head import Rows
from learner.network import Network
from learner.progress import Progress
from learner.settings import LearnerSettings
from learner.tournament import Contest, compete
from learner.tune import fit


def train(
    dataset: Dataset, backbone: Backbone, settings: LearnerSettings, progress: Progress
) -> tuple[Network, Contest]:
    """Train a network by the recipe that wins; the same data and settings give the same weights.

    The encoder of the backbone is trained in place when there is fine-tuning: load it anew for the next network.

    Raises:
        BadConfiguration: A category has no training row, or the backbone cannot read `max_tokens`.
    """
    _check(dataset)
    texts, rows = [e.text for e in dataset.train], Rows.of(dataset.train)
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        # A head that is not quite at its optimum is judged by the gate like any other.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        network = Network(backbone, max_tokens=settings.max_tokens, threads=settings.threads)
        features = network.embed(texts, progress)
        contest = compete(network, texts, features, rows, settings, progress)
        fit(network, texts, features, rows, contest.recipe, seed=settings.seed, progress=progress)
    return network.eval(), contest


def _check(dataset: Dataset) -> None:
    counts = dataset.counts()
    missing = [category for category in CATEGORIES if not counts[category]]
    if missing:
        raise BadConfiguration(
            f"There is no training row of {', '.join(missing)}: add some to train.jsonl in LEARNER_CORPUS_DIR."
        )
