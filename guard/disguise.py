"""A second reading of a normalised text: what it says to a person who sees through its disguise.

`bundle` brings the words that its model knows; `reading` has both texts judged. A plain text has no second reading.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from guard.confusables import TURNED
from guard.lexicon import LEAST, Lexicon
from guard.words import MARKS, SYMBOLS, Token, is_plain, read_row, read_word

_BEYOND: Final = r"\u0080-\u00a1\u00ab-\u00b1\u00b4-\u00b9\u00bb-\u00bf\u2000-\u206f\u3000-\u303f"  # punctuation
_PART: Final = rf"(?:[A-Za-z0-9{SYMBOLS}]|[^\x00-\x7f{_BEYOND}])"  # what may stand in a word
_BETWEEN: Final = r"._\-*/|,~+:;=>\u00b7\u2022"  # what sets letters apart, besides blanks
_ONE: Final = rf"[^\s{_BETWEEN}{MARKS}][{MARKS}]*"
_NEXT: Final = rf"[^\s._\-/,~:;=>\u00b7\u2022{MARKS}][{MARKS}]*"  # some set letters apart and stand for letters
_ROW: Final = (
    rf"(?<![^\W_])(?<!['\u2019])(?:(?:{_ONE}|(?<!\S)[+|])(?P<gap> ?[{_BETWEEN}]{{1,2}} ?){_NEXT}(?:(?P=gap){_NEXT})*(?P<last>(?P=gap))?"
    rf"|{_ONE}(?: {_NEXT}){{2,}})"
    rf"(?![{SYMBOLS}]{{0,2}}[^\W_]|['\u2019{MARKS}])"
)
_TOKEN: Final = re.compile(rf"(?P<row>{_ROW})|{_PART}+(?:['\u2019]{_PART}{{1,2}}(?!{_PART}))?")
# A text without any of these is plain: a digit or symbol at a letter, three single letters, what is not ASCII.
_SUSPECTS: Final = (
    re.compile(rf"[0-9{SYMBOLS}](?:(?<=[A-Za-z].)(?=[A-Za-z0-9{SYMBOLS}])|(?<=[A-Za-z][0-9$+])|(?=[A-Za-z]))"),
    re.compile(rf"[ {_BETWEEN}][^\s{_BETWEEN}]([ {_BETWEEN}]{{1,4}})[^\s{_BETWEEN}](?:\1|(?![\w']))"),
    re.compile(r"[^\x00-\x7f\u2010-\u2027\u00a3\u20ac\u00b0]"),
)
_PASSES: Final = 4  # a text may be disguised twice over; random ones need no more than two
_MANY: Final = 2  # words in disguise, from which a text is taken for disguised all over
_SHARE: Final = 4  # or one word in so many
_KNOWN_SHARE: Final = 0.5  # of a reading's letters that stand in known words, from which it is beyond doubt
_WORD: Final = re.compile(r"[^\W\d_]+")
_SENTENCE: Final = 4  # words one after the other that may mean something by themselves
_TURNED_SHARE: Final = 5  # one letter in so many is turned in a text that stands on its head


@dataclass(frozen=True, slots=True)
class _Edit:
    """Characters `start` to `end` of the normalised text are `begin` to `finish` of the reading."""

    start: int
    end: int
    begin: int
    finish: int


@dataclass(frozen=True, slots=True)
class Undisguised:
    """A normalised text without its disguise.

    Args:
        text: The second reading.
        legible: What of the text can be read as it is written, without what was disguised; empty for a few stray words.
        sure: Whether nearly all of the reading is of known words.
    """

    text: str
    legible: str
    sure: bool
    _passes: tuple[tuple[_Edit, ...], ...]

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the normalised text that was read as this span; a changed word counts as a whole."""
        return _back(self._passes, start, end)


def _back(passes: Sequence[Sequence[_Edit]], start: int, end: int) -> tuple[int, int]:
    for edits in reversed(passes):
        start, end = _origin(edits, start)[0], _origin(edits, max(start, end - 1))[1]
    return start, end


def _origin(edits: Sequence[_Edit], position: int) -> tuple[int, int]:
    index = bisect_right(edits, position, key=lambda edit: edit.begin) - 1
    if index < 0:
        return position, position + 1
    edit = edits[index]
    if position < edit.finish:
        return edit.start, edit.end
    moved = position - edit.finish + edit.end
    return moved, moved + 1


def undisguise(text: str, lexicon: Lexicon, breaks: Callable[[], Collection[int]] = frozenset) -> Undisguised | None:
    """Return the second reading of a normalised text; None where it would be the same.

    A word is read where digits, symbols or letters of other alphabets stand for letters of a known word; letters set
    apart are joined where they make known words. Where that holds for enough of them the text is disguised all over, and
    the others are read as well as can be. A text whose letters stand on their head is turned first. Idempotent, and
    linear in the length of the text.

    Args:
        text: Normalised.
        lexicon: The words that the model knows.
        breaks: Returns the blanks of the text that were wider as it was sent: they end a word among letters set apart.
    """
    if not any(suspect.search(text) for suspect in _SUSPECTS):
        return None
    passes: list[tuple[_Edit, ...]] = []
    read = _upright(text, lexicon)
    if read is not None:
        passes.append((_Edit(0, len(text), 0, len(read)),))
    read = read or text
    while len(passes) < _PASSES:
        read, edits = _read(read, lexicon, frozenset if passes else breaks)
        if not edits:
            break
        passes.append(edits)
    if not passes:
        return None
    return Undisguised(read, _legible(text, passes), _share(read, lexicon) >= _KNOWN_SHARE, tuple(passes))


def _upright(text: str, lexicon: Lexicon) -> str | None:
    """Return a text the right way up where it stands on its head; None where it does not."""
    turned = sum(c in TURNED and not c.isascii() for c in text)
    if turned * _TURNED_SHARE < sum(map(str.isalpha, text)):
        return None
    upright = "".join(TURNED.get(c, c) for c in text)
    readings = [(_share(way, lexicon), way) for way in (upright, upright[::-1])]  # who turns a page reads it backwards
    share, way = max(readings, key=lambda reading: reading[0])
    return way if share >= _KNOWN_SHARE else None


def _share(text: str, lexicon: Lexicon) -> float:
    """Return the share of a text's letters that stand in known words."""
    words = _WORD.findall(text)
    return sum(len(word) for word in words if lexicon.knows(word)) / max(1, sum(map(len, words)))


def _legible(text: str, passes: Sequence[tuple[_Edit, ...]]) -> str:
    """Return what of a text was not read otherwise: where `_SENTENCE` words of it stand in a row, or else all of it."""
    kept: list[str] = []
    done = 0
    spans = [_back(passes[:number], edit.start, edit.end) for number, edits in enumerate(passes) for edit in edits]
    for start, end in (*sorted(spans), (len(text), len(text))):
        kept.append(text[done:start].strip())
        done = max(done, end)
    words = [len(_WORD.findall(part)) for part in kept]
    least = _SENTENCE if max(words) >= _SENTENCE else 1
    return " ".join(part for part, count in zip(kept, words, strict=True) if count >= least)


def _read(text: str, lexicon: Lexicon, breaks: Callable[[], Collection[int]]) -> tuple[str, tuple[_Edit, ...]]:
    """Return a text as it reads, and what was edited for that."""
    tokens: list[tuple[re.Match[str], Token]] = []
    words = 0
    wide: Collection[int] | None = None
    for found in _TOKEN.finditer(text):
        words += not found["row"]
        if found["row"]:
            start, end = found.span()
            wide = breaks() if wide is None else wide
            inside = [place - start for place in range(start, end) if place in wide] if wide else []
            tokens.append((found, read_row(found[0], found["gap"], inside, lexicon)))
        elif not is_plain(found[0]):
            tokens.append((found, read_word(found[0], lexicon)))
    rows = [token for found, token in tokens if found["row"]]
    strange = [token.sure for _, token in tokens if token.foreign and len(token.calm) >= LEAST]
    tongue = 2 * sum(strange) < len(strange) and words < _SHARE * strange.count(
        False
    )  # another language, not a disguise
    read_as_words = [token for found, token in tokens if not found["row"] and not (tongue and token.foreign)]
    sure = sum(token.sure for token in read_as_words)
    many = 2 * sure + sum(token.likely for token in read_as_words) >= 2 * _MANY
    bold = many or 0 < words <= _SHARE * sure
    bold_rows = many or (len(rows) > 1 and (any(row.sure for row in rows) or sum(row.likely for row in rows) > _MANY))
    kept: list[str] = []
    edits: list[_Edit] = []
    size = done = 0
    for found, token in tokens:
        start, end = found.span()
        boldly = bold_rows if found["row"] else bold and not (tongue and token.foreign)
        read = token.bold if boldly else token.calm
        if read != found[0]:
            kept += (text[done:start], read)
            begin = size + start - done
            size, done = begin + len(read), end
            edits.append(_Edit(start, end, begin, size))
    return "".join((*kept, text[done:])), tuple(edits)
