"""Do the error rates' intervals hold? A thousand months of traffic, made up so that the truth is known.

    python -m benchmarks.estimates

Texts of six categories in shares that change from day to day (a week of emergencies, medical questions on the rise), a
tenth of them such that reviewers disagree; a model that is wrong about some, more often where it is uncertain; a fifth
of the traffic repeats the same 150 texts. Verdicts enter the pool as `guard.intake` lets them in, cycles draw from it as
`learner.selection` does, reviewers vote, and what comes out of `learner.weights` and `learner.estimate` is held against
what all verdicts of the month would have given. Beside it the naive rate over the same labels.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from guard.store.entries import Batch, Drawn
from guard.taxonomy import CATEGORIES, Category
from learner.draws import inclusion, systematic
from learner.estimate import Measure, Rate, Sample, rates
from learner.rates import jeffreys
from learner.weights import stands_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS: Final = Path(__file__).parent / "results" / "estimates.json"
PICTURE: Final = Path(__file__).parent.parent / "docs" / "estimates.png"
START: Final = datetime(2026, 11, 1, tzinfo=UTC)
DAYS: Final = 30
_CATEGORIES: Final = len(CATEGORIES)
_SHARES: Final = (0.014, 0.10, 0.08, 0.08, 0.008, 0.718)  # of the traffic, in the order of CATEGORIES
_EMERGENCIES: Final = (14, 21)  # days on which they are three times as frequent
_DISPUTED: Final = 0.1  # of the texts
_TO_NOT_HARMFUL: Final = 0.6  # of what a harmful text is taken for
_TO_THE_DISPUTED: Final = 0.5  # of the errors about texts that nobody disputes
_ERRORS: Final = (0.12, 0.08, 0.10, 0.09, 0.20, 0.05)
_COMMON: Final = 150
_GREETINGS: Final = 30  # the most common of these: nobody repeats an emergency as often as thanks
_COMMON_SHARES: Final = (0.01, 0.06, 0.05, 0.05, 0.005, 0.825)
_UNCERTAIN: Final = 0.5  # from here on the guard is
_DOUBTS: Final = (0.06, 0.3, 0.6)  # how often it is where it is right, where reviewers disagree, and where it is wrong
_CLUSTERS: Final = 6
_KINDS: Final = 0.6  # of the texts are in a cluster of their verdict
_SHARPNESS: Final = 64  # as `learner.rivals.Stochastic`
_NOT_HARMFUL: Final = CATEGORIES.index(Category.NOT_HARMFUL)

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int_]
Key = tuple[Measure, Category]


@dataclass(frozen=True)
class Scenario:
    """How much traffic there is, and how much of it people label."""

    verdicts: int = 20_000
    audit_rate: float = 0.05
    audit_share: float = 0.5
    batch: int = 20
    cycles: int = 60


SCENARIOS: Final = {
    "40 labels a day, half of them audits": Scenario(),
    "20 labels every other day, the default rates": Scenario(audit_rate=0.01, audit_share=0.2, cycles=15),
}


@dataclass(frozen=True)
class Outcome:
    """A figure of one month beside the truth; `positives`: labelled messages of the category."""

    truth: float
    rate: Rate
    positives: float


@dataclass(frozen=True)
class _Month:
    """Traffic: `texts` indexes the other arrays, which have a row for each text.

    Args:
        times: `(v,)` days since the start, of each verdict.
        texts: `(v,)`.
        categories: `(t, 6)` how likely a reviewer is to say what.
        verdicts: `(t,)`.
        uncertainty: `(t,)` in [0, 1]; the guard is uncertain from one half on.
        clusters: `(t,)`.
    """

    times: Floats
    texts: Indices
    categories: Floats
    verdicts: Indices
    uncertainty: Floats
    clusters: Indices


def month(seed: int, scenario: Scenario) -> dict[Key, Outcome]:
    """Play one month and return every figure beside its truth."""
    generator = np.random.default_rng(seed)
    traffic = _traffic(scenario, generator)
    certain = traffic.uncertainty < _UNCERTAIN
    entered = ~certain[traffic.texts] | (generator.random(len(traffic.texts)) < scenario.audit_rate)
    counts = np.bincount(traffic.texts[entered], minlength=len(certain))
    first = np.full(len(certain), np.inf)
    np.minimum.at(first, traffic.texts[entered], traffic.times[entered])
    batches, drawn = _cycles(traffic, certain, first, scenario, generator)
    weights = stands_for(batches, drawn)
    rows = np.array(list(weights), dtype=np.int_)
    single = np.array(list(weights.values())) / np.where(certain[rows], scenario.audit_rate, 1.0)
    verdict_counts = counts / np.where(certain, scenario.audit_rate, 1.0)
    votes = np.array([_votes(traffic.categories[row], generator, twice=bool(certain[row])) for row in rows])
    sample = Sample(
        verdicts=traffic.verdicts[rows],
        certain=certain[rows],
        votes=votes,
        weights=single * counts[rows],
        single=single,
        totals=np.array(
            [np.bincount(traffic.verdicts, verdict_counts * (certain == sure), _CATEGORIES) for sure in (False, True)]
        ),
    )
    expected = np.where(certain[:, None], _voted_twice(traffic.categories), traffic.categories)
    truth = _truth(traffic.verdicts[traffic.texts], expected[traffic.texts])
    positives = votes.sum(axis=0)
    return {
        key: Outcome(truth[key], rate, float(positives[CATEGORIES.index(key[1])]))
        for key, rate in rates(sample).items()
    }


def _traffic(scenario: Scenario, generator: np.random.Generator) -> _Month:
    number = generator.poisson(scenario.verdicts)
    common = number // 5
    unique = number - common
    times = np.sort(generator.random(unique) * DAYS)
    shares = np.array(_SHARES) * np.ones((unique, 1))
    shares[:, CATEGORIES.index(Category.EMERGENCY_SITUATION)] *= 1 + 2 * (
        (times > _EMERGENCIES[0]) & (times < _EMERGENCIES[1])
    )
    shares[:, CATEGORIES.index(Category.MEDICAL_ADVICE)] *= 1 + times / DAYS
    shares[:, _NOT_HARMFUL] *= 1 + 0.3 * np.sin(times * 2 * np.pi / 7)
    shares /= shares.sum(axis=1, keepdims=True)
    own = (generator.random((unique, 1)) > shares.cumsum(axis=1)[:, :-1]).sum(axis=1)
    popularity = 1 / np.arange(1, _COMMON + 1) ** 0.9
    texts = unique + generator.choice(_COMMON, common, p=popularity / popularity.sum())
    repeated = generator.choice(_CATEGORIES, _COMMON, p=_COMMON_SHARES)
    repeated[:_GREETINGS] = _NOT_HARMFUL
    return _judged(
        np.concatenate([times, generator.random(common) * DAYS]),
        np.concatenate([np.arange(unique), texts]),
        np.concatenate([own, repeated]),
        generator,
    )


def _judged(times: Floats, texts: Indices, category: Indices, generator: np.random.Generator) -> _Month:
    """Let reviewers and the model have their opinions; both find the same texts hard."""
    number = len(category)
    other = (category + generator.integers(1, _CATEGORIES, number)) % _CATEGORIES
    other = np.where((category != _NOT_HARMFUL) & (generator.random(number) < _TO_NOT_HARMFUL), _NOT_HARMFUL, other)
    disputed = generator.random(number) < _DISPUTED
    opinions = np.zeros((number, _CATEGORIES))
    opinions[np.arange(number), category] = majority = np.where(disputed, generator.beta(4, 2, number), 1.0)
    opinions[np.arange(number), other] += 1 - majority
    wrong = generator.random(number) < np.array(_ERRORS)[category] + 0.25 * disputed
    far = (category + generator.integers(1, _CATEGORIES, number)) % _CATEGORIES
    verdicts = np.where(wrong, np.where(disputed | (generator.random(number) < _TO_THE_DISPUTED), other, far), category)
    doubtful = generator.random(number) < np.where(wrong, _DOUBTS[2], np.where(disputed, _DOUBTS[1], _DOUBTS[0]))
    uncertainty = np.where(
        doubtful, _UNCERTAIN + 0.5 * generator.beta(1.2, 2.5, number), _UNCERTAIN * generator.beta(1, 3, number)
    )
    clusters = np.where(generator.random(number) < _KINDS, verdicts, generator.integers(0, _CLUSTERS, number))
    return _Month(times, texts, opinions, verdicts, uncertainty, clusters)


def _cycles(
    traffic: _Month, certain: npt.NDArray[np.bool_], first: Floats, scenario: Scenario, generator: np.random.Generator
) -> tuple[list[Batch], list[Drawn]]:
    """Draw batch after batch, as `learner.selection` does; all of it is labelled."""
    batches: list[Batch] = []
    drawn: list[Drawn] = []
    waiting = np.ones(len(first), dtype=bool)
    for cycle, opened in enumerate(np.linspace(0, DAYS, scenario.cycles + 1)[1:]):
        pool = waiting & (first <= opened)
        fresh, stale = (
            np.flatnonzero(pool & certain & new)
            for new in (first > opened - DAYS / scenario.cycles, first <= opened - DAYS / scenario.cycles)
        )
        others = np.flatnonzero(pool & ~certain)
        wanted = round(scenario.audit_share * scenario.batch)
        chosen: list[tuple[int, bool, float]] = []
        for stratum in (fresh, stale):
            size = min(wanted - len(chosen), len(stratum))
            chosen += [(int(row), True, size / len(stratum)) for row in generator.permutation(stratum)[:size]]
        chosen += _stochastic(traffic, others, scenario.batch - len(chosen), generator)
        batches.append(Batch(cycle, _moment(opened), len(fresh), len(stale), len(others)))
        for row, audit, chance in chosen:
            waiting[row] = False
            drawn.append(Drawn(cycle, row, _moment(first[row]), audit, chance, decided=True))
    return batches, drawn


def _stochastic(
    traffic: _Month, rows: Indices, size: int, generator: np.random.Generator
) -> list[tuple[int, bool, float]]:
    """Draw in every cluster in proportion to uncertainty^64, as `learner.rivals.Stochastic`."""
    if not len(rows):
        return []
    weights = (traffic.uncertainty[rows] / traffic.uncertainty[rows].max()) ** _SHARPNESS
    groups = [group for c in range(_CLUSTERS) if len(group := np.flatnonzero(traffic.clusters[rows] == c))]
    groups.sort(key=lambda group: -float(weights[group].sum()))
    shares = [0] * len(groups)
    while sum(shares) < min(size, len(rows)):
        for place, group in enumerate(groups):
            shares[place] += sum(shares) < size and shares[place] < len(group)
    chosen = []
    for group, share in zip(groups, shares, strict=True):
        if share:
            chances = inclusion(weights[group], share)
            chosen += [(int(rows[group[d]]), False, float(chances[d])) for d in systematic(chances, generator)]
    return chosen


def _moment(day: float) -> datetime:
    return START + timedelta(days=float(day))


def _votes(opinions: Floats, generator: np.random.Generator, *, twice: bool) -> Floats:
    """Ask one reviewer, or two and a third where these disagree."""
    said = [int(generator.choice(_CATEGORIES, p=opinions)) for _ in range(1 + twice)]
    if len(set(said)) > 1:
        said.append(int(generator.choice(_CATEGORIES, p=opinions)))
    return np.bincount(said, minlength=_CATEGORIES) / len(said)


def _voted_twice(opinions: Floats) -> Floats:
    """Return the share of the votes that each category has on average when a third reviewer parts two."""
    one_of_two = 2 * opinions * (1 - opinions)
    neither = 1 - (opinions**2).sum(axis=1, keepdims=True) - one_of_two
    return np.asarray(opinions**2 + one_of_two * (1 + opinions) / 3 + neither * opinions / 3, dtype=np.float64)


def _truth(verdicts: Indices, opinions: Floats) -> dict[Key, float]:
    """Return every measure over all verdicts of the month."""
    table = np.array([np.bincount(verdicts, column, _CATEGORIES) for column in opinions.T])  # reviewers by model
    found: dict[Key, float] = {}
    for index, category in enumerate(CATEGORIES):
        truly, named, both = table[index].sum(), table[:, index].sum(), table[index, index]
        found[Measure.MISS_RATE, category] = 1 - both / truly
        if index != _NOT_HARMFUL:
            found[Measure.CLEARED_RATE, category] = table[index, _NOT_HARMFUL] / truly
        found[Measure.FALSE_ALARM_RATE, category] = (named - both) / (table.sum() - truly)
        found[Measure.PRECISION, category] = both / named
    return {key: float(value) for key, value in found.items()}


def summary(months: Sequence[Mapping[Key, Outcome]]) -> dict[str, Any]:
    """Return of each figure how often the interval held the truth, bias and width in points, and the naive rate's."""
    found: dict[str, Any] = {}
    for key in months[0]:
        outcomes = [one[key] for one in months]
        given = [o for o in outcomes if o.rate.value is not None]
        figures: dict[str, Any] = {
            "truth": 100 * float(np.mean([o.truth for o in outcomes])),
            "positives": float(np.mean([o.positives for o in outcomes])),
            "given": len(given) / len(outcomes),
        }
        if len(given) > 1:
            errors = np.array([100 * (_sure(o.rate.value) - o.truth) for o in given])
            naive = np.array([100 * (_sure(o.rate.naive) - o.truth) for o in given])
            figures |= {
                "labels": float(np.mean([o.rate.labels for o in given])),
                "coverage": float(np.mean([_sure(o.rate.low) <= o.truth <= _sure(o.rate.high) for o in given])),
                "bias": float(errors.mean()),
                "bias_error": float(errors.std(ddof=1) / np.sqrt(len(errors))),
                "width": 100 * float(np.mean([_sure(o.rate.high) - _sure(o.rate.low) for o in given])),
                "naive_bias": float(naive.mean()),
                "naive_coverage": float(np.mean([_naively(o) for o in given])),
            }
        found.setdefault(key[0].value, {})[key[1].value] = figures
    return found


def _sure(value: float | None) -> float:
    assert value is not None
    return value


def _naively(outcome: Outcome) -> bool:
    """Return whether the interval of a plain share would hold the truth."""
    low, high = jeffreys(_sure(outcome.rate.naive) * outcome.rate.labels, outcome.rate.labels)
    return low <= outcome.truth <= high


def main(
    months: Annotated[int, typer.Option(help="Months of each scenario.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Play, print, and write `results/estimates.json` and `docs/estimates.png`."""
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(workers) as processes:
        for name, scenario in SCENARIOS.items():
            played = list(processes.map(partial(month, scenario=scenario), range(months), chunksize=20))
            found[name] = {"months": months, "scenario": asdict(scenario), "figures": summary(played)}
            _print(name, found[name]["figures"])
    RESULTS.write_text(json.dumps(_rounded(found), indent=2) + "\n")
    _draw(found[next(iter(SCENARIOS))]["figures"])


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _print(name: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    columns = (
        "truth %",
        "positives",
        "given %",
        "labels",
        "coverage %",
        "bias",
        "width",
        "naive bias",
        "naive coverage %",
    )
    table = Table("measure", "category", *columns, title=name)
    for measure, by_category in figures.items():
        for category, one in by_category.items():
            cells = [f"{one['truth']:.1f}", f"{one['positives']:.0f}", f"{100 * one['given']:.0f}"]
            if "coverage" in one:
                cells += [
                    f"{one['labels']:.0f}",
                    f"{100 * one['coverage']:.1f}",
                    f"{one['bias']:+.2f} ± {one['bias_error']:.2f}",
                    f"{one['width']:.1f}",
                    f"{one['naive_bias']:+.1f}",
                    f"{100 * one['naive_coverage']:.1f}",
                ]
            table.add_row(measure, category, *cells)
    Console(markup=False, width=170).print(table)


def _draw(figures: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.8, 6.4), layout="constrained")
    rows = figure.subplots(2, len(figures), sharex=True)
    for column, (measure, by_category) in enumerate(figures.items()):
        _dots(rows[0][column], by_category, "coverage", "naive_coverage", 100)
        rows[0][column].axhspan(93, 99, color="0.9", zorder=0)
        rows[0][column].set(title=measure.replace("_", " "), ylim=(-3, 103))
        _dots(rows[1][column], by_category, "bias", "naive_bias", 1)
        rows[1][column].axhline(0, color="0.6", linewidth=0.8, zorder=0)
        rows[1][column].tick_params(axis="x", rotation=60)
    rows[0][0].set_ylabel("truth in the interval, % of months")
    rows[1][0].set_ylabel("bias, points")
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    figure.savefig(PICTURE, dpi=110)


def _dots(axes: "Axes", by_category: Mapping[str, Any], ours: str, naive: str, factor: float) -> None:
    given = {category: one for category, one in by_category.items() if ours in one}
    for name, marker, label in ((ours, "o", "weighed back"), (naive, "x", "naive: all labels as they are")):
        axes.plot(list(given), [factor * one[name] for one in given.values()], marker, label=label)


if __name__ == "__main__":
    typer.run(main)
