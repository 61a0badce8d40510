"""The paper's published data into its experiment with our encoder and head: every figure with its interval.

`learner.paper` reads the data and holds the paper's own figures, `learner.trial` trains and tests, `learner.tables` shows
ours beside the paper's.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES, Category
from learner.dataset import Example
from learner.paper import (
    BEST,
    BOOTSTRAP_F1,
    LABELS_F1,
    SPLITS,
    VARIATIONS_F1,
    LabelledSeed,
    PaperRow,
    read_labelled,
    read_split,
)
from learner.progress import Progress, silent
from learner.settings import LearnerSettings
from learner.trial import DDOF, FOLDS, Estimate, Outcome, Spread, TrainingSet, outcomes, resamples

SEEDS: Final = 5


class Stage(StrEnum):
    """What a head is trained on: the bootstrap, and the 100 messages, and their 500 variations at one of two weights."""

    BOOTSTRAP = "bootstrap"
    LABELS = "labels alone"
    DOWN_WEIGHTED = "variations at 0.3"
    EQUAL = "variations at 1"


class Labelling(StrEnum):
    """Which labels the 100 messages of a split have."""

    PUBLISHED = "as published"
    REPAIRED = "repaired"


WEIGHTS: Final = {Stage.DOWN_WEIGHTED: 0.3, Stage.EQUAL: 1.0}  # of a variation, where a person's label has 1


class Counts(msgspec.Struct, frozen=True):
    """How many rows of each category a file has (Table 3).

    Args:
        name: A split, `bootstrap`, `dev` or `test`.
        labels: Which labels its messages have.
        counts: In the order of `CATEGORIES`.
        std: Their standard deviation, where it is a split; the interval is over messages.
    """

    name: str
    labels: Labelling
    counts: list[int]
    std: Estimate | None = None


class Score(msgspec.Struct, frozen=True):
    """A head on the test rows, in percent: means over seeds, intervals over test rows (Tables 4, 5, 6 and 8).

    Args:
        stage: What it was trained on.
        split: Of which split; the bootstrap is the same for all.
        labels: Which labels the split's messages had.
        rows: Training rows.
        strengths: C as chosen with each seed.
        macro_f1: Over six categories.
        macro_f1_five: Over those other than emergency.
        macro_f1_seeds: `macro_f1` of each seed.
        error_std: Standard deviation of the categories' error rates.
        errors: Those rates, in the order of `CATEGORIES`.
    """

    stage: Stage
    split: str
    labels: Labelling
    rows: int
    strengths: list[float]
    macro_f1: Estimate
    macro_f1_five: Estimate
    macro_f1_seeds: list[float]
    error_std: Estimate
    errors: list[float]


class Change(msgspec.Struct, frozen=True):
    """A difference between two heads on the same test rows, in points, its intervals from the paired bootstrap.

    Args:
        what: Which over which.
        labels: Which labels the messages had; repaired where the repair is what is measured.
        paper: The paper's difference of macro-F1 with roberta-base, where it has one.
        macro_f1: Over six categories.
        macro_f1_five: Over those other than emergency.
        error_std: Of the standard deviation of the categories' error rates.
    """

    what: str
    labels: Labelling
    paper: float | None
    macro_f1: Estimate
    macro_f1_five: Estimate
    error_std: Estimate


class Reproduction(msgspec.Struct, frozen=True):
    """All figures of one run.

    Args:
        backbone: Ours.
        test_rows: How many rows the test half has.
        seeds: With how many C was chosen.
        shared_texts: Of the bootstrap and each split, how many of the texts stand in the test half too.
        relabelled: Of each split, how many of the 100 messages the repair changed.
        counts: Table 3.
        count_std_changes: Cluster's standard deviation of class counts, less random's, by labels.
        scores: Tables 4, 5, 6 and 8.
        changes: What variations, clusters and the repair brought.
    """

    backbone: str
    test_rows: int
    seeds: int
    shared_texts: dict[str, int]
    relabelled: dict[str, int]
    counts: list[Counts]
    count_std_changes: dict[Labelling, Estimate]
    scores: list[Score]
    changes: list[Change]

    def score(self, stage: Stage, split: str, labels: Labelling) -> Score:
        """Return the score of one training set."""
        return next(s for s in self.scores if (s.stage, s.split, s.labels) == (stage, split, labels))


_Key = tuple[Stage, str, Labelling]


def reproduce(
    folder: Path, settings: LearnerSettings, progress: Progress = silent, *, seeds: int = SEEDS
) -> Reproduction:
    """Run the paper's experiment on its four splits: bootstrap, + 100 labels, + 500 variations, labelled in both ways.

    Args:
        folder: The published data.
        settings: `backbone`, `max_tokens` and `threads`.
        progress: Told of embedding and choosing.
        seeds: With how many C is chosen by cross-validation; nothing else is random.

    Raises:
        BadConfiguration: A file is missing or bad, or the bootstrap or the test has too few texts of a category.
    """
    bootstrap, dev, test = (read_labelled(folder, name) for name in ("bootstrap_labeled", "dev_labeled", "test_half"))
    splits = {name: [seed for seed in read_split(folder, name) if seed.row.text] for name in SPLITS}
    _check(bootstrap, test)
    sets = {
        (stage, split, labels): _examples(bootstrap, splits[split], stage, labels)
        for split in SPLITS
        for labels in Labelling
        for stage in Stage
    }
    found = outcomes(list(sets.values()), test, settings, progress, seeds=seeds)
    by_key = {key: found[examples] for key, examples in sets.items()}
    spreads = {
        (name, labels): _count_std(split, labels, seed)
        for seed, (name, split) in enumerate(splits.items())
        for labels in Labelling
    }
    texts = {"bootstrap": [row.text for row in bootstrap]} | {
        name: [text for seed in split for text in (seed.row.text, *seed.variations)] for name, split in splits.items()
    }
    tested = {row.text for row in test}
    return Reproduction(
        backbone=settings.backbone,
        test_rows=len(test),
        seeds=seeds,
        shared_texts={name: sum(text in tested for text in part) for name, part in texts.items()},
        relabelled={name: sum(s.published is not s.row.category for s in split) for name, split in splits.items()},
        counts=[
            *(
                Counts(name, labels, _counts(splits[name], labels).sum(axis=0).tolist(), spread.basic())
                for (name, labels), spread in spreads.items()
            ),
            *(
                Counts(name, Labelling.PUBLISHED, [sum(row.category is c for row in rows) for c in CATEGORIES])
                for name, rows in (("bootstrap", bootstrap), ("dev", dev), ("test", test))
            ),
        ],
        count_std_changes={
            labels: (spreads["cluster", labels] - spreads["random", labels]).basic() for labels in Labelling
        },
        scores=[_score(*key, outcome) for key, outcome in by_key.items()],
        changes=_changes(by_key),
    )


def _check(bootstrap: Sequence[PaperRow], test: Sequence[PaperRow]) -> None:
    for name, rows, least in (("bootstrap_labeled", bootstrap, FOLDS), ("test_half", test, 1)):
        for category in CATEGORIES:
            texts = len({row.text for row in rows if row.category is category})
            if texts < least:
                raise BadConfiguration(
                    f"{name}.tsv has {texts} texts of {category}, and at least {least} must be there: give --data the "
                    "files as published."
                )


def _examples(
    bootstrap: Sequence[PaperRow], split: Sequence[LabelledSeed], stage: Stage, labels: Labelling
) -> TrainingSet:
    """Return the training rows; a group is a text that people labelled, with its variations."""
    examples = [Example(row.text, row.category, row.text) for row in bootstrap]
    if stage is not Stage.BOOTSTRAP:
        examples += [Example(seed.row.text, _category(seed, labels), seed.row.text) for seed in split]
    if stage in WEIGHTS:
        examples += [
            Example(text, seed.row.category, seed.row.text, WEIGHTS[stage], variation=True)
            for seed in split
            for text in seed.variations
        ]
    return tuple(examples)


def _category(seed: LabelledSeed, labels: Labelling) -> Category:
    return seed.published if labels is Labelling.PUBLISHED else seed.row.category


def _counts(split: Sequence[LabelledSeed], labels: Labelling) -> npt.NDArray[np.int_]:
    """Return `(messages, 6)` how many rows of each category a message and its variations are."""
    table = np.zeros((len(split), len(CATEGORIES)), dtype=np.int_)
    for row, seed in zip(table, split, strict=True):
        row[CATEGORIES.index(_category(seed, labels))] += 1
        row[CATEGORIES.index(seed.row.category)] += len(seed.variations)
    return table


def _count_std(split: Sequence[LabelledSeed], labels: Labelling, seed: int) -> Spread:
    """Return the spread over messages: a seed a split, for splits are drawn apart, and both labellings alike."""
    return Spread((resamples(len(split), seed) @ _counts(split, labels)).std(axis=1, ddof=DDOF))


def _score(stage: Stage, split: str, labels: Labelling, outcome: Outcome) -> Score:
    return Score(
        stage=stage,
        split=split,
        labels=labels,
        rows=outcome.rows,
        strengths=outcome.strengths,
        macro_f1=outcome.six.percentile(),
        macro_f1_five=outcome.five.percentile(),
        macro_f1_seeds=outcome.six_seeds,
        error_std=outcome.error_std.percentile(),
        errors=outcome.errors,
    )


def _changes(by_key: Mapping[_Key, Outcome]) -> list[Change]:
    """Return what labels and variations brought to each split, clusters over random, and the repair where it is one."""
    changes = []
    for split in SPLITS:
        steps = [
            (Stage.LABELS, Stage.BOOTSTRAP, LABELS_F1[split][BEST] - BOOTSTRAP_F1[BEST]),
            *((stage, Stage.LABELS, VARIATIONS_F1[split][BEST] - LABELS_F1[split][BEST]) for stage in WEIGHTS),
        ]
        for later, earlier, paper in steps:
            for labels in Labelling:
                after, before = by_key[later, split, labels], by_key[earlier, split, labels]
                changes.append(_change(f"{split}: {later} over {earlier}", labels, paper, after, before))
    for stage in (Stage.LABELS, *WEIGHTS):
        figures = VARIATIONS_F1 if stage in WEIGHTS else LABELS_F1
        paper = figures["cluster"][BEST] - figures["random"][BEST]
        for labels in Labelling:
            after, before = by_key[stage, "cluster", labels], by_key[stage, "random", labels]
            changes.append(_change(f"cluster over random: {stage}", labels, paper, after, before))
    for split in SPLITS:
        for stage in (Stage.LABELS, *WEIGHTS):
            after, before = (by_key[stage, split, labels] for labels in (Labelling.REPAIRED, Labelling.PUBLISHED))
            if after is not before:
                changes.append(
                    _change(f"{split}: repaired over published, {stage}", Labelling.REPAIRED, None, after, before)
                )
    return changes


def _change(what: str, labels: Labelling, paper: float | None, after: Outcome, before: Outcome) -> Change:
    return Change(
        what=what,
        labels=labels,
        paper=None if paper is None else round(paper, 1),
        macro_f1=(after.six - before.six).percentile(),
        macro_f1_five=(after.five - before.five).percentile(),
        error_std=(after.error_std - before.error_std).percentile(),
    )
