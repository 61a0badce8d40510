"""The words a model knows, taken from its tokenizer: what `disguise` may read out of letters, and how likely each is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

LONGEST: Final = 24  # letters of a word
LEAST: Final = 3  # letters from which a vocabulary's entry counts as a word: shorter ones are mostly pieces
_SHORT: Final = "am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we"
_TRIED: Final = 64  # beginnings of one word followed at once; few words have more than five
_UNKNOWN_COST: Final = 15.0  # nats for a letter outside any word: more than the rarest word of 30,000 costs


class Lexicon:
    """Words with costs. Words are in lower case, of the letters a to z.

    Args:
        words: The commonest first.
    """

    def __init__(self, words: Iterable[str]) -> None:
        ranked = dict.fromkeys(words)
        # Zipf's law: the word of rank r has probability 1 / (r ln N); its cost is the negative logarithm of that
        scale = math.log(len(ranked) + 2)
        self._costs = {word: math.log(rank * scale) for rank, word in enumerate(ranked, start=2)}
        middle = math.log(100 * scale)  # these stand between the commonest words
        self._costs |= dict.fromkeys((*_SHORT.split(), "a", "i"), middle)
        self._beginnings = {word[:end] for word in self._costs for end in range(1, len(word) + 1)}

    @classmethod
    def of(cls, vocabulary: Mapping[str, int]) -> Self:
        """Make one of a tokenizer's vocabulary, in which an early id means a common word.

        WordPiece marks what continues a word (`##ing`), byte-level BPE and SentencePiece what begins one (`Ġkill`).
        """
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        for mark in ("Ġ", "▁"):
            marked = [token[1:] for token in tokens if token.startswith(mark)]
            if marked:
                tokens = marked
                break
        words = (token.lower() for token in tokens if token.isascii() and token.isalpha())
        return cls(word for word in words if LEAST <= len(word) <= LONGEST)

    def cost(self, word: str) -> float:
        """Return the cost of a word in nats, the smaller the commoner; infinity for what is none."""
        return self._costs.get(word.lower(), math.inf)

    def knows(self, word: str) -> bool:
        """Return whether it is a word."""
        return word.lower() in self._costs

    def read(self, options: Iterable[Sequence[str]]) -> str | None:
        """Return the commonest word that can be made by taking one of the options for each place; None without one."""
        begun = [""]
        for letters in options:
            begun = [made for start in begun for letter in letters if self._begins(made := start + letter)][:_TRIED]
        return min((made for made in begun if self.knows(made)), key=self.cost, default=None)

    def split(self, letters: str) -> tuple[list[str], float]:
        """Cut a row of letters into the words that cost least: `killmyself` into `kill` and `myself`.

        Letters that belong to no word stay together. Linear: a word has at most `LONGEST` letters.

        Returns:
            The parts in their order, and the share of letters that stand in words.
        """
        lower = letters.lower()
        size = len(lower)
        best = [0.0, *[math.inf] * size]
        step = [0] * (size + 1)  # letters of the last word of the best cut so far; 0 for a letter outside any
        for start in range(size):
            if best[start] + _UNKNOWN_COST < best[start + 1]:
                best[start + 1], step[start + 1] = best[start] + _UNKNOWN_COST, 0
            for end in range(start + 1, min(size, start + LONGEST) + 1):
                part = lower[start:end]
                if part not in self._beginnings:
                    break
                total = best[start] + self._costs.get(part, math.inf)
                if total < best[end]:
                    best[end], step[end] = total, end - start
        parts: list[str] = []
        known = end = size
        while end:
            width = step[end]
            if width:
                parts.append(letters[end - width : end])
                end -= width
                continue
            start = end - 1
            while start and not step[start]:
                start -= 1
            parts.append(letters[start:end])
            known -= end - start
            end = start
        return parts[::-1], known / size if size else 0.0

    def _begins(self, letters: str) -> bool:
        return letters.lower() in self._beginnings
