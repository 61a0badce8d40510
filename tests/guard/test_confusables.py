"""Look-alikes: each character beyond ASCII stands for Latin letters, for any, or for itself."""

import unicodedata

import pytest

from guard.confusables import ANY, letters


@pytest.mark.parametrize(
    ("character", "first"),
    [
        ("a", "a"), ("Q", "Q"), ("0", "o"), ("$", "s"), ("а", "a"), ("О", "O"), ("ο", "o"), ("Ꭺ", "A"), ("ᗷ", "B"),
        ("é", "e"), ("Ñ", "N"), ("ø", "o"), ("đ", "d"), ("ƒ", "f"), ("ı", "i"), ("ᴋ", "k"), ("ʞ", "k"), ("ɡ", "g"),
        ("🅰", "A"),
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
    assert letters("℮") == letters("❤") == letters("*") == ANY


def test_all() -> None:
    """Every character of Unicode has Latin letters or none, without an error."""
    assert all(letter in ANY or letter.lower() in ANY for code in range(0x20000) for letter in letters(chr(code)))


def test_normal() -> None:
    """NFKC comes first, so no table has to hold what it undoes."""
    assert unicodedata.normalize("NFKC", "ｋ𝐢ⓛ𝕝") == "kill"
