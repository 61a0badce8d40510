"""Normalisation: one form for what looks the same, for any string at all, in linear time."""

import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.text import MAX_MARKS, breaks, normalise

SPECIAL = [
    *"\u200b\u200c\u200d\u200e\u202e\u2060\u2066\ufeff\u00ad\u180e",  # format characters, joiners among them
    *"\t\n\r\v\f\x1c\x85\u00a0\u2003\u2028\u3000 ",  # blanks
    *"\x00\x07\x1b\x7f\x9f\ud800\udfff\ue000\uffff\U000e0041",  # controls, surrogates, private and tag characters
    *"\u034f\u115f\u1160\u3164\uffa0\u2800\ufe0f\U000e0100",  # blanks that pass for letters, marks and symbols
    *"e\u0301\u0316\u0344\u0323\u1100\u1161\u11a8\ufb01\ufdfa\u212b\u2126\u0f71\u0f73",  # what composes and decomposes
    *"aZ9\u0430\u05d0\u0627\u4e2d\U0001f468\u2764",
]
CHARACTERS = st.one_of(st.sampled_from(SPECIAL), st.characters(exclude_categories=()))
TEXTS = st.text(CHARACTERS, max_size=60)
INVISIBLE = "\u200b\u202e\u2060\ufeff\u00ad\x00\x1b\ud800\ue000\U000e0041\u034f\u3164\ufe0f\U000e0100"


@given(TEXTS)
def test_idempotent(text: str) -> None:
    """What is normalised stays as it is."""
    once = normalise(text)
    assert normalise(once) == once


@given(
    st.text(
        st.sampled_from("e\u0301\u0316\u0344\u0323\u0327\u0f73\u200b\u200d\u1100\u1161 "), min_size=60, max_size=200
    )
)
def test_idempotent_with_marks(text: str) -> None:
    """What is normalised stays as it is, also where marks were cut off."""
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFKC", once)


@given(TEXTS)
def test_form(text: str) -> None:
    """Whatever the string, the result is NFKC, can be encoded, and holds neither controls nor blanks in a row."""
    result = normalise(text)
    assert unicodedata.is_normalized("NFKC", result)
    assert result.encode().decode() == result
    assert {unicodedata.category(c) for c in result}.isdisjoint({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
    assert "  " not in result
    assert result == result.strip()


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_ascii_agrees(text: str) -> None:
    """The short way for ASCII gives what the long way gives."""
    assert normalise(f"{text} é") == f"{normalise(text)} é".strip()


@given(st.lists(st.sampled_from(["help", "me", "ña", "中", "!"]), min_size=1), st.text(INVISIBLE, max_size=5))
def test_invisible(words: list[str], noise: str) -> None:
    """Invisible characters between the letters change nothing."""
    text = " ".join(words)
    assert normalise(noise.join(text)) == text


@pytest.mark.parametrize("blank", "\t\n\r\v\f\x1c\x85\u00a0\u2003\u2028\u2029\u3000")
def test_blanks(blank: str) -> None:
    """Whatever parts words is one space, and none at the ends."""
    assert normalise(f"{blank}kill{blank}{blank}time{blank}") == "kill time"


@pytest.mark.parametrize(
    "text", ["", " ", "\u200b", "\u200d\u200c", "\u3164 \u3164", "\u2800", "\ufe0f", "\ud800", "\x00\x1b", "\U000e0041"]
)
def test_nothing_visible(text: str) -> None:
    """A text of nothing visible is empty, so that it is refused and not judged."""
    assert normalise(text) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\uff28\uff45\uff4c\uff50", "Help"),
        ("ﬁre", "fire"),
        ("e\u0301", "é"),
        ("\u0d28\u0d4d\u200d\u0d2e", "\u0d28\u0d4d\u200d\u0d2e"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
        ("a\u200d", "a"),
        ("f\x00ire", "fire"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    """Wide and joined forms become plain; joiners that shape a word or an emoji stay, those at an end go."""
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301" * 8000 + "\u0316" * 8000,
        "a" + "\u0301\u0316" * 8000,
        ("\u0301" * MAX_MARKS + "\u200b" + "\u0316" * MAX_MARKS) * 250,
        "\u0344\u0316" * 8000,
    ],
)
def test_marks_in_a_row(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Unicode's own normalisation, quadratic in a run of marks, is never handed a longer one than `MAX_MARKS`."""
    runs = []
    normalize = unicodedata.normalize

    def watch(form: Literal["NFKC"], value: str) -> str:
        run = 0
        for character in value:
            run = run + 1 if unicodedata.combining(character) else 0
            runs.append(run)
        return normalize(form, value)

    monkeypatch.setattr(unicodedata, "normalize", watch)
    result = normalise(text)
    assert max(runs) == MAX_MARKS
    assert len(result) <= MAX_MARKS + 1


@pytest.mark.parametrize("unit", ["a", "é", "\u0301", "\u200b", "中 \n", "\ufdfa", "\ud800"])
def test_work_is_linear(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    """Ten times the text means at most ten times the characters looked at, and a result at most 18 times as long."""
    seen = [0]
    category = unicodedata.category

    def count(character: str) -> str:
        seen[0] += 1
        return category(character)

    monkeypatch.setattr(unicodedata, "category", count)
    looked_at = []
    for size in (1000, 10_000):
        seen[0] = 0
        assert len(normalise(unit * size)) <= 18 * size * len(unit)  # 18: the longest NFKC of one character, U+FDFA
        looked_at.append(seen[0])
    assert looked_at[1] <= 10 * looked_at[0]


def test_breaks() -> None:
    """A blank that was wider as it was sent, or a new line, is known by its place in the normalised text."""
    sent = " \u200ba  b c \u200b d\ne f "
    text = normalise(sent)
    assert text == "a b c d e f"
    assert breaks(sent) == {1, 5, 7}
    assert breaks("a b\tc") == frozenset()


@given(st.text(st.sampled_from("ab \n\u200bé\u0301ﷺ"), max_size=40))
def test_breaks_are_blanks(sent: str) -> None:
    """Every break is a blank of the normalised text."""
    text = normalise(sent)
    assert all(text[place] == " " for place in breaks(sent))
