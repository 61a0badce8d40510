"""The paper's published data turned into a corpus folder. None of it is kept here."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from learner.paper import PaperRow, read_labelled


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
    used: set[str] = {""}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        fresh = list({row.text: row for row in rows if row.text not in used}.values())
        used.update(row.text for row in fresh)
        _write(folder / f"{name}.jsonl", name, fresh)


def _write(file: Path, name: str, rows: Sequence[PaperRow]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(rows):
            record = {
                "text": row.text,
                "category": row.category,
                "group": f"{name}-{number:04d}",
                "source": "paper",
                "language": "en",
                "tags": [],
            }
            stream.write(json.dumps(record) + "\n")
