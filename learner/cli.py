"""`learner …`: the first model, the loop, one turn of it by hand, how things stand, and the laboratory."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from guard import logs
from guard.cli import execute
from guard.curve import Expectation
from guard.errors import BadConfiguration
from guard.exports import Exports
from guard.settings import GuardSettings, read_settings
from guard.store import Store, open_store
from guard.store.lease import LEARNER
from guard.store.review import Batch
from guard.store.rows import Cycle
from guard.store.states import CycleState
from guard.taxonomy import CATEGORIES, Category
from learner.cycle import Step, obstacle, waiting
from learner.progress import shown
from learner.settings import LearnerSettings
from learner.stopping import expected, paused
from learner.work import Work

_RECENT: Final = 5
_KEY_FIGURES: Final = ("macro_f1", "delta_macro_f1")  # of the gate's, shown in the table; JSON has them all
_INTERRUPTED: Final = 130  # what shells expect of a command that Ctrl-C ended

_T = TypeVar("_T")

app = typer.Typer(
    help="Lifeguard's learner: asks people, trains, judges and promotes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def bootstrap(
    *, quick: Annotated[bool, typer.Option("--quick", help="Without fine-tuning: a minute instead of ten.")] = False
) -> None:
    """Train, export and promote the first model from the seed corpus."""
    settings, guard = _settings()
    from learner.bootstrap import bootstrap as make

    with shown(sys.stderr) as progress:
        version = make(settings, Exports(guard.exports_dir), progress, quick=quick)
    typer.echo(f"Export {version} is the champion.")


@app.command()
def run() -> None:
    """Learn until stopped: open cycles, take them on, delete what is past its retention."""
    settings, guard = _settings()
    logs.configure(guard.log_level)
    from learner import schedule

    _run(schedule.run(settings, guard), leave=True)


@app.command()
def cycle() -> None:
    """Do now what can be done without people, and say what it was."""
    settings, guard = _settings()
    logs.configure("error")
    _run(_by_hand(settings, guard))


@app.command()
def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show how the loop stands, and why nothing happens when nothing does."""
    settings, guard = _settings()
    standing = _run(_standing(settings, guard))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(standing)))
    else:
        _print(standing)


@app.command()
def errors(
    *,
    days: Annotated[
        int | None, typer.Option(min=1, help="Verdicts of how many days; LEARNER_ESTIMATE_DAYS by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how often the guard is wrong, per category and version, with 95 % intervals and the labels behind them."""
    settings, guard = _settings()
    from learner import errata

    figures = _run(errata.read(guard, days=min(days or settings.estimate_days, guard.retention_days)))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(figures)))
    else:
        errata.show(figures, Console(markup=False, highlight=False))


@app.command()
def simulate(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the results; the same one again goes on where it stopped.")],
    data: Annotated[
        Path | None, typer.Option(help="JSON Lines with text, category, group, or a folder with train.jsonl.")
    ] = None,
    strategies: Annotated[str, typer.Option(help="Their names, parted by commas; all by default.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each strategy, seeds from 0.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="How often the oracle is asked.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Messages it labels in a round.")] = 20,
    start: Annotated[int, typer.Option(min=len(CATEGORIES), help="Messages labelled before the first round.")] = 60,
    imbalance: Annotated[str, typer.Option(help="Shares of the pool: not-harmful=0.7,self-harm=0.03.")] = "",
) -> None:
    """Play the loop on labelled data, every strategy against random, and write a page."""
    settings, _guard = _settings()
    from learner import curves
    from learner import simulate as laboratory
    from learner.report import REPORT
    from learner.selection import STRATEGIES

    experiment = laboratory.Experiment(rounds=rounds, batch=batch, start=start, imbalance=_shares(imbalance))
    experiment.shares()  # a mistake in them is found before texts are embedded
    examples = laboratory.read(data or settings.corpus_dir)
    out.mkdir(parents=True, exist_ok=True)
    with shown(sys.stderr) as progress:
        runs = laboratory.simulate(
            laboratory.prepare(examples, settings, out, progress),
            experiment,
            strategies=strategies.split(",") if strategies else STRATEGIES,
            seeds=seeds,
            folder=out,
            workers=settings.threads,
            progress=progress,
        )
    curves.write(runs, experiment, out)
    typer.echo(f"{len(runs)} runs: {out / REPORT}")


@app.command()
def reproduce(
    *,
    data: Annotated[Path, typer.Option(help="Folder of the paper's published TSV files.")],
    out: Annotated[Path | None, typer.Option(help="Folder for report.md, its plot and results.json.")] = None,
) -> None:
    """Print the paper's Tables 3, 4, 5, 6 and 8 beside ours, as published and with the labels repaired."""
    settings, _guard = _settings()
    from learner import tables
    from learner.reproduce import reproduce as measure

    with shown(sys.stderr) as progress:
        found = measure(data, settings, progress)
    tables.show(found, Console(markup=False, highlight=False))
    if out is not None:
        tables.write(found, out)


def _shares(given: str) -> dict[Category, float]:
    try:
        pairs = [pair.split("=") for pair in given.split(",") if pair]
        return {Category(name): float(share) for name, share in pairs}
    except ValueError:
        raise BadConfiguration(
            f"--imbalance={given[:80]!r} cannot be read: write category=share, parted by commas, of "
            f"{', '.join(CATEGORIES)}."
        ) from None


async def _by_hand(settings: LearnerSettings, guard: GuardSettings) -> None:
    from learner.schedule import Schedule

    exports, touched = Exports(guard.exports_dir), set[int]()

    def tell(step: Step) -> None:
        if step.cycle_id is not None:
            touched.add(step.cycle_id)
        typer.echo(f"cycle {step.cycle_id}: {step.state}" if step.waits_for is None else f"waiting: {step.waits_for}")

    with shown(sys.stderr) as progress:
        async with open_store(guard) as store:
            work = Work(store, exports, settings, progress=progress)
            await Schedule(store, exports, settings, guard, work, tell=tell).once()
            ended = [await store.cycles.get(cycle_id) for cycle_id in sorted(touched)]
    for row in ended:
        if row is not None and row.state.ended:
            typer.echo(f"cycle {row.id} was {row.state}: {'; '.join(row.reasons)}")


@dataclass(frozen=True, slots=True)
class CycleLine:
    """A cycle as `learner status` shows it."""

    id: int
    state: CycleState
    strategy: str
    champion: str
    challenger: str | None
    opened_at: datetime
    due_at: datetime
    closed_at: datetime | None
    labels_spent: int
    reasons: list[str]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the loop stands.

    Args:
        learner_until: When the lease of the learner at work runs out; None when no learner is at work.
        waits_for: Why nothing happens now; None when something does.
        expected: What the next batch should bring.
        paused: Why no cycle opens by itself though one could, and what ends that.
        variations: Who writes them, or why nobody does.
        cycles: The latest ones, newest first.
    """

    champion: str | None
    learner_until: datetime | None
    waits_for: str | None
    pool_size: int
    pool_min: int
    pool_oldest_at: datetime | None
    labels_spent: int
    budget: int
    budget_left: int
    expected: Expectation
    paused: str | None
    variations: str
    batch: Batch | None
    cycles: list[CycleLine]


async def _standing(settings: LearnerSettings, guard: GuardSettings) -> Standing:
    exports = Exports(guard.exports_dir)
    async with open_store(guard) as store:
        expires_at = await store.leases.expires_at(LEARNER)
        learner_until = expires_at if expires_at is not None and expires_at > store.clock() else None
        current = await store.cycles.current()
        spent = await store.cycles.labels_spent()
        return Standing(
            champion=exports.champion(),
            learner_until=learner_until,
            waits_for=await _waits_for(store, exports, settings, current, at_work=learner_until is not None),
            pool_size=await store.pool.size(),
            pool_min=settings.pool_min,
            pool_oldest_at=await store.pool.oldest(),
            labels_spent=spent,
            budget=settings.budget,
            budget_left=max(0, settings.budget - spent),
            expected=await expected(store, settings),
            paused=await paused(store, settings) if current is None else None,
            variations=await _variations(settings),
            batch=await store.review.batch() if current is not None else None,
            cycles=[_line(row) for row in await store.cycles.recent(_RECENT)],
        )


async def _waits_for(
    store: Store, exports: Exports, settings: LearnerSettings, current: Cycle | None, *, at_work: bool
) -> str | None:
    reason = await obstacle(store, exports, settings) if current is None else await waiting(store, current)
    if reason is None and not at_work:
        return "no learner is at work: start `learner run`, or do it by hand with `learner cycle`"
    return reason


async def _variations(settings: LearnerSettings) -> str:
    if settings.variations == 0:
        return "skipped: LEARNER_VARIATIONS is 0"
    from learner.llm import connect

    try:
        client = connect(settings)
    except BadConfiguration as error:
        return f"skipped: {error.detail}"
    await client.close()
    return f"{settings.variations} a message by {settings.llm_model}"


def _line(row: Cycle) -> CycleLine:
    return CycleLine(**{name: getattr(row, name) for name in CycleLine.__dataclass_fields__})


def _print(standing: Standing) -> None:
    facts = Table.grid(padding=(0, 2))
    oldest, until = standing.pool_oldest_at, standing.learner_until
    for name, value in {
        "champion": standing.champion or "none",
        "learner": f"at work, lease until {_time(until)}" if until else "not at work",
        "pool": f"{standing.pool_size} messages" + (f", the oldest of {_time(oldest)}" if oldest else ""),
        "labels": f"{standing.labels_spent} given, {standing.budget_left} of {standing.budget} left",
        "expected": standing.expected.says,
        "paused": standing.paused or "no",
        "variations": standing.variations,
        "batch": _progress(standing.batch),
        "waiting": "see paused" if standing.waits_for == f"paused: {standing.paused}" else standing.waits_for or "no",
    }.items():
        facts.add_row(name, value)
    console = Console(markup=False, highlight=False)
    console.print(facts)
    if not standing.cycles:
        return
    table = Table("cycle", "state", "by", "opened", "labels", "challenger", "figures", "reasons")
    for line in standing.cycles:
        table.add_row(
            str(line.id),
            line.state,
            line.strategy,
            _time(line.opened_at),
            str(line.labels_spent),
            f"{line.challenger} after {line.champion}" if line.challenger else "",
            ", ".join(
                f"{name} {value:.3f}" for name, value in line.figures.get("gate", {}).items() if name in _KEY_FIGURES
            ),
            "; ".join(line.reasons),
        )
    console.print(table)


def _progress(batch: Batch | None) -> str:
    if batch is None:
        return "none open"
    decided = batch.labelled + batch.unclear
    contested = f", {batch.contested} contested" if batch.contested else ""
    done = f"{decided} of {batch.size} decided{contested}"
    return f"cycle {batch.cycle_id} {batch.state}: {done}, due {_time(batch.due_at)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _settings() -> tuple[LearnerSettings, GuardSettings]:
    return read_settings(LearnerSettings), read_settings(GuardSettings)


def _run(main: Coroutine[Any, Any, _T], *, leave: bool = False) -> _T:
    """Run to the end, or to Ctrl-C; `leave` ends the process without waiting for a stage that still computes."""
    with asyncio.Runner() as runner:
        try:
            result = runner.run(main)
        except KeyboardInterrupt:
            _leave(_INTERRUPTED)
        if leave:
            _leave(0)
        return result


def _leave(code: int) -> NoReturn:
    """End the process at once: a training thread cannot be stopped, and all that counts is recorded."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run `learner …`."""
    execute(app)


if __name__ == "__main__":
    main()
