"""Normalisation, the same for serving and for training: what the tokenizer sees is what comes out of here."""

import unicodedata
from typing import Final

MAX_MARKS: Final = 30  # combining marks in a row, as in UAX #15's stream-safe format: putting n in order takes n² steps
_JOINERS: Final = "\u200c\u200d"  # they shape words in some scripts and join emoji: kept between visible characters
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


def _visible(text: str) -> str:
    kept = []
    marks = 0
    for character in text:
        if _invisible(character):
            continue
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _invisible(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cf":
        return character not in _JOINERS
    if category == "Cc":
        return not character.isspace()  # what ends a line or a page parts words
    return category in {"Cs", "Co", "Cn"} or character in _BLANKS
