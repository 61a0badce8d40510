"""The store's error rates into a table for the terminal: `learner errors`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from guard.settings import GuardSettings
from guard.store import open_store
from guard.store.figures import Estimated
from learner.drift import Drift
from learner.estimate import LEAST_LABELS
from learner.monitor import LATEST, estimate


async def read(guard: GuardSettings, *, days: int) -> list[Estimated]:
    """Return the figures as they are now, whatever the learner wrote down last."""
    async with open_store(guard) as store:
        return await estimate(store, days=days)


def show(figures: Sequence[Estimated], console: Console) -> None:
    """Print one table a model version, and the drift."""
    for version in dict.fromkeys(one.model_version for one in figures if one.model_version is not None):
        mine = [one for one in figures if one.model_version == version]
        table = Table(
            "measure",
            "category",
            "%",
            "95 % interval",
            "labels",
            "naive %",
            title=f"Model {version}, verdicts of {mine[0].since:%Y-%m-%d %H:%M} to {mine[0].until:%Y-%m-%d %H:%M} UTC",
        )
        for one in mine:
            if one.category is not None:
                interval = "" if one.low is None or one.high is None else f"{_percent(one.low)} to {_percent(one.high)}"
                table.add_row(
                    one.measure.replace("_", " "),
                    one.category.value,
                    _percent(one.value),
                    interval,
                    f"{one.labels:.0f}",
                    _percent(one.naive),
                )
        console.print(table)
    if not any(one.model_version for one in figures):
        console.print("There are no error rates yet: they begin with the first batch that people are done with.")
    drifts = {one.measure: one.value for one in figures if one.model_version is None}
    for name in Drift:
        value = drifts.get(name.value)
        says = "too few verdicts" if value is None else f"{value:.3f}"
        console.print(f"drift of {name.value.replace('_', ' ')}, last {LATEST.days} days against those before: {says}")
    console.print(
        f"An estimate weighs every label back to the traffic; fewer than {LEAST_LABELS} labels give none. Naive is the "
        "share of the labels as they are, which were picked because they are hard."
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
