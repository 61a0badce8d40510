"""The whole loop on the paper's data, over HTTP: five cycles of twenty labels, under a client at full speed.

    python -m benchmarks.loop --data ../shared/data/active-learning-safety

The champion is trained on the paper's 150 bootstrap rows. The messages people labelled in its four splits are posted as
traffic; reviewers label them through the review API with the published labels (repaired); the published variations
come back from a local server that speaks the OpenAI protocol. Test texts are only ever scored.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.paper_data import write_corpus
from guard.bundle import Bundle
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store.rows import Cycle
from guard.taxonomy import CATEGORIES, Category
from learner.paper import (
    BEST,
    BOOTSTRAP_F1,
    LABELS_F1,
    MODELS,
    VARIATIONS_F1,
    PaperRow,
    distinct_seeds,
    read_labelled,
)
from learner.report import macro_f1
from tests.e2e.driver import (
    Reviewer,
    Traffic,
    TrafficReport,
    await_cycle,
    await_version,
    create_keys,
    post_traffic,
    read_cycles,
)
from tests.fakes.llm import FakeLLM, Rehearsed
from tests.served import ServedGuard

RESULTS: Final = Path(__file__).parent / "results"
CYCLE_TIMEOUT_S: Final = 900
HTTP_BATCH: Final = 100
SCORE_TOLERANCE: Final = 1e-3  # padding beside other messages moves fp32 scores by some 1e-6


def main(
    data: Annotated[Path, typer.Option(help="Folder of the published data.")],
    work: Annotated[Path, typer.Option(help="Folder for the store and the exports; kept.")] = Path("build/loop"),
    cycles: int = 5,
    batch_size: int = 20,
    strategy: str = "cluster",
    seed: int = 20261120,
    gate_share: Annotated[float, typer.Option(help="Share of the published dev rows that judges.")] = 0.67,
) -> None:
    """Run the loop and print macro-F1 on `test_half` before and after each cycle, beside the paper's."""
    work = work.absolute() / f"{strategy}-{seed}-{int(time.time())}"
    write_corpus(work / "corpus", data, gate_share=gate_share, seed=seed)
    seeds = distinct_seeds(data)
    test = read_labelled(data, "test_half")
    settings = GuardSettings(data_dir=work / "var", exports_dir=work / "exports")
    keys = asyncio.run(create_keys(settings))
    answers = {s.row.text: s.row.category for s in seeds}
    categories = answers | {text: s.row.category for s in seeds for text in s.variations}
    console = Console()
    with ExitStack() as stack:
        llm = stack.enter_context(FakeLLM(Rehearsed({s.row.text: s.variations for s in seeds}, categories)))
        environment = {
            "LEARNER_CORPUS_DIR": str(work / "corpus"),
            "LEARNER_STRATEGY": strategy,
            "LEARNER_SEED": str(seed),
            "LEARNER_BATCH_SIZE": str(batch_size),
            "LEARNER_BUDGET": str(cycles * batch_size),
            "LEARNER_POOL_MIN": str(batch_size),
            "LEARNER_TICK_S": "0.5",
            "OPENAI_BASE_URL": llm.base_url,
            "OPENAI_API_KEY": "local",
        }
        cores = len(os.sched_getaffinity(0))
        options: dict[str, Any] = {
            "threads": cores,
            "watch_interval_ms": 100,
            "uncertain_above": 0,  # the paper's U is the whole pool, not only what is uncertain
            "overlap": 1,  # and each message is labelled once
        }
        began = time.monotonic()
        learner = [sys.executable, "-m", "learner.cli", "bootstrap"]
        paths = {"GUARD_DATA_DIR": str(settings.data_dir), "GUARD_EXPORTS_DIR": str(settings.exports_dir)}
        subprocess.run(learner, env={**os.environ, **environment, **paths}, check=True)
        console.print(f"first model after {time.monotonic() - began:.0f} s")
        with (
            ServedGuard(work, **options) as alone,
            httpx.Client(base_url=alone.base_url, headers=keys["client"]) as client,
        ):
            post_traffic(client, list(answers))  # the whole pool is there before the first cycle opens
        guard = stack.enter_context(ServedGuard(work, environment=environment, learner=True, **options))
        client = stack.enter_context(httpx.Client(base_url=guard.base_url, headers=keys["client"], timeout=60))
        review = stack.enter_context(httpx.Client(base_url=guard.base_url, headers=keys["anna"], timeout=60))
        with Traffic(guard.base_url, [row.text for row in test[:200]], headers=keys["client"]) as traffic:
            for name in ("anna", "ben"):
                stack.enter_context(Reviewer(guard.base_url, answers, headers=keys[name]))
            for number in range(1, cycles + 1):
                await_cycle(review, number, timeout_s=CYCLE_TIMEOUT_S)
                console.print(f"cycle {number} has ended")
            champion = Exports(settings.exports_dir).champion() or ""
            await_version(client, champion)
            served = _served(client, test)
    report = traffic.report
    exports = Exports(settings.exports_dir)
    rows = [_row(cycle) for cycle in asyncio.run(read_cycles(settings))]
    first = exports.versions()[0]
    offline = {version: _offline(exports, version, test) for version in {first, *(row["challenger"] for row in rows)}}
    serving = first
    for row in rows:
        serving = row["challenger"] if row["state"] == "promoted" else serving
        row |= {
            "champion": serving,
            "champion_scores": offline[serving],
            "challenger_scores": offline[row["challenger"]],
        }
    summary = {
        "strategy": strategy,
        "seed": seed,
        "cores": cores,
        "bootstrap_scores": offline[first],
        "cycles": rows,
        "final_champion_over_http": served,
        "requests": report.answers,
        "failed": sum(report.failures.values()),
        "mixed": _mixed(report, exports),
        "steps_back": report.steps_back,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loop.json").write_text(json.dumps(summary, indent=2) + "\n")
    _print(console, summary)


def _served(client: httpx.Client, test: Sequence[PaperRow]) -> dict[str, Any]:
    """Score the test texts over HTTP and return the version that answered with its macro-F1, in shares of 1."""
    scores, decided, versions = [], [], set()
    for begin in range(0, len(test), HTTP_BATCH):
        texts = [row.text for row in test[begin : begin + HTTP_BATCH]]
        answer = client.post("/classify", json={"texts": texts, "store": False}).raise_for_status().json()
        versions.add(answer["model_version"])
        scores += [[result["scores"][c] for c in CATEGORIES] for result in answer["results"]]
        decided += [CATEGORIES.index(Category(result["category"])) for result in answer["results"]]
    (version,) = versions
    of_decisions = macro_f1(_truth(test), np.array(decided))
    return {"version": version, **_f1(test, np.array(scores).argmax(axis=1)), "macro_f1_of_decisions": of_decisions}


def _offline(exports: Exports, version: str, test: Sequence[PaperRow]) -> dict[str, float]:
    probabilities, _ = Bundle.load(exports, version).score([row.text for row in test])
    return _f1(test, probabilities.argmax(axis=1))


def _f1(test: Sequence[PaperRow], likeliest: npt.NDArray[np.intp]) -> dict[str, float]:
    """Return macro-F1 of the likeliest category, as the paper scores, with and without its noisy emergency class."""
    calm = [i for i, c in enumerate(CATEGORIES) if c is not Category.EMERGENCY_SITUATION]
    truth = _truth(test)
    return {
        "macro_f1": macro_f1(truth, likeliest),
        "macro_f1_without_emergency": macro_f1(truth, likeliest, categories=calm),
    }


def _truth(test: Sequence[PaperRow]) -> npt.NDArray[np.intp]:
    return np.array([CATEGORIES.index(row.category) for row in test])


def _row(cycle: Cycle) -> dict[str, Any]:
    return {
        "cycle": cycle.id,
        "state": cycle.state,
        "challenger": cycle.challenger,
        "labels": cycle.labels_spent,
        "reasons": cycle.reasons,
        "figures": cycle.figures,
        "seconds": {stage["stage"]: round(_seconds(stage), 1) for stage in cycle.timeline},
    }


def _seconds(stage: Mapping[str, str]) -> float:
    return (datetime.fromisoformat(stage["ended_at"]) - datetime.fromisoformat(stage["started_at"])).total_seconds()


def _mixed(report: TrafficReport, exports: Exports) -> int:
    """Count answers whose scores are not those that their version gives offline."""
    wrong = 0
    for version in {version for _, version in report.scores}:
        bundle = Bundle.load(exports, version)
        texts = [text for text, seen in report.scores if seen == version]
        probabilities, _ = bundle.score(texts)
        for text, expected in zip(texts, probabilities, strict=True):
            served = np.array([report.scores[text, version][c] for c in CATEGORIES])
            wrong += bool(np.abs(served - expected).max() > SCORE_TOLERANCE)
    return wrong


def _print(console: Console, summary: dict[str, Any]) -> None:
    table = Table(
        "cycle", "labels", "end", "champion", "macro-F1", "without emergency", "challenger", "variations", "seconds"
    )
    first = summary["bootstrap_scores"]
    table.add_row("0", "0", "bootstrap", "0001", *(f"{100 * share:.1f}" for share in first.values()))
    for cycle in summary["cycles"]:
        table.add_row(
            str(cycle["cycle"]),
            str(cycle["labels"]),
            cycle["state"],
            cycle["champion"],
            *(f"{100 * share:.1f}" for share in cycle["champion_scores"].values()),
            f"{100 * cycle['challenger_scores']['macro_f1']:.1f}",
            str(cycle["figures"].get("variations", {}).get("accepted", 0)),
            str(round(sum(cycle["seconds"].values()))),
        )
    console.print(table)
    console.print(
        f"paper, {MODELS[BEST]} (125M), clusters: bootstrap {BOOTSTRAP_F1[BEST]}, + 100 labels "
        f"{LABELS_F1['cluster'][BEST]}, + 500 variations {VARIATIONS_F1['cluster'][BEST]}"
    )
    for cycle in summary["cycles"]:
        console.print(f"cycle {cycle['cycle']} {cycle['state']}: {'; '.join(cycle['reasons'])}")
    console.print(
        f"{summary['requests']} requests beside it: {summary['failed']} failed, {summary['mixed']} mixed, "
        f"{summary['steps_back']} steps back"
    )


if __name__ == "__main__":
    typer.run(main)
