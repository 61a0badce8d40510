"""Ids of answers: each gives back the verdict it was made for, and only with the text and the user it was made for."""

import base64
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.decision import Verdict
from guard.engine import Judged
from guard.errors import NotFound
from guard.receipts import Receipts
from guard.store.keyring import Keyring
from guard.taxonomy import CATEGORIES, Category
from tests.conftest import START, Clock

SCORES: Final = (0.8, 0.1, 0.05, 0.03, 0.01, 0.01)


def _judged(*texts: str, category: Category = Category.SELF_HARM, version: str = "0007") -> Judged:
    verdict = Verdict(category, category is not Category.NOT_HARMFUL, SCORES, 0.4, 0)
    number = len(texts)
    return Judged(version, texts, (verdict,) * number, (1,) * number, 9, ((0, 1),) * number, (False,) * number)


@pytest.fixture
def receipts(keyring: Keyring) -> Receipts:
    """What makes ids, on the morning of `START`."""
    return Receipts(keyring, Clock())


def test_verdict_comes_back(receipts: Receipts) -> None:
    """With its text and user an id gives back version, category, second, and the scores within 0.0001."""
    receipt = receipts.issue("cls", _judged("one", "two"), user="ada", store=True)
    assert receipt.startswith("cls-")
    for index, text in enumerate(("one", "two")):
        answered = receipts.read(receipt, text=text, user="ada", index=index)
        assert (answered.model_version, answered.category, answered.at) == ("0007", Category.SELF_HARM, START)
        assert answered.scores == pytest.approx(SCORES, abs=1e-4)
        assert 0.3 < answered.uncertainty < 0.5


def test_no_two_are_alike(receipts: Receipts) -> None:
    """The same answer in the same second has another id, short enough for a column of a table."""
    made = {receipts.issue("cls", _judged("one"), user=None, store=True) for _ in range(100)}
    assert len(made) == 100
    assert max(map(len, made)) <= 55
    assert len({receipts.read(r, text="one", user=None, index=0).key for r in made}) == 100


def test_other_text_user_or_place(receipts: Receipts) -> None:
    """An id proves nothing about another text, another user, no user, or another place in the request."""
    receipt = receipts.issue("cls", _judged("one", "two"), user="ada", store=True)
    for text, user, index in (
        ("One", "ada", 0), ("one", "ben", 0), ("one", None, 0), ("one", "", 0), ("one", "ada", 1), ("two", "ada", 0),
        ("one", "ada", 2), ("one", "ada", 10**30),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            receipts.read(receipt, text=text, user=user, index=index)


def test_nobody_and_somebody_without_a_name(receipts: Receipts) -> None:
    """That no user was named is not the same as a user whose name looks empty."""
    receipt = receipts.issue("cls", _judged("one"), user=None, store=True)
    assert receipts.read(receipt, text="one", user=None, index=0)
    with pytest.raises(NotFound):
        receipts.read(receipt, text="one", user="", index=0)


def test_other_keyring(receipts: Receipts) -> None:
    """Another guard's id is nobody's here, and a rotation leaves ids as they are."""
    receipt = receipts.issue("cls", _judged("one"), user=None, store=True)
    rotated = Receipts(Keyring(b"i" * 32, {"k1": b"a" * 32}).rotated().retired(), Clock())
    assert rotated.read(receipt, text="one", user=None, index=0)
    with pytest.raises(NotFound):
        Receipts(Keyring(b"j" * 32, {"k1": b"a" * 32}), Clock()).read(receipt, text="one", user=None, index=0)


def test_any_change_of_a_byte(receipts: Receipts) -> None:
    """Not one bit of what an id says can be changed."""
    receipt = receipts.issue("cls", _judged("one"), user=None, store=True)
    body = receipt.partition("-")[2]
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    for place in range(len(raw)):
        bent = bytes(byte ^ (1 if n == place else 0) for n, byte in enumerate(raw))
        with pytest.raises(NotFound):
            receipts.read("cls-" + base64.urlsafe_b64encode(bent).decode().rstrip("="), text="one", user=None, index=0)


def test_not_to_be_stored(receipts: Receipts) -> None:
    """The id of an answer whose text must not be kept proves nothing."""
    receipt = receipts.issue("cls", _judged("one"), user=None, store=False)
    assert receipt.startswith("cls-")
    with pytest.raises(NotFound):
        receipts.read(receipt, text="one", user=None, index=0)


@given(st.text(max_size=80), st.integers(min_value=0, max_value=2**70))
def test_whatever_is_read(receipt: str, index: int) -> None:
    """Any string is no id, and nothing worse."""
    receipts = Receipts(Keyring(b"i" * 32, {"k1": b"a" * 32}), Clock())
    for value in (receipt, f"cls-{receipt}"):
        with pytest.raises(NotFound):
            receipts.read(value, text="one", user=None, index=index)


@given(st.lists(st.one_of(st.none(), st.text(max_size=3), st.binary(max_size=3)), max_size=4))
def test_tags_of_parts(parts: list[str | bytes | None]) -> None:
    """Parts that are cut at other places, or absent instead of empty, have another tag."""
    ring = Keyring(b"i" * 32, {"k1": b"a" * 32})
    assert ring.tag("answer", *parts) != ring.tag("answer", *parts, None)
    assert ring.tag("answer", *parts, None) != ring.tag("answer", *parts, "")
    assert ring.tag("answer", *parts, "ab", "c") != ring.tag("answer", *parts, "a", "bc")
    assert ring.tag("answer", *parts) != ring.tag("report", *parts)


def test_every_category(receipts: Receipts) -> None:
    """Each of the six is told."""
    for category in CATEGORIES:
        receipt = receipts.issue("cls", _judged("one", category=category), user=None, store=True)
        assert receipts.read(receipt, text="one", user=None, index=0).category is category
