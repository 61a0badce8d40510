"""The paper's published data: read as it is, labels repaired, turned into a corpus folder. None of it is kept here.

Every split (`random-all`, …) holds the variations first, in blocks that share an id, then the 100 messages people
labelled; block i belongs to message i. In two splits the messages carry their subreddit's default class instead of the
person's label: the repair gives each message the label of its block.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from guard.taxonomy import Category
from guard.text import normalise

SPLITS: Final = ("random", "topn", "coreset", "cluster")
HUMAN_ROWS: Final = 100
# macro-F1 of roberta-base in the paper's tables: bootstrap, + 100 labels by clusters, + 500 variations by clusters
PAPER_MACRO_F1: Final = {"bootstrap": 61.6, "labels": 64.3, "variations": 71.6}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One text with its label."""

    text: str
    category: Category


@dataclass(frozen=True, slots=True)
class LabelledSeed:
    """A message that people labelled, its label repaired, and the variations published for it."""

    row: PaperRow
    variations: tuple[str, ...]


def read_rows(file: Path, *, column: int) -> list[tuple[str, PaperRow]]:
    """Return `(id, row)` of a file whose fields are never quoted, only separated by tabs; the text is in `column`.

    Raises:
        ValueError: A line does not have four fields.
    """
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
    rows = []
    for number, line in enumerate(lines, 2):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 4:  # noqa: PLR2004
            raise ValueError(f"{file.name}:{number} has {len(fields)} fields instead of 4")
        name = "not-harmful" if fields[3] == "discard" else fields[3]
        rows.append((fields[0], PaperRow(normalise(fields[column]), Category(name))))
    return rows


def read_labelled(folder: Path, name: str) -> list[PaperRow]:
    """Return the rows of `bootstrap_labeled`, `dev_labeled` or `test_half`."""
    return [row for _, row in read_rows(folder / f"{name}.tsv", column=2)]


def read_split(folder: Path, split: str) -> list[LabelledSeed]:
    """Return the 100 messages of a split with their repaired labels and their variations.

    Raises:
        ValueError: The blocks do not pair with the messages.
    """
    rows = read_rows(folder / f"{split}-all.tsv", column=1)
    varied, human = rows[:-HUMAN_ROWS], rows[-HUMAN_ROWS:]
    blocks = [(key, [row for _, row in group]) for key, group in groupby(varied, key=lambda pair: pair[0])]
    if [key for key, _ in blocks] != [key for key, _ in human]:
        raise ValueError(f"{split}-all: {len(blocks)} blocks do not pair with {len(human)} messages")
    return [
        LabelledSeed(PaperRow(row.text, block[0].category), tuple(b.text for b in block))
        for (_, row), (_, block) in zip(human, blocks, strict=True)
    ]


def distinct_seeds(folder: Path, splits: Iterable[str] = SPLITS) -> list[LabelledSeed]:
    """Return the labelled messages of several splits, each text once."""
    seeds: dict[str, LabelledSeed] = {}
    for split in splits:
        for seed in read_split(folder, split):
            if seed.row.text:
                seeds.setdefault(seed.row.text, seed)
    return list(seeds.values())


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
