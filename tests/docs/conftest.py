"""A guard as `make serve` leaves it: the first model, trained on the seed corpus, in service on a free port."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.served import ServedGuard


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGuard]:
    """The shipped first model, served; that the corpus gives one whose must-pass messages all pass is part of it."""
    folder = tmp_path_factory.mktemp("first")
    guard = ServedGuard(folder)
    bootstrap = [sys.executable, "-m", "learner.cli", "bootstrap", "--quick"]
    ended = subprocess.run(
        bootstrap, env={**os.environ, **guard.environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    with guard:
        yield guard
