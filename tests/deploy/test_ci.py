"""`.ci/run` runs every check, whatever became of those before, and fails when one did."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

RUN: Final = Path(__file__).parents[2] / ".ci" / "run"
CHECKS: Final = ["test", "lint", "types", "imports"]


@pytest.mark.parametrize("failing", [None, *CHECKS])
def test_all_checks_run_and_count(tmp_path: Path, failing: str | None) -> None:
    """Each check is made once under its own heading; the exit status and the last line say whether all passed."""
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    shutil.copy(RUN, script)
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "made $1"\n[ "$1" != "{failing}" ]\n')
    make.chmod(0o755)
    (tmp_path / "chromium").symlink_to(make)  # there is one: nothing is installed
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": "true"}
    ended = subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in ended.stdout.splitlines() if line]
    assert [line for line in lines if line.startswith("made")] == [f"made {check}" for check in CHECKS]
    assert all(f"======== make {check} ========" in lines for check in CHECKS)
    assert lines[-1] == ("Everything passed." if failing is None else f"Failed: {failing}")
    assert ended.returncode == (0 if failing is None else 1)


@pytest.mark.parametrize("installs", [True, False])
def test_browser_is_installed_where_there_is_none(tmp_path: Path, *, installs: bool) -> None:
    """Without a Chromium one is installed; where that fails the checks are made all the same, and it is said."""
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    shutil.copy(RUN, script)
    for name, body in (
        ("make", "echo made"),
        ("apt-get", f'echo "$@" >> {tmp_path}/asked; {"true" if installs else "false"}'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for tool in ("bash", "dirname", "sh", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    ended = subprocess.run([str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.count("made")) == (0, len(CHECKS))
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("update")
    assert ("chromium" in asked) is installs
    assert ("no Chromium" in ended.stdout) is not installs
