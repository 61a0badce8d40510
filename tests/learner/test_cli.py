"""The command line, as people and programs use it."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog

from guard.errors import BrokenExport
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import Store, open_store
from guard.store.cycles import Picked
from guard.store.lease import LEARNER
from guard.store.rows import Cycle
from guard.store.states import CycleState
from learner import cli
from learner.progress import Progress
from learner.settings import LearnerSettings
from tests.learner.stages import fill_pool, label
from tests.toys import publish_toy

Run = Callable[..., int]


@pytest.fixture
def environment(guard_settings: GuardSettings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a learner whose cycles have four labels, with everything in a temporary folder; set here, too."""
    variables = {
        "GUARD_DATA_DIR": str(guard_settings.data_dir),
        "GUARD_EXPORTS_DIR": str(guard_settings.exports_dir),
        "LEARNER_BATCH_SIZE": "4",
        "LEARNER_POOL_MIN": "10",
        "LEARNER_BUDGET": "50",
        "LEARNER_THREADS": "1",
        "LEARNER_TICK_S": "0.05",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **variables}


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """Undo what a command does to the process's logs: it sends them to a standard error that is the test's own."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture
def run(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process and return its exit status."""

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["learner", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return command


def with_store(guard_settings: GuardSettings, work: Callable[[Store], Any]) -> Any:
    """Do something with the store, making it first."""

    async def use() -> Any:
        async with open_store(guard_settings, create_keyring=True) as store:
            return await work(store)

    return asyncio.run(use())


def ready(guard_settings: GuardSettings) -> None:
    """Make a champion and a pool from which a cycle can open."""
    publish_toy(Exports(guard_settings.exports_dir))
    with_store(guard_settings, fill_pool)


async def flat_curve(store: Store) -> None:
    """Add seven cycles whose challengers were all alike."""
    now = store.clock()
    async with store.database.write() as session:
        session.add_all(
            Cycle(
                state=CycleState.HELD,
                strategy="random",
                seed=1,
                batch_size=4,
                labels_spent=4,
                champion="0001",
                challenger="0001",
                opened_at=now,
                due_at=now,
                closed_at=now,
                frozen_at=None,
                timeline=[],
                figures={"gate": {"macro_f1": 0.8}},
                reasons=[],
            )
            for _ in range(7)
        )


def status(run: Run, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return `learner status --json`."""
    capsys.readouterr()
    assert run("status", "--json") == 0
    standing: dict[str, Any] = json.loads(capsys.readouterr().out)
    return standing


class TestErrorRates:
    """How often the guard is wrong."""

    def test_says_that_nothing_is_known_yet(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without a batch it says so, and that drift cannot be told."""
        ready(guard_settings)
        assert run("errors") == 0
        printed = capsys.readouterr().out
        assert "no error rates yet" in printed
        assert printed.count("too few verdicts") == 2

    def test_shows_rates_with_their_labels(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """After a batch every measure stands there by category, with the interval where there are labels enough."""
        ready(guard_settings)

        async def review(store: Store) -> None:
            fence = await store.leases.acquire(LEARNER, "test", ttl=timedelta(minutes=1))
            assert fence is not None
            due = store.clock() + timedelta(days=1)
            cycle = await store.cycles.open(
                fence=fence, strategy="random", seed=1, batch_size=20, champion="0001", due_at=due
            )
            picks = [Picked(n, {"strategy": "random"}, 1.0) for n in range(1, 21)]
            await store.cycles.fill(cycle.id, picks, fence=fence, figures={"selection": {"others": 20}})
            await label(store)
            for source, target in pairwise((CycleState.LABELLING, CycleState.GENERATING, CycleState.HELD)):
                await store.cycles.advance(cycle.id, fence=fence, source=source, target=target)

        with_store(guard_settings, review)
        assert run("errors") == 0
        printed = capsys.readouterr().out
        assert "Model 0001" in printed
        missed = next(line for line in printed.splitlines() if "miss rate" in line and "legal-advice" in line)
        assert "83.2 to 100.0" in missed
        assert run("errors", "--json", "--days", "7") == 0
        figures = json.loads(capsys.readouterr().out)
        assert {(f["measure"], f["labels"]) for f in figures if f["category"] == "legal-advice"} >= {("miss_rate", 20)}


class TestStatus:
    """How the loop stands."""

    def test_says_what_is_missing_at_the_start(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Before everything there is no champion, no cycle and no key, and the page says what to do."""
        with_store(guard_settings, lambda store: store.pool.size())
        assert run("status") == 0
        page = capsys.readouterr().out
        assert "run `learner bootstrap`" in page
        assert "no LLM key" in page
        assert "not at work" in page

    def test_is_json_for_programs(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The JSON has champion, pool, labels, budget and why nothing happens."""
        with_store(guard_settings, lambda store: fill_pool(store, 3))
        publish_toy(Exports(guard_settings.exports_dir))
        standing = status(run, capsys)
        assert standing["champion"] == "0001"
        assert standing["pool_size"] == 3
        assert standing["pool_oldest_at"] is not None
        assert (standing["labels_spent"], standing["budget"], standing["budget_left"]) == (0, 50, 50)
        assert standing["waits_for"] == "the pool holds 3 messages and a cycle opens at 10 (LEARNER_POOL_MIN)"
        assert standing["cycles"] == []
        assert standing["batch"] is None

    def test_shows_the_open_cycle_and_its_batch(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With a batch open it shows how many are decided and what is waited for."""
        ready(guard_settings)
        assert run("cycle") == 0
        with_store(guard_settings, lambda store: label(store, 3))
        standing = status(run, capsys)
        assert standing["batch"]["size"] == 4
        assert standing["batch"]["labelled"] == 3
        assert standing["labels_spent"] == 3
        assert standing["budget_left"] == 47
        assert standing["waits_for"].startswith("1 messages wait for people")
        assert [line["state"] for line in standing["cycles"]] == ["labelling"]
        assert run("status") == 0
        page = capsys.readouterr().out
        assert "3 of 4 decided" in page
        assert "labelling" in page

    def test_says_what_labels_should_bring(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Page and JSON have the expectation with its interval, and that the loop is paused for it; or that it is not."""
        ready(guard_settings)
        standing = status(run, capsys)
        assert standing["paused"] is None
        assert standing["expected"]["gain"] is None
        assert standing["expected"]["says"].startswith("cannot be told yet: the learning curve has 0 points")
        with_store(guard_settings, flat_curve)
        standing = status(run, capsys)
        says = "the next 4 labels should bring +0.0 points of macro-F1 (95 % between +0.0 and +0.0)"
        assert standing["expected"] == {"labels": 4, "gain": 0.0, "low": 0.0, "high": 0.0, "says": says}
        assert standing["waits_for"] == f"paused: {standing['paused']}"
        assert standing["paused"].startswith(says)
        assert run("status") == 0
        page = " ".join(capsys.readouterr().out.split())
        assert f"expected {says}" in page
        assert page.count("LEARNER_PAUSE_BELOW") == 1
        assert run("cycle") == 0
        assert "cycle 8: labelling" in capsys.readouterr().out

    def test_says_when_only_a_learner_is_missing(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """When a cycle could open and no learner is at work, that is the reason; with one there is none."""
        ready(guard_settings)
        assert status(run, capsys)["waits_for"].startswith("no learner is at work")
        with_store(guard_settings, lambda store: store.leases.acquire(LEARNER, "somebody", ttl=timedelta(minutes=5)))
        standing = status(run, capsys)
        assert standing["waits_for"] is None
        assert standing["learner_until"] is not None

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, "skipped: no LLM key"),
            ({"OPENAI_API_KEY": "sk-secret"}, "5 a message by gpt-4o-mini"),
            ({"LEARNER_LLM_API_KEY": "sk-secret", "LEARNER_LLM_MODEL": "qwen"}, "5 a message by qwen"),
            ({"OPENAI_API_KEY": "sk-secret", "LEARNER_VARIATIONS": "0"}, "skipped: LEARNER_VARIATIONS is 0"),
        ],
    )
    def test_says_who_writes_variations(
        self,
        run: Run,
        guard_settings: GuardSettings,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        expected: str,
    ) -> None:
        """It names the model, or why no variations are written, and never the key."""
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with_store(guard_settings, lambda store: store.pool.size())
        standing = status(run, capsys)
        assert standing["variations"].startswith(expected)
        assert "sk-secret" not in str(standing)

    def test_shows_why_cycles_ended_without_any_text(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A failed cycle shows its stage and error."""
        ready(guard_settings)
        (guard_settings.exports_dir / "0001" / "model.onnx").write_bytes(b"")
        assert run("cycle") == 0
        assert "cycle 1 was failed: selecting: BrokenExport" in capsys.readouterr().out
        assert status(run, capsys)["cycles"][0]["reasons"] == ["selecting: BrokenExport"]

    @pytest.mark.slow
    def test_loads_nothing_heavy(self, guard_settings: GuardSettings, environment: dict[str, str]) -> None:
        """A fresh process that shows the status has not loaded the training or the serving stack."""
        with_store(guard_settings, lambda store: store.pool.size())
        program = (
            "import sys\nfrom learner import cli\nsys.argv = ['learner', 'status']\n"
            "try:\n    cli.main()\nexcept SystemExit:\n    print('loaded', *sys.modules)"
        )
        out = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        loaded = set(out.stdout.partition("loaded ")[2].split())
        assert "learner.cli" in loaded
        assert not loaded & {"torch", "transformers", "sklearn", "scipy", "onnxruntime", "matplotlib", "apscheduler"}


class TestCycle:
    """By hand."""

    def test_says_what_happened(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It tells each state that was entered and what it waits for in the end."""
        ready(guard_settings)
        assert run("cycle") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == ["cycle 1: selecting", "cycle 1: labelling"]
        assert lines[2].startswith("waiting: 4 messages wait for people")

    def test_says_what_is_in_the_way(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where no cycle can open it says why."""
        with_store(guard_settings, lambda store: store.pool.size())
        assert run("cycle") == 0
        assert capsys.readouterr().out == "waiting: there is no champion yet: run `learner bootstrap`\n"

    def test_leaves_a_learner_at_work_alone(
        self, run: Run, guard_settings: GuardSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With a learner at work it ends with one line and the status 1."""
        ready(guard_settings)
        with_store(guard_settings, lambda store: store.leases.acquire(LEARNER, "somebody", ttl=timedelta(minutes=5)))
        capsys.readouterr()
        assert run("cycle") == 1
        assert capsys.readouterr().err.startswith("Conflict: A learner is at work")


class TestBootstrap:
    """The first model."""

    def test_shows_progress_and_names_the_champion(
        self,
        run: Run,
        guard_settings: GuardSettings,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Progress goes to standard error, the version to standard output."""

        def make(settings: LearnerSettings, exports: Exports, progress: Progress, *, quick: bool) -> str:
            progress("training", 1, 2)
            progress("training", 2, 2)
            return publish_toy(exports)

        substitute(monkeypatch, make)
        assert run("bootstrap") == 0
        out, err = capsys.readouterr()
        assert out == "Export 0001 is the champion.\n"
        assert err == "training 1/2\ntraining 2/2\n"

    def test_a_failure_is_one_line(
        self, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error of ours ends with one line and the status 1, without a traceback."""

        def make(settings: LearnerSettings, exports: Exports, progress: Progress, *, quick: bool) -> str:
            raise BrokenExport("Export 0001 does not do what the network does.")

        substitute(monkeypatch, make)
        assert run("bootstrap") == 1
        assert capsys.readouterr().err == "Broken export: Export 0001 does not do what the network does.\n"


def substitute(monkeypatch: pytest.MonkeyPatch, make: Callable[..., str]) -> None:
    """Put a quick function in the place of the first training, whose module loads torch."""
    module = types.ModuleType("learner.bootstrap")
    module.bootstrap = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "learner.bootstrap", module)


class TestErrors:
    """What cannot work is said in one line."""

    def test_no_keyring(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a keyring the line says how to make one."""
        assert run("status") == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("Bad configuration: There is no keyring at ")
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("name", "value"),
        [("LEARNER_BATCH_SIZE", "canary"), ("GUARD_PORT", "canary"), ("GUARD_ACTIONS", "{canary")],
    )
    def test_a_bad_setting_is_named_and_its_value_is_not(
        self, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        """The line names the variable and does not repeat what stands in it."""
        monkeypatch.setenv(name, value)
        assert run("status") == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert name.partition("_")[2].lower() in err.lower()
        assert "canary" not in err

    def test_an_unknown_strategy(
        self,
        run: Run,
        guard_settings: GuardSettings,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The line lists the strategies there are."""
        ready(guard_settings)
        monkeypatch.setenv("LEARNER_STRATEGY", "nearest")
        assert run("cycle") == 1
        assert "choose one of cluster, random, topn, coreset" in capsys.readouterr().err


BUSY = """
import threading
from learner import cli, schedule
from tests.learner.stages import QuickWork

class Busy(QuickWork):
    def _bundle(self, version):
        print("here", flush=True)
        threading.Event().wait(60)

schedule.Work = Busy
cli.run()
"""


@pytest.mark.slow
class TestRun:
    """The service."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_quietly_when_told_to(
        self, guard_settings: GuardSettings, environment: dict[str, str], number: signal.Signals, tmp_path: Path
    ) -> None:
        """After SIGTERM or SIGINT it gives the lease back and exits with 0; it logs JSON lines and nothing else."""
        ready(guard_settings)
        command = [sys.executable, "-m", "learner.cli", "run"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            events: list[dict[str, Any]] = []
            while not events or events[-1]["event"] != "waiting":
                events.append(json.loads(process.stderr.readline()))
            process.send_signal(number)
            rest = process.stderr.read().splitlines()
            assert process.wait(10) == 0
            assert process.stdout.read() == b""
        assert [event["event"] for event in events] == ["lease_taken", "cycle_opened", "stage_done", "waiting"]
        assert all(json.loads(line) for line in rest)
        assert with_store(guard_settings, lambda s: s.leases.acquire(LEARNER, "next", ttl=timedelta(1))) is not None

    def test_does_not_wait_for_a_thread_that_computes(
        self, guard_settings: GuardSettings, environment: dict[str, str]
    ) -> None:
        """SIGTERM in the middle of a stage that blocks a thread ends the process within seconds, with 0."""
        ready(guard_settings)
        with subprocess.Popen([sys.executable, "-c", BUSY], env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
            process.terminate()
            assert process.wait(10) == 0
        assert with_store(guard_settings, lambda s: s.leases.acquire(LEARNER, "next", ttl=timedelta(1))) is not None
