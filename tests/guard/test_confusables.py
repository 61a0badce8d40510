"""Look-alikes: each character beyond ASCII stands for Latin letters, for any, or for itself."""

import unicodedata

import pytest

from guard.confusables import ANY, is_latin, letters


@pytest.mark.parametrize(
    ("character", "first"),
    [
        ("a", "a"), ("Q", "Q"), ("0", "o"), ("$", "s"), ("а", "a"), ("О", "O"), ("ο", "o"), ("Ꭺ", "A"), ("ᗷ", "B"),
        ("é", "e"), ("Ñ", "N"), ("ø", "o"), ("đ", "d"), ("ƒ", "f"), ("ı", "i"), ("ᴋ", "k"), ("ʞ", "k"), ("ɡ", "g"),
        ("🅰", "A"), ("🇰", "k"), ("℮", "e"), ("қ", "k"), ("ѐ", "e"), ("ά", "a"), ("ա", "w"), ("Ꮎ", "O"), ("ꮃ", "w"),
        ("ꓒ", "d"), ("᙭", "X"), ("ⲅ", "r"), ("০", "o"), ("๑", "i"), ("ς", "s"), ("ƽ", "s"), ("𐐬", "o"), ("×", "X"),
    ],
)  # fmt: skip
def test_letter(character: str, first: str) -> None:
    """The likeliest letter comes first, in the case of the character."""
    assert letters(character)[0] == first


@pytest.mark.parametrize("character", ["2", "-", "日", "ا", "א", "ก"])
def test_none(character: str) -> None:
    """What nobody takes for a Latin letter stands for none."""
    assert not letters(character)


def test_any() -> None:
    """A symbol of which nothing is known may be any letter, and so may a star."""
    assert letters("☂") == letters("❤") == letters("*") == letters("ᚦ") == ANY


def test_order() -> None:
    """A character that passes for several letters stands for each of them, once."""
    assert letters("ι") == "il"
    assert letters("μ") == "um"
    assert all(len(set(found.lower())) == len(found) for code in range(0x20000) if (found := letters(chr(code))) != ANY)


def test_latin() -> None:
    """Small capitals and phonetic letters are Latin, look-alikes of other alphabets and symbols are not."""
    assert all(map(is_latin, "aZéøᴋɐʞ"))
    assert not any(map(is_latin, "аοաᎪ1🇰❤"))


def test_all() -> None:
    """Every character of Unicode has Latin letters or none, without an error."""
    assert all(letter in ANY or letter.lower() in ANY for code in range(0x20000) for letter in letters(chr(code)))


def test_normal() -> None:
    """NFKC comes first, so no table has to hold what it undoes."""
    assert unicodedata.normalize("NFKC", "ｋ𝐢ⓛ𝕝") == "kill"
