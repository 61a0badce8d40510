"""Normalisation, the same for serving and for training: what the tokenizer sees is what comes out of here."""

import unicodedata
from typing import Final

_JOINERS: Final = "\u200c\u200d"  # they shape words in some scripts and join emoji: kept between visible characters
_KEPT_CONTROLS: Final = "\n\t"


def normalise(text: str) -> str:
    """Return the text in NFKC, without invisible characters, runs of blanks as one; idempotent, linear in its length.

    Lone surrogates and control characters go; a text of nothing visible becomes the empty string.
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    visible = "".join(c for c in unicodedata.normalize("NFKC", text) if not _invisible(c))
    return " ".join(unicodedata.normalize("NFKC", visible).split()).strip(_JOINERS + " ")


def _invisible(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cf":
        return character not in _JOINERS
    return category in {"Cs", "Cc", "Co", "Cn"} and character not in _KEPT_CONTROLS
