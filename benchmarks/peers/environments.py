"""The peers' virtual environments: requirements come in, a Python that has them goes out, made once for each digest."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Peers run offline and tell nobody: hubs are not asked for the model, telemetry is off.
OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "TOKENIZERS_PARALLELISM": "false",
}
_INSTALL_S: Final = 1_200
_READY: Final = "complete"


class Unavailable(Exception):
    """A peer cannot be made or started here; the message says why. It does not stop the run."""


class Environments:
    """The folder of virtual environments.

    Args:
        folder: Outside the tree; each environment is in a folder named by the digest of its requirements.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def python(self, name: str, requirements: Sequence[str]) -> Path:
        """Return the Python that has the requirements, installing them first where nobody has.

        Raises:
            Unavailable: They cannot be installed.
        """
        folder = self.folder / f"{name}-{digest(requirements)}"
        python = folder / "bin" / "python"
        if not (folder / _READY).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            _run([sys.executable, "-m", "venv", str(folder)], name)
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
            _run([*pip, "--upgrade", "pip"], name)  # the one that comes with Python resolves these for minutes
            _run([*pip, *requirements], name)
            (folder / _READY).write_text("\n".join(requirements) + "\n")
        return python


def digest(requirements: Sequence[str]) -> str:
    """Return what names an environment: the same for the same requirements and Python, in any order."""
    said = "\n".join([f"{sys.version_info.major}.{sys.version_info.minor}", *sorted(requirements)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package that an environment has."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    said = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(said)
    return {name: found[name] for name in packages if name in found}


def clean_environment(**further: str) -> dict[str, str]:
    """Return the variables a peer starts with: none of ours, nothing that sets threads, offline."""
    foreign = ("GUARD_", "LEARNER_", "OPENAI_", "OMP_", "MKL_", "PYTHON", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | OFFLINE | further


def _run(command: Sequence[str], name: str) -> None:
    try:
        ended = subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"installing {name} took longer than {_INSTALL_S} s") from None
    if ended.returncode:
        last = next(
            (line for line in reversed(ended.stderr.splitlines()) if "error" in line.lower()), "no reason given"
        )
        raise Unavailable(f"installing {name} failed: {last.strip()[:200]}")
