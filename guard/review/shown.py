"""A stranger's text into markup: each character as itself, none of them as markup, and the invisible ones made visible.

The text of the element equals what went in. Names of what cannot be seen stand in attributes, which the style shows.
"""

import unicodedata
from itertools import groupby
from typing import Final

from markupsafe import Markup, escape

_NAMED: Final = 3  # of a run of invisible characters; 30,000 in a row are one mark, not as many elements
_JOINERS: Final = "\u200c\u200d"  # they shape words in some scripts and join emoji
_PLAIN: Final = "\n\t"
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANKS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and symbols without a shape
# what HTML cannot say: a NUL is dropped by every parser, and half a surrogate pair is no character
_UNSAYABLE: Final = {0: "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}


def shown(text: str) -> Markup:
    """Return a text as the inside of an element; linear in its length."""
    if text.isascii() and text.isprintable():
        return escape(text)
    kinds = [_unseen(text, place) for place in range(len(text))]
    parts = []
    for unseen, run in groupby(zip(kinds, text, strict=True), key=lambda pair: pair[0]):
        characters = "".join(character for _, character in run)
        parts.append(_mark(characters) if unseen else _escaped(characters))
    return Markup("").join(parts)


def _unseen(text: str, place: int) -> bool:
    character = text[place]
    if character in _JOINERS:
        return place == 0 or text[place - 1].isascii()
    if character in _BLANKS:
        return True
    return character not in _PLAIN and unicodedata.category(character) in _UNSEEN


def _mark(run: str) -> Markup:
    codes = " ".join(f"U+{ord(character):04X}" for character in run[:_NAMED])
    more = f" +{len(run) - _NAMED}" if len(run) > _NAMED else ""
    names = ", ".join(unicodedata.name(character, "a control character").lower() for character in run[:_NAMED])
    return Markup('<span class="unseen" data-code="{}" title="{}">{}</span>').format(
        codes + more, names + more, _escaped(run)
    )


def _escaped(characters: str) -> Markup:
    return Markup(str(escape(characters.translate(_UNSAYABLE))).replace("\r", "&#13;"))  # noqa: S704 - escaped just now
