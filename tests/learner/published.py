"""A small made-up data folder in the format of the paper's published one."""

from collections.abc import Sequence
from pathlib import Path

from guard.taxonomy import CATEGORIES, Category
from learner.paper import HUMAN_ROWS
from tests.learner.conftest import WORDS

BOOTSTRAP_EACH = 6
TEST_EACH = 10
RELABELLED = {"random": 0, "topn": 12, "coreset": 0, "cluster": 8}  # messages with another label than their block
PROMPT = "Please give a sample input to vary."  # stands in a header, as it does in the published random-all


def texts(frame: str, category: Category, count: int) -> list[str]:
    """Return texts in which a word gives the category away, each with a number of its own."""
    words = WORDS[category]
    return [frame.format(words[i % len(words)], i) for i in range(count)]


def category_of(message: int) -> Category:
    """Return the right label of a split's message."""
    return CATEGORIES[message % len(CATEGORIES)]


def write_published(folder: Path) -> Path:
    """Write the seven files; coreset holds the same messages as random, each message has one variation."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame, each in (
        ("bootstrap_labeled", "once {} number {}", BOOTSTRAP_EACH),
        ("dev_labeled", "dev {} number {}", 2),
        ("test_half", "some {} thing {}", TEST_EACH),
    ):
        rows = [(text, c) for c in CATEGORIES for text in texts(frame, c, each)]
        lines = [
            ("id", "subreddit", "title", "category"),
            *((f"x{i}", "r", t, raw(c)) for i, (t, c) in enumerate(rows)),
        ]
        write_lines(folder / f"{name}.tsv", lines)
    for split, relabelled in RELABELLED.items():
        write_split(folder, split, relabelled)
    return folder


def write_split(folder: Path, split: str, relabelled: int) -> None:
    """Write one split, its first messages with another label than their variations."""
    author = "random" if split == "coreset" else split
    varied, human = [], []
    for i in range(HUMAN_ROWS):
        right = category_of(i)
        word = WORDS[right][i % len(WORDS[right])]
        label = CATEGORIES[(i + 1) % len(CATEGORIES)] if i < relabelled else right
        varied.append((f"m{i}", f"{author} varied {word} {i}", "r", raw(right)))
        human.append((f"m{i}", f'{author} "{word} message {i}', "r", raw(label)))
    write_lines(folder / f"{split}-all.tsv", [("id", PROMPT, "subreddit", "category"), *varied, *human])


def write_lines(file: Path, lines: Sequence[Sequence[str]]) -> None:
    """Write fields parted by tabs, with the line ends of the published files."""
    file.write_text("\r\n".join("\t".join(line) for line in lines), encoding="utf-8", newline="")


def raw(category: Category) -> str:
    """Return a label as the files have it."""
    return "discard" if category is Category.NOT_HARMFUL else category
