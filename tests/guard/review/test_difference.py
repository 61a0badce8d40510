"""What differs between two texts: marked word by word, nothing lost, nothing made of it, and never slow."""

import random
import time
from html.parser import HTMLParser

import pytest

from guard.review.difference import MAX_WORDS, marked
from tests.hostile import HOSTILE


class _Read(HTMLParser):
    """What a parser makes of markup: its text, and its elements."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.elements = "", []  # type: ignore[var-annotated]
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs).get("class")))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def test_marks() -> None:
    """What only the first has is deleted, what only the second has inserted, with the blanks between such words."""
    before, after, told = marked("can he  keep my deposit now", "can he invest the  deposit now\n")
    assert before == "can he  <del>keep my</del> deposit now"
    assert after == "can he <ins>invest the</ins>  deposit now\n"
    assert told


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a b c d", "a b c d e", ("a b c d", "a b c d <ins>e</ins>")),
        (" a b c", " x a b c ", (" a b c", " <ins>x</ins> a b c ")),
        ("a b c", "a c", ("a <del>b</del> c", "a c")),
        ("a b a b", "b a b", ("<del>a</del> b a b", "b a b")),
    ],
)
def test_ends(before: str, after: str, expected: tuple[str, str]) -> None:
    """Words at either end are marked alone, without the blanks around them."""
    assert marked(before, after) == (*expected, True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one two three four", "quite another text here"),
        ("", ""),
        ("", "one"),
        ("same words", "same  words"),
        (" ", "\n"),
    ],
)
def test_nothing_to_mark(before: str, after: str) -> None:
    """Texts that share little, or that differ in blanks alone, are shown as they are."""
    assert marked(before, after) == (before, after, False)


def test_longest() -> None:
    """No more words are marked than must be, as counting by rows and columns finds."""
    draw = random.Random(7)
    for _ in range(200):
        a, b = (draw.choices("abcd", k=draw.randint(1, 12)) for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, one in enumerate(a):
            for j, other in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
        longest = table[-1][-1]
        before, after, told = marked(" ".join(a), " ".join(b))
        if not told:
            assert longest < 0.3 * max(len(a), len(b)) or a == b
            continue
        kept = [_outside(str(markup), tag) for markup, tag in ((before, "del"), (after, "ins"))]
        assert kept[0] == kept[1]
        assert len(kept[0]) == longest


def _outside(markup: str, tag: str) -> list[str]:
    words, inside = [], False
    for piece in markup.replace("<", " <").replace(">", "> ").split():
        if piece.startswith("<"):
            inside = piece == f"<{tag}>"
        elif not inside:
            words.append(piece)
    return words


@pytest.mark.parametrize("number", range(0, len(HOSTILE), 3))
def test_hostile(number: int) -> None:
    """Of hostile texts a parser reads the same characters as went in, and no element but our marks."""
    texts = [f"the same five words here {HOSTILE[n - 1]} and here" for n in (number, number + 1)]
    markups = marked(*texts)[:2]
    for text, markup in zip(texts, markups, strict=True):
        read = _Read(str(markup))
        lossless = text.translate({0: "\ufffd"})
        assert read.text == lossless
        assert set(read.elements) <= {("del", None), ("ins", None), ("span", "unseen")}


def test_long_texts() -> None:
    """Texts of a message's greatest size take no longer than a person notices, whatever they repeat."""
    began = time.process_time()
    edited = marked("word " * 13_000 + "end", "word " * 13_000 + "another end")
    assert edited[2]
    assert edited[1].count("<ins>") == 1
    assert not marked("a b " * 16_000, "b c " * 16_000)[2]
    half = MAX_WORDS // 2 - 1
    assert marked("x" + " a b" * half + " y", "z" + " b b a" * (half // 2) + " w")[2]
    assert time.process_time() - began < 2
