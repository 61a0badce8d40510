"""A corpus and a frozen snapshot into a published export, and the labels to doubt: assemble ▶ train ▶ calibrate ▶ export.

`learner.cycle` and `learner.bootstrap` call it; `learner.gate` judges what it makes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from guard.exports import Exports
from guard.store.doubts import Suspicion
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES
from learner import backbone, report
from learner.calibrate import calibrate
from learner.dataset import Corpus, assemble
from learner.doubts import doubts
from learner.export import export
from learner.progress import Progress
from learner.settings import LearnerSettings
from learner.train import train


@dataclass(frozen=True, slots=True)
class Challenger:
    """A published model, and the labels that its cross-validation disagrees with, the likeliest errors first."""

    version: str
    doubts: tuple[Suspicion, ...]


def build(
    settings: LearnerSettings,
    exports: Exports,
    corpus: Corpus,
    snapshot: Sequence[LabelledText],
    *,
    parent: str | None,
    cycle_id: int | None,
    progress: Progress,
) -> Challenger:
    """Make a model and publish it.

    Args:
        snapshot: What people labelled, with its variations; empty for the first model.
        parent: The champion of this moment.
        cycle_id: The cycle it is made for.

    Raises:
        BadConfiguration: The backbone cannot be loaded, or a category has no training row.
        BrokenExport: The ONNX does not do what the network does.
    """
    weight = 1.0 if settings.variation_weight is None else settings.variation_weight  # at 1 the tournament weighs them
    dataset = assemble(corpus, snapshot, variation_weight=weight)
    network, contest = train(dataset, backbone.load(settings.backbone), settings, progress)
    progress("calibrate", 0, 1)
    labels = np.array([CATEGORIES.index(e.category) for e in dataset.dev])
    calibration = calibrate(network.score([e.text for e in dataset.dev]), labels, settings.recall_floor)
    progress("calibrate", 1, 1)
    progress("export", 0, 1)
    version = export(
        network,
        calibration,
        dataset,
        exports,
        parent=parent,
        cycle_id=cycle_id,
        metrics=contest.metrics(),
        report=partial(report.write, gate=corpus.gate, dataset=dataset, contest=contest),
    )
    progress("export", 1, 1)
    return Challenger(version, doubts(dataset, contest.unseen))
