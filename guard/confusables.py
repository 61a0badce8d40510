"""Characters that pass for Latin letters: what a person reads in each, for `disguise`.

NFKC has undone full-width, circled, mathematical and superscript letters before; these are the others.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

ANY: Final = "abcdefghijklmnopqrstuvwxyz"
_ALPHABETS: Final = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "COPTIC", "CHEROKEE", "LISU", "CANADIAN", "GEORGIAN")


def _table(rows: Mapping[str, str]) -> dict[str, str]:
    """Turn `{letter: its look-alikes}` round; a character in several rows may be any of their letters."""
    found: dict[str, str] = {}
    for letter, row in rows.items():
        for character in row:
            found[character] = found.get(character, "") + letter
    return found


# What stands for a letter inside a word, the likeliest letter first.
LEET: Final = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "il", "|": "li", "+": "t", "*": ANY, "€": "e", "£": "l", "¢": "c", "¥": "y", "§": "s",
}  # fmt: skip
# Cyrillic, Greek, Armenian, Coptic, Cherokee, Lisu, Canadian syllabics: first what can hardly be told apart, then what
# is read as a Latin letter only by those who want to.
_ALIKE: Final = _table(
    {
        "a": "а", "c": "сⲥς", "d": "ԁ", "e": "е", "g": "ց", "h": "һհ", "i": "іɩ", "j": "јϳյ", "l": "ӏ", "n": "ոռ",
        "o": "оοօⲟ", "p": "рⲣ", "q": "ԛզ", "s": "ѕ", "u": "ս", "v": "ѵν", "w": "ԝ", "x": "х", "y": "уү",
        "A": "АΑᎪꓮᗩ", "B": "ВΒᏴꓐᗷ", "C": "СᏟꓚⲤᑕ", "D": "ᎠꓓᗪƊ", "E": "ЕΕᎬꓰᗴ", "F": "ꓝᖴϜ", "G": "ԌᏀꓖᘜ",
        "H": "НΗᎻꓧⲎᕼ", "I": "ІΙӀꓲⲒ", "J": "ЈᎫꓙᒍ", "K": "КΚᏦꓗⲔ", "L": "ԼᏞꓡᒪ", "M": "МΜᎷꓟⲘᗰ", "N": "ΝꓠⲚᑎ",
        "O": "ОΟՕꓳⲞ", "P": "РΡᏢꓑⲢᑭ", "Q": "Ԛ", "R": "ᎡᏒꓣᖇ", "S": "ЅՏᏚꓢᔕ", "T": "ТΤᎢꓔⲦ", "U": "Սꓴᑌ", "V": "ѴᏙꓦᐯ",
        "W": "ԜᎳꓪᗯ", "X": "ХΧꓫⲬ", "Y": "УΥҮꓬᎽ", "Z": "ΖᏃꓜᘔ",
    }
) | _table(
    {
        "a": "αдɑДΔΛ", "b": "вьъбβЬБ", "d": "δ", "e": "эєёεɛƐЭЄΣΞ", "f": "ф", "h": "нђћ", "i": "ι", "k": "кκ", "l": "лλЛ",
        "m": "м", "n": "ийпηπИЙПΠŋŊ", "o": "σθФΘ", "p": "φ", "r": "гяЯΓ", "t": "тτ", "u": "цυμ", "w": "шщωШΩψ", "x": "жχ",
        "y": "чγΨ", "z": "зζ",
    }
)  # fmt: skip
# "LATIN SMALL LETTER D WITH HOOK", "LATIN LETTER SMALL CAPITAL D", "NEGATIVE SQUARED LATIN CAPITAL LETTER D"
_NAMED: Final = re.compile(r".*LATIN (?:LETTER )?(SMALL|CAPITAL)(?: LETTER| CAPITAL)(?: [A-Z]+)?? ([A-Z])(?: WITH .*)?")


@lru_cache(maxsize=4096)
def letters(character: str) -> str:
    """Return the Latin letters that a character may stand for, the likeliest first; none where it stands for itself.

    A symbol, or a letter of an alphabet that resembles the Latin one, may stand for any letter if nothing more is known.
    """
    if character.isascii():
        return character if character.isalpha() else LEET.get(character, "")
    known = _ALIKE.get(character) or LEET.get(character)
    if known:
        return known
    named = _NAMED.fullmatch(unicodedata.name(character, "")) or _NAMED.fullmatch(
        unicodedata.name(unicodedata.normalize("NFD", character)[0], "")
    )
    if named:
        return named[2] if named[1] == "CAPITAL" and character.isupper() else named[2].lower()
    return ANY if not character.isalpha() or unicodedata.name(character, "").startswith(_ALPHABETS) else ""
