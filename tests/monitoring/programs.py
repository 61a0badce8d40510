"""Prometheus and promtool: those of this machine, or Debian's, fetched and unpacked once into `.prometheus/`."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[2] / ".prometheus"
_FETCHED_WITHIN_S: Final = 240


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; where there is none to be had the test is skipped, but not in CI."""
    found = shutil.which(name)
    if found is not None:
        return found
    unpacked = FOLDER / "usr" / "bin" / name
    try:
        FOLDER.mkdir(exist_ok=True)
        with (FOLDER / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions may want it at once
            if not unpacked.exists():
                _fetch()
    except (OSError, subprocess.SubprocessError) as error:
        missing = f"no {name} here, and none from Debian ({type(error).__name__}): install Prometheus to run this"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(unpacked)


def _fetch() -> None:
    """Unpack Debian's package; nothing of the system changes but, where they are missing, its lists of packages."""
    download = ("apt-get", "-qq", "download", "prometheus")
    try:
        _run(*download)
    except subprocess.CalledProcessError:
        _run("apt-get", "-qq", "update")
        _run(*download)
    (package,) = FOLDER.glob("prometheus_*.deb")
    staged = FOLDER / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    _run("dpkg-deb", "--extract", package.name, staged.name)
    (staged / "usr").rename(FOLDER / "usr")
    shutil.rmtree(staged)
    package.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, cwd=FOLDER, capture_output=True, check=True, timeout=_FETCHED_WITHIN_S)
