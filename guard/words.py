"""A word, or letters set apart, as a person reads it who sees through its disguise; `disguise` decides on whole texts."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Final

from guard.confusables import ANY, LEET, is_latin, letters
from guard.lexicon import LEAST, LONGEST, Lexicon

SYMBOLS: Final = re.escape("".join(c for c in LEET if not c.isdigit()))
MARKS: Final = r"\u02be\u02bf\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20df\ufe20-\ufe2f"  # stacked
_JOINERS: Final = {0x200C: None, 0x200D: None}
_MARK: Final = re.compile(rf"[{MARKS}]+")
_OUTER: Final = re.compile(rf"([{SYMBOLS}]*)(.*?)([{SYMBOLS}]*)", re.DOTALL)
# 4am, 3rd; 50s, 100ml; f16; $50k, US$; H1B, MP3; 24: figures and codes as people write them
_FIGURE: Final = re.compile(r"\d+[^\W\d_]{1,2}|\d{2,}[A-Za-z]+|[A-Za-z]\d{2,}|[$€£¥]\d.*|[A-Z]{1,2}\$|[A-Z\d]{1,3}|\d+")
_WILD: Final = 3  # one letter of a word in so many may be anything: more make too many words
_NUMBER: Final = 3  # digits that stand for no letters even where others do
_INITIALS: Final = 5  # capitals set apart that may be meant so: U.S.A., N.A.S.A.
_ROW_SHARES: Final = ((16, 0.4), (8, 0.6))  # of the letters of a row as long must stand in words; of a shorter one all
_SPELT_OUT: Final = 6  # letters with the same mark between them need be no known word
_RUN: Final = re.compile(r"[A-Za-z]+")
_PIECE: Final = re.compile(
    rf"\d{{{_NUMBER},}}|(?:[^\W\d_]|\d(?!\d\d)|[{SYMBOLS}]|[^\x00-\x7f\u2010-\u2027])+|.", re.DOTALL
)
_CLOSING: Final = "".join(c for c in LEET if not c.isdigit())  # at the end of a row these are what they look like
_APOSTROPHE: Final = re.compile(r"(.*?)(?:(['\u2019])(.{1,2}))?", re.DOTALL)
_LONG_WORD: Final = 6  # letters of a word that may be made of several
_TAILS: Final = frozenset(("s", "t", "d", "m", "re", "ve", "ll"))  # what an apostrophe parts from a word


@dataclass(frozen=True, slots=True)
class Token:
    """A word, or letters set apart.

    Args:
        calm: How it reads by itself.
        bold: How it reads in a text that is disguised elsewhere.
        sure: Whether it is disguised beyond doubt.
        likely: Whether it may well be, beside others.
        foreign: Whether it may be a word of another alphabet.
    """

    calm: str
    bold: str
    sure: bool = False
    likely: bool = False
    foreign: bool = False


def read_word(written: str, lexicon: Lexicon) -> Token:
    """Read a word, with the symbols around it where they make it one: `+ired`, `player$`, but `wow!!`."""
    stem, apostrophe, tail = _APOSTROPHE.fullmatch(written).groups("")  # type: ignore[union-attr] # it matches anything
    if apostrophe:
        token = Token(stem, stem) if is_plain(stem) else read_word(stem, lexicon)
        ending = apostrophe + (_ending(tail) or tail)
        disguised = ending[1:] != tail
        return replace(
            token, calm=token.calm + apostrophe + tail, bold=token.bold + ending, likely=token.likely or disguised
        )
    bare = _MARK.sub("", written) or written
    if len(bare) > LONGEST:  # no word is longer
        return Token(bare, bare)
    visible = bare.translate(_JOINERS)
    before, core, after = _OUTER.fullmatch(visible).groups()  # type: ignore[union-attr] # it matches anything
    foreign = visible.isalpha() and not any(map(is_latin, visible))
    for left, right in ((before, after), ("", after), (before, ""), ("", "")):
        shape = left + core + right
        read = None if is_plain(shape) else _known(shape, lexicon)
        if read is not None:
            whole = before.removesuffix(left) + read + after.removeprefix(right)
            known = is_plain(core) and (len(core) < LEAST or lexicon.knows(core))
            disguised = any(map(_is_disguise, shape)) if len(shape) >= LEAST else _is_mixed(shape)
            sure = disguised and not (known or _FIGURE.fullmatch(shape))
            likely = not (sure or foreign or shape.isdigit()) and any(map(_is_disguise, shape))
            return Token(whole if sure and not foreign else bare, whole, sure, likely, foreign)
    likeliest = _likeliest(visible, lexicon)
    aliens = sum(c.isalpha() and _is_disguise(c) for c in visible)
    sure = len(visible) >= LEAST and any(map(is_latin, visible)) and (aliens > 1 or _is_mixed(visible))
    likely = (
        not (sure or foreign) and len(visible) >= _LONG_WORD and is_plain(likeliest) and any(map(_is_disguise, core))
    )
    bold = bare if likeliest == visible else likeliest
    return Token(likeliest if sure else bare, bold, sure, likely, foreign)


def read_row(written: str, gap: str | None, breaks: Sequence[int], lexicon: Lexicon) -> Token:
    """Join letters set apart.

    Args:
        written: The row.
        gap: What sets them apart; None for single blanks, where the words have to be found.
        breaks: Places in the row at which a word ends for certain.
        lexicon: The words that there are.
    """
    bare = _MARK.sub("", written)
    parts = (
        bare.removesuffix(gap).split(gap) if gap else [written[a:b] for a, b in pairwise((0, *breaks, len(written)))]
    )
    rows = ["".join(parts)] if gap else [_MARK.sub("", part).replace(" ", "") for part in parts]
    whole = bool(gap or breaks)
    size = sum(c.isalpha() or bool(_letter(c)) for row in rows for c in row)
    joined = "".join(rows)
    if size < LEAST or 2 * size < len(joined):
        return Token(written, read_word(joined, lexicon).bold if gap and joined else written)
    read, known = [], 0
    for row in rows:
        text, letters_known = _read_run(row, lexicon, whole=whole)
        read.append(text)
        known += letters_known
    text = " ".join(read)
    share = next((share for least, share in _ROW_SHARES if size >= least), 1)
    spelt = bool(gap) and len(joined) >= _SPELT_OUT
    likely = spelt or known >= share * size
    sure = likely and not (joined.isupper() and size <= _INITIALS and (not gap or "." in gap))
    return Token(text if sure else written, text, sure, likely)


def _read_run(row: str, lexicon: Lexicon, *, whole: bool) -> tuple[str, int]:
    """Return joined letters as words, and how many of them stand in known ones; a whole row is rather one than several."""
    if whole:
        read = read_word(row, lexicon).bold
        runs = _RUN.findall(read)
        if runs and all(map(lexicon.knows, runs)):
            return read, sum(map(len, runs))
    kept: list[str] = []
    known = 0.0
    for piece in _PIECE.findall(row):
        if not any(map(_letter, piece)):
            kept.append(piece)
            continue
        spelt = piece.rstrip(_CLOSING)
        tail = _tail(spelt) if len(kept) > 1 and kept[-1] in "'\u2019" and kept[-2] not in _TAILS else ""
        words, share = lexicon.split([*map(_options, spelt[len(tail) :])], whole=whole)
        kept.append(
            " ".join((*filter(None, (tail,)), *(_likeliest(word, lexicon) for word in words))) + piece[len(spelt) :]
        )
        known += len(tail) + share * (len(spelt) - len(tail))
    return "".join(kept), round(known)


def _tail(letters_: str) -> str:
    """Return what stands after an apostrophe if it ends a word: the `s` of `he's on`."""
    return next((letters_[:size] for size in (2, 1) if letters_[:size].lower() in _TAILS), "")


def _ending(tail: str) -> str:
    """Return what may end a word after an apostrophe, if this can be read so: the `s` of `he'5`."""
    if tail.isascii() and tail.isalpha():
        return ""
    return next((end for end in map("".join, product(*map(_options, tail))) if end.lower() in _TAILS), "")


def _letter(character: str) -> str:
    """Return the Latin letter that a character is, or that it cannot but be taken for; none for digits and symbols."""
    if character.isascii() or character in LEET:
        return character if character.isalpha() else ""
    found = letters(character)
    return "" if found == ANY else found[:1]


def _options(character: str) -> str:
    """Return what a character of a row may be, the likeliest first: a digit is a digit twice before it is a letter."""
    found = letters(character)
    if not found or found == ANY:
        return character
    return 2 * character + found if character in LEET else found


def _known(shape: str, lexicon: Lexicon) -> str | None:
    """Return the likeliest known word that this may stand for; None without one."""
    options = [letters(c) for c in shape]
    wild = options.count(ANY)
    if (
        not shape
        or not all(options)
        or _WILD * wild > len(shape) + 1
        or "*" in shape[0] + shape[-1]
        or _is_number(shape)
    ):
        return None
    return lexicon.read(options)


def _likeliest(word: str, lexicon: Lexicon) -> str:
    """Return a word with the letter that each character most likely stands for; digits only where they are few."""
    if is_plain(word):
        return word
    spelt = sum(map(bool, map(_letter, word)))
    few = (3 if len(word) >= _LONG_WORD else 2) * spelt >= len(word) and not _FIGURE.fullmatch(word)
    if few and len(word) >= _LONG_WORD:  # of known parts, as many words are
        parts, share = lexicon.split([letters(c) or c for c in word])
        if share == 1 and min(map(len, parts)) >= LEAST:
            return "".join(parts)
    return "".join(_likely(c) if few or not (c.isascii() or c in LEET) else c for c in word)


def _likely(character: str) -> str:
    found = letters(character)
    return character if not found or found == ANY else found[0]


def is_plain(word: str) -> bool:
    """Return whether there is nothing to read in a word."""
    return word.isascii() and word.isalpha()


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) >= _NUMBER


def _is_disguise(character: str) -> bool:
    """Return whether a character is no letter of a word in a European language that is written in the Latin alphabet."""
    return not character.isalpha() or (character >= "\u0180" and unicodedata.normalize("NFD", character)[0] >= "\u0180")


def _is_mixed(word: str) -> bool:
    """Return whether it is of letters that no language mixes; Greek ones stand beside Latin ones in units."""
    aliens = [c for c in word if _is_disguise(c)]
    greek = any(unicodedata.name(c, "").startswith("GREEK") for c in aliens)
    return bool(aliens) and word.isalpha() and not greek and any(map(is_latin, word))
