"""A second reading of a normalised text: what it says to a person who sees through its disguise.

`bundle` brings the words that its model knows; `reading` has both texts judged. A plain text has no second reading.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from guard.confusables import ANY, LEET, letters
from guard.lexicon import LEAST, LONGEST, Lexicon

_SYMBOLS: Final = re.escape("".join(c for c in LEET if not c.isdigit()))
_MARKS: Final = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20df\ufe20-\ufe2f"  # what is stacked
_BEYOND: Final = r"\u0080-\u00a1\u00ab-\u00b1\u00b4-\u00b9\u00bb-\u00bf\u2000-\u206f\u3000-\u303f"  # punctuation
_PART: Final = rf"(?:[A-Za-z0-9{_SYMBOLS}]|[^\x00-\x7f{_BEYOND}])"  # what may stand in a word
_BETWEEN: Final = r"._\-*/|,~+:;=>\u00b7\u2022"  # what sets letters apart, besides blanks
_ONE: Final = rf"[^\s{_BETWEEN}{_MARKS}][{_MARKS}]*"
_ROW: Final = (
    rf"(?<![^\W_])(?<!['\u2019])(?:{_ONE}(?: {_ONE}){{2,}}"
    rf"|{_ONE}(?P<gap> ?[{_BETWEEN}]{{1,2}} ?){_ONE}(?:(?P=gap){_ONE})*(?P<last>(?P=gap))?)"
    rf"(?![{_SYMBOLS}]{{0,2}}[^\W_]|['\u2019{_MARKS}])"
)
_TOKEN: Final = re.compile(rf"(?P<row>{_ROW})|{_PART}+")
# A text without any of these is plain: a digit or symbol at a letter, three single letters, what is not ASCII.
_SUSPECTS: Final = (
    re.compile(rf"[0-9{_SYMBOLS}](?:(?<=[A-Za-z].)(?=[A-Za-z0-9{_SYMBOLS}])|(?<=[A-Za-z][0-9$+])|(?=[A-Za-z]))"),
    re.compile(rf"[ {_BETWEEN}][^\s{_BETWEEN}]([ {_BETWEEN}]{{1,4}})[^\s{_BETWEEN}](?:\1|(?![\w']))"),
    re.compile(r"[^\x00-\x7f\u2010-\u2027\u00a3\u20ac\u00b0]"),
)
_JOINERS: Final = {0x200C: None, 0x200D: None}
_MARK: Final = re.compile(rf"[{_MARKS}]+")
_OUTER: Final = re.compile(rf"([{_SYMBOLS}]*)(.*?)([{_SYMBOLS}]*)", re.DOTALL)
_RUN: Final = re.compile(r"[A-Za-z]+")
_INNER: Final = re.compile(rf"(?<=[A-Za-z])[0-9{_SYMBOLS}](?=[A-Za-z])")
# 4am, 3rd; 50s, 100ml; f16; $50k, US$; H1B, MP3; 24: figures and codes as people write them
_FIGURE: Final = re.compile(r"\d+[^\W\d_]{1,2}|\d{2,}[A-Za-z]+|[A-Za-z]\d{2,}|[$€£¥]\d.*|[A-Z]{1,2}\$|[A-Z\d]{1,3}|\d+")
_NUMBER: Final = 3  # digits that stand for no letters even where others do
_INITIALS: Final = 5  # capitals set apart that may be meant so: U.S.A., N.A.S.A.
_LONG_ROW: Final = 8  # letters; some of a long row's may belong to no word
_ROW_SHARE: Final = 0.7  # of a long row's letters must stand in words
_PASSES: Final = 4  # a text may be disguised twice over; random ones need no more than two
_MANY: Final = 2  # words in disguise, from which a text is taken for disguised all over
_SHARE: Final = 4  # or one word in so many


@dataclass(frozen=True, slots=True)
class _Edit:
    """Characters `start` to `end` of the normalised text are `begin` to `finish` of the reading."""

    start: int
    end: int
    begin: int
    finish: int


@dataclass(frozen=True, slots=True)
class Undisguised:
    """A normalised text without its disguise."""

    text: str
    _passes: tuple[tuple[_Edit, ...], ...]

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the normalised text that was read as this span; a changed word counts as a whole."""
        for edits in reversed(self._passes):
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


@dataclass(frozen=True, slots=True)
class _Token:
    """A word, or letters set apart.

    Args:
        calm: How it reads by itself.
        bold: How it reads in a text that is disguised elsewhere.
        sure: Whether it is disguised beyond doubt.
        foreign: Whether it is a word of another alphabet.
    """

    calm: str
    bold: str
    sure: bool = False
    foreign: bool = False


def undisguise(text: str, lexicon: Lexicon) -> Undisguised | None:
    """Return the second reading of a normalised text; None where it would be the same.

    A word is read where digits, symbols or letters of other alphabets stand for letters of a known word; letters set
    apart are joined where they make known words. Where that holds for enough of them the text is disguised all over, and
    the others are read as well as can be. Idempotent, and linear in the length of the text.

    Args:
        text: Normalised.
        lexicon: The words that the model knows.
    """
    if not any(suspect.search(text) for suspect in _SUSPECTS):
        return None
    passes: list[tuple[_Edit, ...]] = []
    while len(passes) < _PASSES:
        text, edits = _read(text, lexicon)
        if not edits:
            break
        passes.append(edits)
    return Undisguised(text, tuple(passes)) if passes else None


def _read(text: str, lexicon: Lexicon) -> tuple[str, tuple[_Edit, ...]]:
    """Return a text as it reads, and what was edited for that."""
    tokens: list[tuple[re.Match[str], _Token]] = []
    words = 0
    for found in _TOKEN.finditer(text):
        words += not found["row"]
        if not _is_plain(found[0]):
            tokens.append((found, _row(found, lexicon) if found["row"] else _word(found[0], lexicon)))
    rows = [token.sure for found, token in tokens if found["row"]]
    sure = sum(token.sure for found, token in tokens if not found["row"])
    strange = sum(token.foreign and not token.sure for _, token in tokens)
    bold = 2 * strange <= words and (sure >= _MANY or 0 < words <= _SHARE * sure)
    bold_rows = len(rows) > 1 and any(rows)
    kept: list[str] = []
    edits: list[_Edit] = []
    size = done = 0
    for found, token in tokens:
        start, end = found.span()
        read = token.bold if (bold_rows if found["row"] else bold) else token.calm
        if read != found[0]:
            kept += (text[done:start], read)
            begin = size + start - done
            size, done = begin + len(read), end
            edits.append(_Edit(start, end, begin, size))
    return "".join((*kept, text[done:])), tuple(edits)


def _word(written: str, lexicon: Lexicon) -> _Token:
    """Read a word, with the symbols around it where they make it one: `+ired`, `player$`, but `wow!!`."""
    bare = _MARK.sub("", written) or written
    if len(bare) > LONGEST:  # no word is longer
        return _Token(bare, bare)
    visible = bare.translate(_JOINERS)
    before, core, after = _OUTER.fullmatch(visible).groups()  # type: ignore[union-attr] # it matches anything
    foreign = visible.isalpha() and not any(c.isascii() for c in visible)
    for left, right in ((before, after), ("", after), (before, ""), ("", "")):
        shape = left + core + right
        read = None if _is_plain(shape) else _known(shape, lexicon)
        if read is not None:
            whole = before.removesuffix(left) + read + after.removeprefix(right)
            known = _is_plain(core) and (len(core) < LEAST or lexicon.knows(core))
            sure = len(shape) >= LEAST and any(map(_is_disguise, shape)) and not (known or _FIGURE.fullmatch(shape))
            return _Token(whole if sure and not foreign else bare, whole, sure, foreign)
    likeliest = _likeliest(visible)
    aliens = sum(c.isalpha() and _is_disguise(c) for c in visible)
    sure = aliens > 1 and len(visible) >= LEAST and any(c.isascii() and c.isalpha() for c in visible)
    return _Token(likeliest if sure else bare, bare if likeliest == visible else likeliest, sure, foreign)


def _row(found: re.Match[str], lexicon: Lexicon) -> _Token:
    """Join letters set apart; where only blanks do so, the words have to be found."""
    gap, written = found["gap"], found[0]
    bare = _MARK.sub("", written)
    joined = "".join(
        _likeliest(c) for c in (bare.removesuffix(found["last"] or "").split(gap) if gap else bare.split())
    )
    joined = _INNER.sub(lambda found: (letters(found[0]) or found[0])[0], joined)
    size = sum(map(len, _RUN.findall(joined)))
    if size < LEAST or (joined.isupper() and size <= _INITIALS):
        return _Token(written, joined if gap else written)
    parts, known = [], 0.0
    for run in _RUN.findall(joined):
        words, share = ([run], 1.0) if gap and lexicon.knows(run) else lexicon.split(run)
        parts.append(" ".join(words))
        known += share * len(run)
    split = iter(parts)
    sure = known >= (_ROW_SHARE if size >= _LONG_ROW else 1) * size
    read = _RUN.sub(lambda _: next(split), joined)
    return _Token(read if sure else written, joined if gap else read, sure)  # words apart need no finding


def _known(shape: str, lexicon: Lexicon) -> str | None:
    """Return the commonest known word that this may stand for; None without one."""
    options = [letters(c) for c in shape]
    wild = options.count(ANY)
    if not shape or not all(options) or 2 * wild > len(shape) or "*" in shape[0] + shape[-1] or _is_number(shape):
        return None
    return lexicon.read(options)


def _likeliest(word: str) -> str:
    """Return a word with the letter that each character most likely stands for, unless most of it are digits."""
    options = [letters(c) for c in word]
    if 2 * sum(c.isalpha() for c in word) < len(word) or _FIGURE.fullmatch(word):
        return word
    return "".join(c if not option or option == ANY else option[0] for c, option in zip(word, options, strict=True))


def _is_plain(word: str) -> bool:
    return word.isascii() and word.isalpha()


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) >= _NUMBER


def _is_disguise(character: str) -> bool:
    """Return whether a character is no letter of a word in a language that is written in the Latin alphabet."""
    return not character.isalpha() or (character >= "\u0250" and unicodedata.normalize("NFD", character)[0] >= "\u0250")
