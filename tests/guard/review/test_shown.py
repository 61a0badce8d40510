"""A stranger's text as markup: its characters and nothing else, with what cannot be seen made visible."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.review.shown import shown
from tests.hostile import HOSTILE


class _Read(HTMLParser):
    """Reads markup back: the text of it, and the elements."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(str(markup))  # as a browser gets it: slices of a Markup would escape themselves again
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data

    def handle_comment(self, data: str) -> None:
        """Note what must not be there."""
        self.elements.append(("comment", {}))

    def handle_decl(self, decl: str) -> None:
        """Note what must not be there."""
        self.elements.append(("declaration", {}))

    def handle_pi(self, data: str) -> None:
        """Note what must not be there."""
        self.elements.append(("instruction", {}))


def _said(markup: str) -> list[str | None]:
    return [attributes["data-code"] for _, attributes in _Read(markup).elements]


def test_there_are_150() -> None:
    """There are as many hostile texts as are spoken of, no two alike."""
    assert len(set(HOSTILE)) == len(HOSTILE) == 150


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile(text: str) -> None:
    """A hostile text reads back as itself, and makes no element but our marks."""
    read = _Read(shown(text))
    assert read.text == text
    assert {tag for tag, _ in read.elements} <= {"span"}
    assert all(attributes["class"] == "unseen" for _, attributes in read.elements)


@given(st.text())
def test_any(text: str) -> None:
    """So does any text, except for what HTML has no way to say."""
    read = _Read(shown(text))
    unsayable = {0: "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
    assert read.text == text.translate(unsayable)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("plain <b>", []),
        ("two\nlines\tand a tab", []),
        ("caf\u00e9 \u05e9\u05dc\u05d5\u05dd \U0001f642", []),
        ("\U0001f469\u200d\U0001f467", []),  # a joiner within an emoji
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", []),  # and within a Persian word
        ("joi\u200dner", ["U+200D"]),
        ("\u202eabc\u202c", ["U+202E", "U+202C"]),
        ("a\u200b\u200b\ufeffb", ["U+200B U+200B U+FEFF"]),
        ("a\x00b", ["U+0000"]),
        ("a\rb", ["U+000D"]),
        ("\u3164", ["U+3164"]),
        ("\U000e0041" * 1000, ["U+E0041 U+E0041 U+E0041 +997"]),
    ],
)  # fmt: skip
def test_unseen(text: str, codes: list[str]) -> None:
    """What cannot be seen, or turns what is around it, is marked with its code; what letters need is not."""
    assert _said(shown(text)) == codes


def test_direction_ends_with_its_mark() -> None:
    """A mark holds its characters in an element of its own, which the style isolates: none turns the text after it."""
    assert shown("\u202eabc") == (
        '<span class="unseen" data-code="U+202E" title="right-to-left override">\u202e</span>abc'
    )


@pytest.mark.slow
def test_linear() -> None:
    """A text that changes between seen and unseen all the time takes no more than its length."""
    began = time.process_time()
    markup = shown("a\u202e" * 16_000)
    assert time.process_time() - began < 5
    assert markup.count("<span") == 16_000
