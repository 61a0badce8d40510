"""Characters that pass for Latin letters: what a person reads in each, for `disguise`.

NFKC has undone full-width, circled, mathematical and superscript letters before; most others follow from their Unicode
names and decompositions, and a table holds what only the eye can tell (the letters that UTS #39 is about).
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

ANY: Final = "abcdefghijklmnopqrstuvwxyz"
# Alphabets of which a letter may stand for any Latin one. Other scripts are left alone: many set no blanks between words.
_ALPHABETS: Final = (
    "LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "COPTIC", "CHEROKEE", "LISU", "CANADIAN", "GEORGIAN", "GLAGOLITIC", "DESERET",
    "TIFINAGH", "RUNIC", "OGHAM", "OLD", "GOTHIC", "CARIAN", "LYCIAN", "LYDIAN", "ELBASAN", "CAUCASIAN", "SHAVIAN", "OSAGE",
    "OSMANYA", "VAI", "BAMUM", "MIAO", "WARANG", "AHOM", "VITHKUQI", "PHOENICIAN",
)  # fmt: skip


def _table(*tables: Mapping[str, str]) -> dict[str, str]:
    """Turn `{letter: its look-alikes}` round; a character in several rows may be any of their letters, in their order."""
    found: dict[str, str] = {}
    for rows in tables:
        for letter, row in rows.items():
            for character in row:
                known = found.get(character, "")
                found[character] = known if letter.lower() in known.lower() else known + letter
    return found


# What stands for a letter inside a word, the likeliest letter first.
LEET: Final = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "il", "|": "li", "+": "t", "*": ANY, "€": "e", "£": "l", "¢": "c", "¥": "y", "§": "s",
}  # fmt: skip
# Cyrillic, Greek, Armenian, Coptic, Cherokee, Lisu, Canadian syllabics and others: first what can hardly be told apart,
# then what is read as a Latin letter only by those who want to. The other case of a letter stands for the same.
_ALIKE: Final = _table(
    {
        "a": "а", "c": "сⲥɔ𐐽", "d": "ԁԃ", "e": "еҽ", "f": "ɟ", "g": "ցƃƍ", "h": "һհ", "i": "іɩꙇ", "j": "јϳյɟ",
        "l": "ӏӀⵏןƖǀ", "n": "ոռղ", "o": "оοօⲟ𐐬𑣈𑣗𐓪ჿዐഠဝଠ〇ంಂംංɔ", "p": "рⲣρք", "q": "ԛգզ", "s": "ѕςƽƨ𐑈𑣁", "u": "սʋꞟ𑣘𐓶", "v": "ѵνʋ𑣀𑜆",
        "w": "ԝաѡ𑜊", "x": "хҳ", "y": "уүყɣ𑣜", "b": "ƅƃ", "m": "ɯ",
        "A": "АΑᎪꓮᗩᗅᐱᗄꓯ∀", "B": "ВΒᏴꓐᗷᏰꓭꞴ฿₿", "C": "СᏟꓚⲤᑕϹꓛ⊂", "D": "ᎠꓓᗪᗞꓷᕲƊ", "E": "ЕΕᎬꓰᗴꓱ∃∈∊", "F": "ꓝᖴϜғ₣",
        "G": "ԌᏀꓖᘜᏳꓨ₲", "H": "НΗᎻꓧⲎᕼ", "I": "ІΙꓲⲒᎥ", "J": "ЈᎫꓙᒍᒎͿ", "K": "КΚᏦꓗⲔꓘ₭", "L": "ԼᏞꓡᒪⳐꓶ", "M": "МΜᎷꓟⲘᗰϺᘻ",
        "N": "ΝꓠⲚᑎ₦∩", "O": "ОΟՕꓳⲞᎾᏫᗝᓍᓎⵔⴰ○●◯⊙⊕⊗∅", "P": "РΡᏢꓑⲢᑭ₱₽", "Q": "Ԛ", "R": "ᎡᏒꓣᖇꓤƦ", "S": "ЅՏᏚꓢᔕᏕ₴",
        "T": "ТΤᎢꓔⲦꓕ⊤₮", "U": "Սꓴᑌᑘ∪", "V": "ѴᏙꓦᐯᏤ∨√", "W": "ԜᎳꓪᗯᏔᏇꙍ₩", "X": "ХΧꓫⲬ᙭×", "Y": "УΥҮꓬᎽᎩⲨ", "Z": "ΖᏃꓜᘔⲌ",
    },
    {
        "a": "αɑдДΔΛΔⲀᴧꓥ", "b": "вьъбβЬБᏏᑲᖯ", "c": "ⲋΣς", "d": "δժᏧᑯ∂ðꓒ", "e": "эєёεɛƐЭЄΣΞәəє℮ꓰᘿᕮեⲈ∑", "f": "ф", "g": "ԍ",
        "h": "нђћᏂիһ", "i": "ιı𑣃𐌉", "k": "кκҡ", "l": "лλЛւⲖІΙꓲⲒι𐌉𐌠𐊊", "t": "тτէ", "u": "цυμմᕫ∪",
        "m": "мμտⲙ", "n": "ийпηπИЙПΠŋŊրᘉⲛᴨ", "o": "σθФΘөφ", "p": "φⲢþᴩ", "r": "гяЯΓⲅᴦ", "s": "σʃ", "v": "υվ",
        "w": "шщωШЩΩψᘺⲱɷᴪպ", "x": "жχⲭ᙮ᕁᕽ", "y": "чγΨվ", "z": "зζʒ𑣄", "q": "ᑫ",
    },
)  # fmt: skip
# Letters as they look when the page is turned; what is plain on both sides stands on its head among the others.
TURNED: Final = dict(zip("ɐqɔpǝɟƃɓɥᴉɾʞןɯuodbɹʇnʌʍʎəɒ", "abcdefgghijklmnopqrtuvwyea", strict=True))
# "LATIN SMALL LETTER D WITH HOOK", "LATIN LETTER SMALL CAPITAL D", "NEGATIVE SQUARED LATIN CAPITAL LETTER D"
_NAMED: Final = re.compile(
    r".*LATIN (?:LETTER )?(SMALL|CAPITAL)(?: LETTER| CAPITAL)(?: [A-Z]+)?? ([A-Z])(?: WITH(?:OUT)? .*)?"
    r"|REGIONAL INDICATOR SYMBOL (LETTER) ([A-Z])"
)
_DIGITS: Final = {0: "o", 1: "il"}  # of whatever script: a ring and a stroke in nearly all


@lru_cache(maxsize=4096)
def letters(character: str) -> str:
    """Return the Latin letters that a character may stand for, the likeliest first; none where it stands for itself.

    A symbol, or a letter of an alphabet that resembles the Latin one, may stand for any letter if nothing more is known.
    """
    if character.isascii():
        return character if character.isalpha() else LEET.get(character, "")
    known = _known(character)
    if known:
        return known
    return ANY if not character.isalpha() or unicodedata.name(character, "").startswith(_ALPHABETS) else ""


@lru_cache(maxsize=4096)
def is_latin(character: str) -> bool:
    """Return whether it is a letter of the Latin script, small capitals and phonetic letters included."""
    return character.isalpha() and (character.isascii() or unicodedata.name(character, "").startswith("LATIN"))


def _known(character: str) -> str:
    """Return what a character stands for by the table, its other case, its name, its base letter or its value."""
    name = unicodedata.name(character, "")
    for twin in (character, character.swapcase(), unicodedata.normalize("NFD", character)[0], _stem(name)):
        known = _ALIKE.get(twin) or LEET.get(twin)
        if known:
            return known.lower() if character.islower() else known
        named = _NAMED.fullmatch(unicodedata.name(twin, "") if len(twin) == 1 else "")
        if named:
            letter = named[2] or named[4]
            return letter if character.isupper() else letter.lower()
    return _DIGITS.get(unicodedata.digit(character, -1), "")


def _stem(name: str) -> str:
    """Return the letter without what its name says was added to it: a Cyrillic ka without its descender."""
    stem, addition, _ = name.partition(" WITH ")
    try:
        return unicodedata.lookup(stem) if addition else ""
    except KeyError:
        return ""
