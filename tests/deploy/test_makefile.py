"""The Makefile on a machine that has make, a shell and (a stand-in for) Python, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
_MAKE: Final = shutil.which("make") or "/usr/bin/make"
_PYTEST: Final = "pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"
_TOOLS: Final = ("rm", "touch", "mkdir", "cp", "awk", "find")

# `-m venv DIR` makes an environment of such stand-ins; whatever else they are told is written down
_STAND_IN: Final = """#!/bin/sh
case "$*" in
  *"-c "*) exit "${PYTHON_TOO_OLD:-0}" ;;
  "-m venv "*) mkdir -p "$3/bin"; for tool in python pip guard pytest; do cp "$0" "$3/bin/$tool"; done ;;
esac
echo "${0##*/} $*" >> "$LEDGER"
case "$*" in *" install "*) exit "${INSTALL_FAILS:-0}" ;; esac
"""


class Machine:
    """A checkout on a bare machine; `make` returns what the stand-ins were told since the last call."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        self._tools = folder / "tools"
        self._tools.mkdir()
        self._ledger = folder / "ledger"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.checkout)
        for tool in _TOOLS:
            (self._tools / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")

    def install(self, name: str, script: str = _STAND_IN) -> None:
        """Put a program on the PATH."""
        (self._tools / name).write_text(script)
        (self._tools / name).chmod(0o755)

    def run(self, *goals: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run make and return how it ended."""
        environment = {"PATH": str(self._tools), "LEDGER": str(self._ledger), **variables}
        return subprocess.run(
            [_MAKE, *goals], cwd=self.checkout, env=environment, capture_output=True, text=True, check=False
        )

    def make(self, *goals: str, **variables: str) -> list[str]:
        """Run make, which must succeed, and return what was called."""
        self._ledger.write_text("")
        ended = self.run(*goals, **variables)
        assert ended.returncode == 0, ended.stderr
        return self._ledger.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.install("python3.11")
    return made


def _install(extras: str) -> str:
    return f"python -m pip --disable-pip-version-check install --constraint constraints.txt --editable .[{extras}]"


def _uninstall(package: str) -> str:
    return f"python -m pip --quiet --quiet uninstall --yes {package}"


def test_serve_makes_its_environment(machine: Machine) -> None:
    """On a bare machine `make serve` makes .venv, installs the pinned packages and serves."""
    assert machine.make("serve") == [
        "python3.11 -m venv .venv",
        _uninstall("onnxruntime-gpu"),
        _install("cpu,learner"),
        "guard serve",
    ]


def test_second_serve_installs_nothing(machine: Machine) -> None:
    """Once installed, `make serve` only serves."""
    machine.make("serve")
    assert machine.make("serve") == ["guard serve"]


def test_serve_after_test_installs_nothing(machine: Machine) -> None:
    """The environment of the tests is good enough to serve from."""
    assert machine.make("test")[-2:] == [_install("cpu,learner,dev"), _PYTEST]
    assert machine.make("serve") == ["guard serve"]


def test_test_after_serve_adds_what_is_missing(machine: Machine) -> None:
    """`make test` in an environment made for serving adds the development packages, once."""
    machine.make("serve")
    assert machine.make("test") == [_uninstall("onnxruntime-gpu"), _install("cpu,learner,dev"), _PYTEST]
    assert machine.make("test") == [_PYTEST]


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed(machine: Machine, changed: str) -> None:
    """A change of the requirements or the pins is installed at the next call, of either command."""
    machine.make("test")
    stamp = machine.checkout / ".venv" / ".test-cpu"
    later = stamp.stat().st_mtime + 1
    os.utime(machine.checkout / changed, (later, later))
    assert _install("cpu,learner") in machine.make("serve")
    assert _install("cpu,learner,dev") in machine.make("test")


def test_failed_installation_is_tried_again(machine: Machine) -> None:
    """An installation that failed half-way is no installation."""
    assert machine.run("serve", INSTALL_FAILS="1").returncode != 0
    assert machine.make("serve")[-2:] == [_install("cpu,learner"), "guard serve"]


def test_gpu_gets_its_own_runtime(machine: Machine) -> None:
    """Where nvidia-smi works, onnxruntime gives way to onnxruntime-gpu, and both commands agree on it."""
    machine.make("test")
    machine.install("nvidia-smi", "#!/bin/sh\nexit 0\n")
    assert machine.make("serve") == [_uninstall("onnxruntime"), _install("gpu,learner"), "guard serve"]
    assert machine.make("test") == [_uninstall("onnxruntime"), _install("gpu,learner,dev"), _PYTEST]
    assert machine.make("serve", RUNTIME="cpu")[:2] == [_uninstall("onnxruntime-gpu"), _install("cpu,learner")]


def test_broken_driver_means_cpu(machine: Machine) -> None:
    """An nvidia-smi that fails is no GPU."""
    machine.install("nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert _install("cpu,learner") in machine.make("serve")


def test_any_recent_python_will_do(tmp_path: Path) -> None:
    """Without a python3.11, a python3 that is recent enough is taken."""
    machine = Machine(tmp_path)
    machine.install("python3")
    assert machine.make("serve")[0] == "python3 -m venv .venv"


@pytest.mark.parametrize("installed", [[], ["python3"]])
def test_old_python_is_refused_in_words(tmp_path: Path, installed: list[str]) -> None:
    """Without Python 3.11 or newer, make says so and what to install, and leaves nothing behind."""
    machine = Machine(tmp_path)
    for name in installed:
        machine.install(name)
    ended = machine.run("serve", PYTHON_TOO_OLD="1")
    assert ended.returncode != 0
    assert "needs Python 3.11 or newer" in ended.stderr
    assert "apt install python3 python3-venv" in ended.stderr
    assert not (machine.checkout / ".venv").exists()


def test_bench_takes_options(machine: Machine) -> None:
    """`make bench` runs the benchmark in the tests' environment, with the options it is given."""
    assert machine.make("bench")[-2:] == [_install("cpu,learner,dev"), "python -m benchmarks.peers"]
    assert machine.make("bench", BENCH="--quick") == ["python -m benchmarks.peers --quick"]


def test_clean_keeps_models_and_data(machine: Machine) -> None:
    """`make clean` removes every environment but no model, no message and no key."""
    machine.make("serve")
    (machine.checkout / ".clients" / "litellm").mkdir(parents=True)
    (machine.checkout / ".prometheus").mkdir()
    kept = [machine.checkout / "exports" / "champion", machine.checkout / "var" / "keyring.json"]
    for file in kept:
        file.parent.mkdir()
        file.touch()
    machine.make("clean")
    assert not (machine.checkout / ".venv").exists()
    assert not (machine.checkout / ".clients").exists()
    assert not (machine.checkout / ".prometheus").exists()
    assert all(file.exists() for file in kept)


def test_help_names_every_command(machine: Machine) -> None:
    """`make` alone explains each command that there is."""
    makefile = (machine.checkout / "Makefile").read_text()
    (declared,) = (line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    shown = machine.run().stdout
    assert all(f"make {goal} " in shown for goal in declared.split()[1:])
