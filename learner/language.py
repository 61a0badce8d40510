"""What a text is written in: its alphabets, and its language where function words give it away.

No model and no dependency: a guess is made only when it is clear, since a wrong one would throw good variations away.
"""

import re
import unicodedata
from collections import Counter
from typing import Final

_MINOR_SHARE: Final = 0.3  # letters of other alphabets that a text may hold: names, brands, units
_LEAST_HITS: Final = 2  # function words before a language counts as recognised
_WORD: Final = re.compile(r"[^\W\d_]+")
_FAMILIES: Final = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}
# The most frequent words of each language that are rare in the others; shared ones cancel out in the vote.
_FUNCTION_WORDS: Final = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the and is are was my your with for that this what how should i you have has not it can do of to from if "
        "been when would could there they them their be will just about want need does did am",
        "es": "el los las una unos es está estoy mi por para con que qué como cómo pero muy hay ser tengo tiene puedo "
        "debo si no y sé cuando donde más desde porque también esto esta este del al lo su",
        "fr": "le les une des est suis mon ma mes pour avec que qui quoi dans pas je tu il elle nous vous sur ce cette "
        "mais très ai avez sont peux dois quand où plus depuis parce aussi du au",
        "de": "der die das und ist ich mein meine nicht mit für von auf ein eine einen zu wie wenn sie wir kann soll muss "
        "habe hat sind wird aber auch noch oder bei nach seit weil mir mich",
        "it": "il gli una è sono mio mia per con che cosa come ma molto ho hai ha posso devo se quando dove più da "
        "perché anche questo questa del della nel non mi",
        "pt": "os as uma é está estou meu minha por para com que como mas muito tem tenho posso devo se quando onde mais "
        "desde porque também isso esta este do da no na não eu você",
        "nl": "het een en is ik mijn niet met voor van op te hoe wat als zij wij kan moet heb heeft zijn wordt maar ook "
        "nog bij naar sinds omdat mij dat deze",
        "pl": "jest nie się na do to że jak co czy mam mnie mój moja dla ale bardzo może od przez kiedy gdzie więcej "
        "jestem mogę",
        "tr": "bir ve bu ne için ile ben benim var yok mı mi değil çok nasıl ama gibi daha kadar olarak",  # noqa: RUF001
        "id": "yang dan di ini itu saya aku apa bagaimana untuk dengan tidak ada bisa harus dari ke akan sudah karena",
    }.items()
}


def same_alphabet(text: str, seed: str) -> bool:
    """Return whether a text is written in the alphabets of its seed; a seed without letters allows any."""
    expected = _alphabets(seed)
    if not expected:
        return True
    found = _alphabets(text)
    used = {alphabet for alphabet, letters in expected.items() if letters >= _MINOR_SHARE * expected.total()}
    return sum(found[alphabet] for alphabet in used) > (1 - _MINOR_SHARE) * found.total()


def same_language(text: str, seed: str) -> bool:
    """Return whether a text may be in the language of its seed; a seed whose language is not clear allows any."""
    expected = language(seed)
    if expected is None:
        return True
    hits = _hits(text)
    return max(hits.values()) < _LEAST_HITS or 2 * hits[expected] > max(hits.values())


def language(text: str) -> str | None:
    """Return the code of a text's language; None when its function words do not decide."""
    (first, most), (_, second) = _hits(text).most_common(2)
    return first if most >= _LEAST_HITS and most >= 2 * second else None


def _hits(text: str) -> Counter[str]:
    """Count a text's function words by language."""
    words = _WORD.findall(text.casefold())
    return Counter({code: sum(word in known for word in words) for code, known in _FUNCTION_WORDS.items()})


def _alphabets(text: str) -> Counter[str]:
    """Count letters by alphabet; a character's Unicode name begins with it."""
    names = (unicodedata.name(character, "UNNAMED").split(" ", 1)[0] for character in text if character.isalpha())
    return Counter(_FAMILIES.get(name, name) for name in names)
