"""The lexicon: words from any tokenizer's vocabulary, read out of letters and cut out of rows."""

import math

import pytest

from guard.lexicon import LONGEST, Lexicon

LEXICON = Lexicon(["the", "kill", "myself", "hill", "king", "self"])


@pytest.mark.parametrize(
    "tokens",
    [
        ["[CLS]", "the", "##ing", "kill", "1984", "é"],
        ["<s>", "Ġthe", "ing", "Ġkill", "Ġ1984"],
        ["▁the", "ing", "▁kill"],
    ],
)
def test_vocabulary(tokens: list[str]) -> None:
    """Whole words of ASCII letters are taken from WordPiece, BPE and SentencePiece, and pieces of words are not."""
    lexicon = Lexicon.of({token: i for i, token in enumerate(tokens)})
    assert lexicon.knows("the")
    assert lexicon.knows("Kill")
    assert not any(map(lexicon.knows, ("ing", "##ing", "1984", "é", "")))


def test_cost() -> None:
    """A commoner word costs less, and what is no word costs without limit."""
    assert LEXICON.cost("the") < LEXICON.cost("kill") < LEXICON.cost("hill")
    assert math.isinf(LEXICON.cost("thekill"))


def test_read() -> None:
    """Of the words that letters can make it is the likeliest; none where they make none."""
    assert LEXICON.read(["kh", "i", "l", "l"]) == "kill"
    assert LEXICON.read(["hk", "i", "l", "l"]) == "hill"
    assert LEXICON.read(["abcdefghijklmnopqrstuvwxyz", "i", "l", "l"]) == "kill"
    assert LEXICON.read(["h", "ei", "l", "l"]) == "hill"
    assert LEXICON.read(["x", "i", "l", "l"]) is None
    assert LEXICON.read([]) is None


def test_split() -> None:
    """A row of letters is cut into words, what belongs to none stays together, and no letter is lost."""
    assert LEXICON.split("killmyself") == (["kill", "myself"], 1.0)
    assert LEXICON.split("KILLqqqThe") == (["KILL", "qqq", "The"], 0.7)
    assert LEXICON.split("") == ([], 0.0)
    assert "".join(LEXICON.split("xqthekillz" * LONGEST)[0]) == "xqthekillz" * LONGEST


def test_split_options() -> None:
    """A place may hold several letters; those of no word stay what they most likely are."""
    assert LEXICON.split(["k", "11il", "l", "l", "5", "t", "h", "3e"]) == (["kill", "5", "the"], 7 / 8)


def test_split_whole() -> None:
    """What is rather one word is cut only into words that are common for their length."""
    lexicon = Lexicon(
        ["kill", "myself", *(f"filler{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(600)), "bro", "nchi", "tis"]
    )
    assert lexicon.split("killmyself", whole=True)[0] == ["kill", "myself"]
    assert lexicon.split("bronchitis")[0] == ["bro", "nchi", "tis"]
    assert lexicon.split("bronchitis", whole=True) == (["bronchitis"], 0.0)
