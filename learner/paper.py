"""The paper's published data and its tables: a folder of TSV files into rows, with labels as published and repaired.

Hassan, Sicilia and Alikhani, "Active Learning for Robust and Representative LLM Generation in Safety-Critical
Scenarios", CustomNLP4U 2024. Every split (`random-all`, …) holds the variations first, in blocks that share an id, then
the 100 messages people labelled; block i belongs to message i. In two splits the messages carry their subreddit's default
class instead of the person's label: the repair gives each message the label of its block. `learner.reproduce` measures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from guard.errors import BadConfiguration
from guard.taxonomy import Category
from guard.text import normalise

SPLITS: Final = ("random", "topn", "coreset", "cluster")
HUMAN_ROWS: Final = 100
_COLUMNS: Final = ["id", "subreddit", "category"]  # beside the text's, whose name differs from file to file
_REMEDY: Final = (
    "--data takes a folder with bootstrap_labeled, dev_labeled, test_half, random-all, topn-all, coreset-all and "
    "cluster-all, each a .tsv of four columns, as published at github.com/sabithsn/active-learning-safety"
)

MODELS: Final = (
    "bert-base-cased",
    "bert-base-uncased",
    "roberta-base",
    "distilbert-base-cased",
    "distilbert-base-uncased",
)
BEST: Final = MODELS.index("roberta-base")  # in the paper's Tables 4, 5 and 6, and the model of its Table 8
# Table 3, in the order of `CATEGORIES`
CLASS_COUNTS: Final[Mapping[str, tuple[int, ...]]] = {
    "random": (96, 180, 84, 84, 12, 144),
    "topn": (116, 88, 90, 112, 24, 170),
    "coreset": (66, 115, 137, 90, 0, 192),
    "cluster": (115, 121, 87, 94, 30, 153),
    "bootstrap": (22, 24, 36, 25, 5, 38),
    "dev": (26, 26, 32, 29, 6, 31),
    "test": (438, 474, 500, 497, 82, 709),
}
CLASS_COUNT_STD: Final[Mapping[str, float]] = {"random": 57.6, "topn": 47.6, "coreset": 65.3, "cluster": 41.4}
# macro-F1 in percent on the 2,700 test rows, in the order of `MODELS`
BOOTSTRAP_F1: Final = (40.7, 36.7, 61.6, 19.0, 57.1)  # Table 4
LABELS_F1: Final[Mapping[str, tuple[float, ...]]] = {  # Table 5: + 100 labels
    "random": (43.2, 52.7, 64.2, 59.3, 40.8),
    "topn": (38.9, 55.8, 64.2, 57.2, 52.0),
    "coreset": (38.7, 46.9, 63.7, 61.8, 41.3),
    "cluster": (49.7, 55.8, 64.3, 59.4, 50.0),
}
VARIATIONS_F1: Final[Mapping[str, tuple[float, ...]]] = {  # Table 6: + 500 variations
    "random": (63.7, 66.0, 67.2, 57.5, 65.4),
    "topn": (63.2, 65.4, 68.2, 63.9, 66.3),
    "coreset": (66.1, 66.5, 66.3, 63.4, 65.8),
    "cluster": (66.3, 65.6, 71.6, 65.1, 70.0),
}
ERROR_STD: Final[Mapping[str, float]] = {"random": 33.75, "topn": 33.22, "coreset": 33.39, "cluster": 29.71}  # Table 8


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One text with its label."""

    text: str
    category: Category


@dataclass(frozen=True, slots=True)
class LabelledSeed:
    """A message that people labelled, its label repaired, and the variations published for it.

    Args:
        row: The message with its block's label.
        published: The label that its own row has in the file.
        variations: Their texts; their label is that of `row`.
    """

    row: PaperRow
    published: Category
    variations: tuple[str, ...]


def read_rows(file: Path, *, column: int) -> list[tuple[str, PaperRow]]:
    """Return `(id, row)` of a file whose fields are never quoted, only separated by tabs; the text is in `column`.

    Raises:
        BadConfiguration: The file is missing, has other columns, or a line that does not fit them.
    """
    try:
        lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError):
        raise BadConfiguration(f"{file} cannot be read as UTF-8 text: {_REMEDY}.") from None
    header = lines[0].rstrip("\r").split("\t")
    if header[:column] + header[column + 1 :] != _COLUMNS:
        raise BadConfiguration(
            f"{file} has not the columns {', '.join(_COLUMNS)} and, as number {column + 1}, the text: {_REMEDY}."
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != len(header):
            raise BadConfiguration(f"{file}:{number} has {len(fields)} fields instead of {len(header)}: {_REMEDY}.")
        name = "not-harmful" if fields[-1] == "discard" else fields[-1]
        try:
            category = Category(name)
        except ValueError:
            raise BadConfiguration(
                f"{file}:{number} has an unknown category in its last field: it must be discard, or one of "
                f"{', '.join(Category)}."
            ) from None
        rows.append((fields[0], PaperRow(normalise(fields[column]), category)))
    return rows


def read_labelled(folder: Path, name: str) -> list[PaperRow]:
    """Return the rows of `bootstrap_labeled`, `dev_labeled` or `test_half` that have a text.

    Raises:
        BadConfiguration: The file is missing or bad.
    """
    return [row for _, row in read_rows(folder / f"{name}.tsv", column=2) if row.text]


def read_split(folder: Path, split: str) -> list[LabelledSeed]:
    """Return the 100 messages of a split with their labels and their variations that have a text.

    Raises:
        BadConfiguration: The file is missing or bad, or its blocks do not pair with the messages.
    """
    file = folder / f"{split}-all.tsv"
    rows = read_rows(file, column=1)
    varied, human = rows[:-HUMAN_ROWS], rows[-HUMAN_ROWS:]
    blocks = [(key, [row for _, row in group]) for key, group in groupby(varied, key=lambda pair: pair[0])]
    if [key for key, _ in blocks] != [key for key, _ in human]:
        raise BadConfiguration(
            f"{file} has {len(blocks)} blocks of variations that do not pair with its last {len(human)} rows: {_REMEDY}."
        )
    return [
        LabelledSeed(
            row=PaperRow(row.text, block[0].category),
            published=row.category,
            variations=tuple(b.text for b in block if b.text),
        )
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
