"""What the servers are asked: the project's own texts come in, a corpus of some 32 tokens and one of mixed lengths go out."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np

SETS: Final = Path(__file__).parents[1] / "sets"
SEED_CORPUS: Final = Path(__file__).parents[2] / "learner" / "seed"
SHORT: Final = "short"
MIXED: Final = "mixed"
SIZE: Final = 512
SEED: Final = 20261121
_SHORT_TOKENS: Final = (28, 36)
_MIXED_TOKENS: Final = (8, 256)
# half of the messages are below 32 tokens, one in twenty is above 135: what people type into a chat
_MEDIAN_TOKENS: Final = 32
_SIGMA: Final = 0.87

Count = Callable[[str], int]


def project_texts() -> list[str]:
    """Return the texts of the benchmarks' sets and of the seed corpus, each once, in a fixed order."""
    files = (*sorted(SETS.glob("*.jsonl")), *sorted(SEED_CORPUS.glob("*.jsonl")))
    rows = (json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(" ".join(row["text"].split()) for row in rows))


def corpora(texts: Sequence[str], count: Count, *, size: int = SIZE, seed: int = SEED) -> dict[str, list[str]]:
    """Return the two corpora, in an order that has nothing to do with length or category.

    Args:
        texts: To draw from.
        count: Tokens of a text, special tokens included.
        size: Texts of each corpus.
        seed: Of the draw.
    """
    generator = np.random.default_rng(seed)
    order = [texts[place] for place in generator.permutation(len(texts))]
    low, high = _SHORT_TOKENS
    short = [text for text in order if low <= count(text) <= high]
    lengths = np.exp(generator.normal(np.log(_MEDIAN_TOKENS), _SIGMA, size=size))
    source = cycle(order)
    mixed = [_of_length(source, int(length), count) for length in lengths.clip(*_MIXED_TOKENS)]
    return {SHORT: [text for text, _ in zip(cycle(short), range(size), strict=False)], MIXED: mixed}


def _of_length(source: Iterator[str], tokens: int, count: Count) -> str:
    """Return whole texts one behind the other, cut after the last word that fits, and never nothing."""
    words: list[str] = []
    while count(" ".join(words)) < tokens:
        words += next(source).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= tokens else (low, middle - 1)
    return " ".join(words[:low])
