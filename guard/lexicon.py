"""The words a model knows, taken from its tokenizer: what `disguise` may read out of letters, and how likely each is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

LONGEST: Final = 24  # letters of a word
LEAST: Final = 3  # letters from which a vocabulary's entry counts as a word: shorter ones are mostly pieces
_SHORT: Final = "am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we"
_TRIED: Final = 64  # beginnings of one word followed at once; few words have more than five
_SHORT_COST: Final = 4.0  # nats for each of these: they are common, and their ranks are those of pieces
# Nats for a part that is no word, and for each of its letters: in a row of words, and in what is rather one word. Found on
# the seed corpus: 96 % of the ends of words in a row; 81 % of the unknown words kept whole, 98 % of two words parted.
_UNKNOWN_COSTS: Final = {False: (9.0, 3.5), True: (8.0, 1.5)}
_DOUBT_COST: Final = 2.0  # nats for each option that is likelier than the letter taken
_WILD: Final = 26  # options that say nothing, so that none is the likeliest
_BRANCHES: Final = 8  # beginnings followed at once in a row of letters


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
        self._costs |= dict.fromkeys((*_SHORT.split(), "a", "i"), _SHORT_COST)
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
        """Return the likeliest word that takes one of the options for each place; None without one.

        Args:
            options: Letters, the likeliest first.
        """
        begun = [("", 0.0)]
        for letters in options:
            begun = self._continued(begun, letters, _TRIED)
        found = ((self.cost(made) + doubt, made) for made, doubt in begun if self.knows(made))
        return min(found, default=(0.0, None))[1]

    def split(self, options: Iterable[Sequence[str]], *, whole: bool = False) -> tuple[list[str], float]:
        """Cut a row of letters into the words that cost least: `killmyself` into `kill` and `myself`.

        Letters that belong to no word stay together, as the first of their options. Linear: a word has at most `LONGEST`
        letters.

        Args:
            options: Letters, the likeliest first, for each place of the row.
            whole: Whether it is rather one word than several.

        Returns:
            The parts in their order, and the share of letters that stand in words.
        """
        unknown, letter = _UNKNOWN_COSTS[whole]
        places = [*options]
        size = len(places)
        # of the best cut up to a place, one that ends with a word or closes an unknown part, and one that is inside such
        best = [0.0, *[math.inf] * size]
        last: list[tuple[int, str | None]] = [(0, None)] * (
            size + 1
        )  # where its last part begins, and the word if it is one
        inside = [(math.inf, 0)] * (size + 1)  # the cost, and where the unknown part began
        for start in range(size):
            inside[start + 1] = min(
                (inside[start][0] + letter, inside[start][1]), (best[start] + unknown + letter, start)
            )
            if inside[start + 1][0] < best[start + 1]:
                best[start + 1], last[start + 1] = inside[start + 1][0], (inside[start + 1][1], None)
            begun = [("", 0.0)]
            for end in range(start + 1, min(size, start + LONGEST) + 1):
                begun = self._continued(begun, places[end - 1], _BRANCHES)
                if not begun:
                    break
                for made, doubt in begun:
                    total = best[start] + doubt + self.cost(made)
                    if total < best[end]:
                        best[end], last[end] = total, (start, made)
        parts: list[str] = []
        known = end = size
        while end:
            start, word = last[end]
            if word is None:
                known -= end - start
                word = "".join(letters[0] for letters in places[start:end])
            parts.append(word)
            end = start
        return parts[::-1], known / size if size else 0.0

    def _continued(
        self, begun: Iterable[tuple[str, float]], letters: Sequence[str], most: int
    ) -> list[tuple[str, float]]:
        """Return the beginnings of words that lengthen these by one of the letters, with the cost of the doubt in each."""
        longer = [
            (made, doubt + (_DOUBT_COST * place if len(letters) < _WILD else _DOUBT_COST))
            for start, doubt in begun
            for place, letter in enumerate(letters)
            if (made := start + letter).lower() in self._beginnings
        ]
        return longer[:most]
