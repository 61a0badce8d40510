"""The paper's published data turned into corpus folders and files of examples. None of it is kept here."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

from learner.paper import PaperRow, distinct_seeds, read_labelled


def write_corpus(folder: Path, data: Path, *, gate_share: float, seed: int) -> None:
    """Write a corpus folder: bootstrap rows to train, the published dev rows parted into dev and gate, no must-pass."""
    held_out = read_labelled(data, "dev_labeled")
    random.Random(seed).shuffle(held_out)  # noqa: S311 - a seeded draw, not a secret
    cut = round(len(held_out) * gate_share)
    parts = {
        "gate": held_out[:cut],
        "dev": held_out[cut:],
        "train": read_labelled(data, "bootstrap_labeled"),
        "must_pass": [],
    }
    used = {""}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        _write(folder / f"{name}.jsonl", name, rows, used)


def write_labelled(file: Path, data: Path) -> None:
    """Write the rows that people labelled for training and development, labels repaired, each text once."""
    rows = [*read_labelled(data, "bootstrap_labeled"), *read_labelled(data, "dev_labeled")]
    _write(file, "labelled", [*rows, *(seed.row for seed in distinct_seeds(data))], {""})


def write_test_half(file: Path, data: Path) -> None:
    """Write the rows of `test_half`, each text once."""
    _write(file, "test", read_labelled(data, "test_half"), {""})


def _write(file: Path, name: str, rows: Iterable[PaperRow], used: set[str]) -> None:
    """Write the rows whose text is not among the used ones, which they join; every row is a group of its own."""
    fresh = list({row.text: row for row in rows if row.text not in used}.values())
    used.update(row.text for row in fresh)
    with file.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(fresh):
            record = {
                "text": row.text,
                "category": row.category,
                "group": f"{name}-{number:04d}",
                "source": "paper",
                "language": "en",
                "tags": [],
            }
            stream.write(json.dumps(record) + "\n")
