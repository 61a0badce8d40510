"""A small first model that several tests begin with, trained once for all processes of a run."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from guard.taxonomy import Category
from tests.e2e.corpora import small_corpus

SEED: Final = 5


@dataclass(frozen=True)
class FirstModel:
    """A champion that learnt from a small corpus.

    Args:
        folder: Holds `corpus` and `exports`; nobody writes there.
        answers: What is right about texts it has not seen.
    """

    folder: Path
    answers: Mapping[str, Category]

    @property
    def corpus(self) -> Path:
        """The folder of what it learnt from."""
        return self.folder / "corpus"

    def install(self, exports: Path) -> None:
        """Copy it to where a guard looks for its champion."""
        shutil.copytree(self.folder / "exports", exports)


@pytest.fixture(scope="session")
def first_model(tmp_path_factory: pytest.TempPathFactory) -> FirstModel:
    """Such a model."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "first-model"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "answers.json").exists():
            answers = small_corpus(folder / "corpus", train=40, dev=12, gate=20, seed=SEED)
            foreign = ("GUARD_", "LEARNER_", "OPENAI_")
            environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
                "GUARD_DATA_DIR": str(folder / "var"),
                "GUARD_EXPORTS_DIR": str(folder / "exports"),
                "LEARNER_CORPUS_DIR": str(folder / "corpus"),
                "LEARNER_FINE_TUNE_EPOCHS": "0",
            }
            subprocess.run([sys.executable, "-m", "learner.cli", "bootstrap"], env=environment, check=True)
            (folder / "answers.json").write_text(json.dumps(answers))
    told = json.loads((folder / "answers.json").read_text())
    return FirstModel(folder, {text: Category(category) for text, category in told.items()})
