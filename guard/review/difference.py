"""Two texts into markup in which the words that differ stand out: `<del>` in the first, `<ins>` in the second.

Each keeps every character, as `shown` shows it. Where little is shared nothing is marked: all of it would be.
"""

import re
from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import Final

from markupsafe import Markup

from guard.review.shown import shown

MAX_WORDS: Final = 2_000  # between what both begin and end with; as many bits as many times over: some 10 ms
_LEAST: Final = 0.3  # of the words of the longer text: below it is another text, not an edit
_PIECE: Final = re.compile(r"\s+|\S+")


def marked(before: str, after: str) -> tuple[Markup, Markup, bool]:
    """Return both texts as the inside of elements, and whether words that differ are marked in them."""
    cut = [_PIECE.findall(text) for text in (before, after)]
    words = [[piece for piece in pieces if not piece.isspace()] for pieces in cut]
    same = _same(*words)
    if same is None or len(same[0]) < _LEAST * max(map(len, words)) or words[0] == words[1]:
        return shown(before), shown(after), False
    first, second = (_markup(*found) for found in zip(cut, same, ("del", "ins"), strict=True))
    return first, second, True


def _same(a: Sequence[str], b: Sequence[str]) -> tuple[set[int], set[int]] | None:
    """Return the places of a longest common subsequence in both; None where it would take too long to find."""
    head = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    left = min(len(a), len(b)) - head
    tail = sum(1 for _ in takewhile(lambda n: a[-n] == b[-n], range(1, left + 1)))
    middle = [words[head : len(words) - tail] for words in (a, b)]
    if max(map(len, middle)) > MAX_WORDS:
        return None
    ends = [{*range(head), *range(len(words) - tail, len(words))} for words in (a, b)]
    pairs = _common(*middle)
    return ends[0] | {head + i for i, _ in pairs}, ends[1] | {head + j for _, j in pairs}


def _common(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places of a longest common subsequence, by bits (Hyyrö 2004): as long for hostile texts as for others.

    Bit j of row i is 0 where b[:j + 1] shares one more word with a[:i + 1] than b[:j] does.
    """
    where: dict[str, int] = {}
    for j, word in enumerate(b):
        where[word] = where.get(word, 0) | 1 << j
    whole = (1 << len(b)) - 1
    row, rows = whole, [whole]
    for word in a:
        both = row & where.get(word, 0)
        row = ((row + both) | (row - both)) & whole
        rows.append(row)
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if rows[i] >> j - 1 & 1:
            j -= 1
            continue
        i -= 1
        if rows[i] >> j - 1 & 1:
            j -= 1
            pairs.append((i, j))
    return pairs


def _markup(pieces: Sequence[str], same: set[int], element: str) -> Markup:
    """Return the pieces of a text with those words in elements that are not the same, and the blanks between such words."""
    number, differs = -1, []
    for piece in pieces:
        blank = piece.isspace()
        number += not blank
        # a blank goes with its neighbours if both differ: `number` is the word before it
        differs.append(number not in same and (not blank or (number >= 0 and number + 1 not in same)))
    if pieces and pieces[-1].isspace():
        differs[-1] = False
    parts = []
    for differing, run in groupby(zip(differs, pieces, strict=True), key=lambda found: found[0]):
        text = shown("".join(piece for _, piece in run))
        parts.append(Markup("<{0}>{1}</{0}>").format(Markup(element), text) if differing else text)  # noqa: S704 - ours
    return Markup("").join(parts)
