"""Small parts of the seed corpus as corpus folders, and what is left of it as traffic with known labels."""

import json
import random
from collections import defaultdict
from pathlib import Path

from guard.taxonomy import Category
from guard.text import normalise

SEED_CORPUS = Path(__file__).parents[2] / "learner" / "seed"


def small_corpus(folder: Path, *, train: int, dev: int, gate: int, seed: int) -> dict[str, Category]:
    """Write a corpus of so many rows a category and no must-pass rows, and return the other training rows: text to category."""
    folder.mkdir(parents=True, exist_ok=True)
    left: dict[str, Category] = {}
    for split, size in (("train", train), ("dev", dev), ("gate", gate), ("must_pass", 0)):
        rows = _rows(split)
        random.Random(seed).shuffle(rows)
        taken: dict[str, list[str]] = defaultdict(list)
        groups: set[str] = set()
        for row in rows:
            if len(taken[row["category"]]) < size:
                taken[row["category"]].append(json.dumps(row))
                groups.add(row["group"])
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for lines in taken.values() for line in lines))
        if split == "train":
            left = {normalise(r["text"]): Category(r["category"]) for r in rows if r["group"] not in groups}
    return left


def reworded(text: str, number: int) -> str:
    """Return something a writer might make of a text: other words around every other word of it."""
    words = text.split()[number::2]
    openings = ("someone please tell me about this thing where", "so basically what is going on here is")
    return f"{openings[number]} {' '.join(words)}"[:900]


def _rows(split: str) -> list[dict[str, str]]:
    lines = (SEED_CORPUS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
