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
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": "true"}
    ended = subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in ended.stdout.splitlines() if line]
    assert [line for line in lines if line.startswith("made")] == [f"made {check}" for check in CHECKS]
    assert all(f"======== make {check} ========" in lines for check in CHECKS)
    assert lines[-1] == ("Everything passed." if failing is None else f"Failed: {failing}")
    assert ended.returncode == (0 if failing is None else 1)
