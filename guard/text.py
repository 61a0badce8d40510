"""Normalisation, the same for serving and for training: what the tokenizer sees is what comes out of here.

`disguise` makes a second reading of what this returns, and `engine` leads spans back to the text that was sent.
"""

import re
import unicodedata
from typing import Final

MAX_MARKS: Final = 30  # combining marks in a row, as in UAX #15's stream-safe format: putting n in order takes n² steps
_JOINERS: Final = (
    "\u200c\u200d"  # they shape words in some scripts and join emoji: kept between characters beyond ASCII
)
_WIDE: Final = re.compile(r"\s[\s\u00ad\u200b-\u200f\u2060\ufeff]*\s|\n")
_ASCII_CONTROLS: Final = {code: None for code in (*range(32), 127) if not chr(code).isspace()}
# letters, marks and symbols without a shape, from Unicode's Default_Ignorable_Code_Point, and the empty Braille cell
_BLANKS: Final = frozenset(
    chr(code)
    for block in (
        (0x034F,),
        range(0x115F, 0x1161),
        range(0x17B4, 0x17B6),
        range(0x180B, 0x1810),
        (0x2800, 0x3164, 0xFFA0),
        range(0xFE00, 0xFE10),
        range(0xE0100, 0xE01F0),
    )
    for code in block
)


def normalise(text: str) -> str:
    """Return the text in NFKC, without invisible characters, runs of blanks as one; idempotent, linear in its length.

    Lone surrogates and control characters go, and all but the first `MAX_MARKS` of a run of combining marks; a text of
    nothing visible becomes the empty string.
    """
    if text.isascii():
        return " ".join(text.translate(_ASCII_CONTROLS).split())
    composed = unicodedata.normalize("NFKC", _visible(text))
    return " ".join(_visible(composed).split()).strip(_JOINERS + " ")  # again: one mark may have become two


def origins(text: str) -> list[int]:
    """Return where in a text each character of its normalised form comes from; linear in its length.

    Returns:
        As many indices into `text` as `normalise(text)` has characters, never falling.
    """
    made: list[str] = []
    places: list[int] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and not _begins(text[end]):
            end += 1
        for character in _visible(unicodedata.normalize("NFKC", _visible(text[start:end]))):
            blank = character.isspace()
            joins = character in _JOINERS
            if made and made[-1] in _JOINERS and character.isascii():
                made.pop(), places.pop()
            if (blank and made and made[-1] == " ") or (joins and made and made[-1].isascii()):
                continue
            made.append(" " if blank else character)
            places.append(start)
        start = end
    first = next((i for i, character in enumerate(made) if character not in _JOINERS + " "), len(made))
    last = next((i for i in range(len(made), first, -1) if made[i - 1] not in _JOINERS + " "), first)
    return places[first:last]


def breaks(text: str) -> frozenset[int]:
    """Return which blanks of a normalised text were more than one as it was sent: they part what is s e t  a p a r t."""
    if not _WIDE.search(text.strip()):
        return frozenset()
    wide = {found.start() for found in _WIDE.finditer(text)}
    sources = zip(normalise(text), origins(text), strict=True)
    return frozenset(i for i, (character, place) in enumerate(sources) if character == " " and place in wide)


def _begins(character: str) -> bool:
    """Return whether no character before this one is composed with it."""
    if character.isascii():
        return character.isspace() or not _invisible(character)
    first = unicodedata.normalize("NFKD", character)[0]
    return not (
        _invisible(character) or unicodedata.category(first).startswith("M") or "\u1160" <= first <= "\u11ff"
    )  # marks, and the later parts of Hangul syllables


def _visible(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in text:
        if _invisible(character):
            continue
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MAX_MARKS:
            continue
        if character.isascii():
            while kept and kept[-1] in _JOINERS:
                kept.pop()
        elif character in _JOINERS and kept and kept[-1].isascii():
            continue
        kept.append(character)
    return "".join(kept)


def _invisible(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cf":
        return character not in _JOINERS
    if category == "Cc":
        return not character.isspace()  # what ends a line or a page parts words
    return category in {"Cs", "Co", "Cn"} or character in _BLANKS
