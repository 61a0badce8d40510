"""Labelled texts into results of the whole loop played with an oracle: `results.jsonl`, a line for each finished run.

A run is one strategy on one seed; all strategies of a seed share its split and its first labels, so that they compare in
pairs. The learner is the head of `learner.train` on features computed once. `learner.curves` makes the page of it.
"""

import hashlib
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from guard.errors import BadConfiguration
from guard.taxonomy import CATEGORIES, Category
from learner.cluster import Rows
from learner.dataset import Example, examples_of
from learner.embed import Embedded
from learner.head import Floats, balanced_weights, regression
from learner.network import Network
from learner.progress import Progress, silent
from learner.report import Indices, confusion
from learner.selection import STRATEGIES, Random, select, strategy
from learner.settings import LearnerSettings

RESULTS: Final = "results.jsonl"
BASELINE: Final = str(Random())
_TEST_SHARE: Final = 3  # a third of the groups is the test part
_STRENGTH: Final = 1.0  # C of the head in every round: the one `Recipe` has where there is nothing to choose it by


@dataclass(frozen=True, slots=True)
class Experiment:
    """What every run of a simulation has in common.

    Args:
        rounds: How often the oracle is asked.
        batch: N, the messages of a round.
        start: Messages labelled before the first round, at least one of each category.
        imbalance: Shares of categories in the pool; those not named share the rest alike. Empty: as the data are.
    """

    rounds: int = 5
    batch: int = 20
    start: int = 60
    imbalance: Mapping[Category, float] = field(default_factory=dict)

    def shares(self) -> dict[Category, float]:
        """Return the share of every category, or nothing where the pool is left as the data are.

        Raises:
            BadConfiguration: The shares named are not positive or leave nothing to the other categories.
        """
        if not self.imbalance:
            return {}
        others = [category for category in CATEGORIES if category not in self.imbalance]
        rest = 1 - sum(self.imbalance.values())
        if min(self.imbalance.values()) <= 0 or (rest <= 1e-9 if others else abs(rest) > 1e-9):  # noqa: PLR2004
            raise BadConfiguration(
                "The shares of --imbalance must be above 0, and together below 1, or 1 when all six are named."
            )
        return {category: self.imbalance.get(category, rest / max(len(others), 1)) for category in CATEGORIES}


class Round(msgspec.Struct, frozen=True):
    """The learner after some labels: how many of each category it has, and its `(6, 6)` confusion on the test part."""

    labels: list[int]
    confusion: list[list[int]]


class Run(msgspec.Struct, frozen=True):
    """One strategy on one seed: how many messages of each category its pool held, and what came of it, start first."""

    experiment: str
    strategy: str
    seed: int
    pool: list[int]
    rounds: list[Round]


@dataclass(frozen=True, slots=True)
class Laboratory:
    """Labelled texts in numbers.

    Args:
        features: `(n, layers * d)` what the head sees.
        width: d; the last d features are the vectors that service clusters by.
        labels: `(n,)` indices into `CATEGORIES`.
        groups: `(n,)` numbers of the scenarios.
        digest: Of texts, labels and backbone.
    """

    features: Floats
    width: int
    labels: Indices
    groups: npt.NDArray[np.int_]
    digest: str


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one seed: the pool, those of it that are labelled at the start, and the test part, disjoint by group."""

    pool: Rows
    start: Rows
    test: Rows


def read(path: Path) -> list[Example]:
    """Read a file of labelled JSON Lines, or `train.jsonl` of a folder: the gate set chooses no strategy.

    Raises:
        BadConfiguration: It is missing or bad, or a category has too few groups to be in every part.
    """
    file = path / "train.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise BadConfiguration(
            f"{file} does not exist: give --data a file of JSON Lines, or a folder with train.jsonl."
        )
    examples = [example for _place, example in examples_of(file)]
    for category in CATEGORIES:
        groups = len({example.group for example in examples if example.category is category})
        if groups < _TEST_SHARE:
            raise BadConfiguration(f"{file.name} has {groups} groups of {category}: a simulation needs {_TEST_SHARE}.")
    return examples


def prepare(
    examples: Sequence[Example], settings: LearnerSettings, folder: Path, progress: Progress = silent
) -> Laboratory:
    """Embed the texts, or find their features in the folder, where they are kept under their digest."""
    from learner.backbone import load

    backbone = load(settings.backbone)
    network = Network(backbone, max_tokens=settings.max_tokens, threads=settings.threads)
    made_by = [backbone.name, settings.max_tokens, network.layers]
    texts = [example.text for example in examples]
    cache = folder / f"features-{_digest([made_by, texts])}.npy"
    if cache.exists():
        features = np.load(cache)
    else:
        features = network.embed(texts, progress)
        partial = cache.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, features)
        partial.replace(cache)
    _names, groups = np.unique([example.group for example in examples], return_inverse=True)
    return Laboratory(
        features=features,
        width=backbone.hidden_size,
        labels=np.array([CATEGORIES.index(example.category) for example in examples]),
        groups=groups,
        digest=_digest([made_by, [[e.text, e.category, e.group] for e in examples]]),
    )


def split(laboratory: Laboratory, experiment: Experiment, seed: int) -> Split:
    """Divide the rows for a seed; every strategy gets the same.

    The pool is thinned to the shares of the experiment. The test part is not: rare categories are measured on all rows
    there are.

    Raises:
        BadConfiguration: The pool is too small for the labels of all rounds.
    """
    labels, generator = laboratory.labels, np.random.default_rng(seed)
    folds = StratifiedGroupKFold(_TEST_SHARE, shuffle=True, random_state=seed)
    pool, test = next(folds.split(labels, labels, laboratory.groups))
    pool = generator.permutation(pool)
    counts = np.bincount(labels[pool], minlength=len(CATEGORIES))
    if shares := experiment.shares():
        parts = np.array([shares[category] for category in CATEGORIES])
        kept = np.maximum(1, np.round(parts * (counts / parts).min())).astype(int)
        pool = np.sort(np.concatenate([pool[labels[pool] == c][: kept[c]] for c in range(len(CATEGORIES))]))
        pool = generator.permutation(pool)
    needed = experiment.start + experiment.rounds * experiment.batch
    if experiment.start < len(CATEGORIES) or needed > len(pool):
        raise BadConfiguration(
            f"The pool of seed {seed} has {len(pool)} messages: --start must be at least {len(CATEGORIES)}, and --start "
            f"and all rounds together, here {needed}, at most the pool."
        )
    first = [int(np.flatnonzero(labels[pool] == c)[0]) for c in range(len(CATEGORIES)) if (labels[pool] == c).any()]
    others = np.setdiff1d(np.arange(len(pool)), first)[: experiment.start - len(first)]
    return Split(pool=pool, start=pool[np.concatenate([first, others])], test=test)


def play(laboratory: Laboratory, experiment: Experiment, name: str, seed: int) -> Run:
    """Play one strategy on one seed: fit, test, select, let the oracle answer, and again."""
    parts = split(laboratory, experiment, seed)
    labels, vectors = laboratory.labels, laboratory.features[:, -laboratory.width :]
    labelled, rounds = parts.start, list[Round]()
    while True:
        rows = labels[labelled]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            head = regression(_STRENGTH).fit(
                laboratory.features[labelled], rows, sample_weight=balanced_weights(rows, np.ones(len(rows)))
            )
        decisions = head.predict(laboratory.features[parts.test])
        rounds.append(
            Round(
                labels=np.bincount(rows, minlength=len(CATEGORIES)).tolist(),
                confusion=confusion(labels[parts.test], decisions).tolist(),
            )
        )
        if len(rounds) > experiment.rounds:
            break
        left = np.setdiff1d(parts.pool, labelled)
        pool = Embedded(
            ids=left,
            users=((),) * len(left),
            probabilities=head.predict_proba(laboratory.features[left]).astype(np.float32),
            vectors=vectors[left],
        )
        by = strategy(name, anchors=vectors[labelled], anchor_labels=rows)
        drawn = int(np.random.SeedSequence([seed, len(rounds)]).generate_state(1)[0])
        picks = select(pool, by, size=experiment.batch, user_cap=1, seed=drawn)
        labelled = np.concatenate([labelled, [pick.message_id for pick in picks]])
    return Run(
        experiment=identity(laboratory, experiment),
        strategy=name,
        seed=seed,
        pool=np.bincount(labels[parts.pool], minlength=len(CATEGORIES)).tolist(),
        rounds=rounds,
    )


def simulate(
    laboratory: Laboratory,
    experiment: Experiment,
    *,
    strategies: Sequence[str],
    seeds: int,
    folder: Path,
    workers: int,
    progress: Progress = silent,
) -> list[Run]:
    """Play what has not been played yet, in worker processes, and return all runs by seed and strategy.

    Every finished run is a line of `results.jsonl` in the folder at once, so that an interrupted simulation goes on.

    Args:
        laboratory: The data.
        experiment: What the runs have in common.
        strategies: Their names; random, which they are compared with, is always among them.
        seeds: How many, from 0.
        folder: Where the results are.
        workers: How many processes.
        progress: Told of every finished run.

    Raises:
        BadConfiguration: A strategy is unknown, or the pool is too small.
    """
    for name in strategies:
        if name not in STRATEGIES:
            raise BadConfiguration(
                f"--strategies has {name[:40]!r}: choose of {', '.join(STRATEGIES)}, parted by commas."
            )
    names = dict.fromkeys((BASELINE, *strategies))
    tasks = [(name, seed) for seed in range(seeds) for name in names]
    split(laboratory, experiment, 0)  # what cannot work is said before processes start
    file, key = folder / RESULTS, identity(laboratory, experiment)
    done = {(run.strategy, run.seed): run for run in _finished(file) if run.experiment == key}
    open_ = [task for task in tasks if task not in done]
    progress("simulate", len(tasks) - len(open_), len(tasks))
    if open_:
        for run in _played(laboratory, experiment, open_, workers):
            with file.open("ab") as stream:
                stream.write(msgspec.json.encode(run) + b"\n")
            done[run.strategy, run.seed] = run
            progress("simulate", sum(task in done for task in tasks), len(tasks))
    return [done[task] for task in tasks]


def identity(laboratory: Laboratory, experiment: Experiment) -> str:
    """Return what the results of one experiment on the same data have in common."""
    shares = sorted(experiment.shares().items())
    return _digest([laboratory.digest, experiment.rounds, experiment.batch, experiment.start, shares])


def _finished(file: Path) -> Iterator[Run]:
    """Yield the runs in the file; a last line that was cut off by a crash is removed, or the next would join it."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    for line in whole.splitlines():
        yield msgspec.json.decode(line, type=Run)


def _played(
    laboratory: Laboratory, experiment: Experiment, tasks: Sequence[tuple[str, int]], workers: int
) -> Iterator[Run]:
    # spawned: torch has threads by now, and a forked child could hang on their locks
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_start, initargs=(laboratory, experiment)
    ) as pool:
        futures = [pool.submit(_play, name, seed) for name, seed in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: tuple[Laboratory, Experiment]  # of a worker process: the data cross over once, not with every run


def _start(laboratory: Laboratory, experiment: Experiment) -> None:
    global _worker  # noqa: PLW0603 - what a process pool's initializer is for
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once: the parent writes what is finished
    threadpool_limits(1)  # a process a core
    _worker = (laboratory, experiment)


def _play(name: str, seed: int) -> Run:
    return play(*_worker, name, seed)


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]
