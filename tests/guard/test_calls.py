"""Texts by call: what a call brings again is known, within a bound and a while."""

from datetime import timedelta

import pytest

from guard import calls
from guard.calls import MAX_REMEMBERED, REMEMBERED, Calls
from tests.conftest import Clock


def test_a_text_is_first_once_a_call() -> None:
    """A call brings each of its texts for the first time once, and so does another call."""
    seen = Calls(Clock())
    brought = [("a", "x"), ("a", "y"), ("b", "x"), ("a", "x"), ("b", "x"), ("b", "y")]
    assert [seen.first(call, text) for call, text in brought] == [True, True, True, False, False, True]


def test_calls_are_forgotten_after_a_while() -> None:
    """A text is known until its time is over, and being brought again does not prolong that."""
    clock = Clock()
    seen = Calls(clock)
    assert seen.first("a", "x")
    clock.advance(seconds=(REMEMBERED - timedelta(seconds=1)).total_seconds())
    assert not seen.first("a", "x")
    clock.advance(seconds=1)
    assert seen.first("a", "x")
    assert not seen.first("a", "x")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest text is forgotten, and only that."""
    assert MAX_REMEMBERED >= 10_000
    monkeypatch.setattr(calls, "MAX_REMEMBERED", 3)
    seen = Calls(Clock())
    assert all(seen.first("a", text) for text in "wxyz")
    assert [seen.first("a", text) for text in "zyx"] == [False, False, False]
    assert seen.first("a", "w")
    assert not seen.first("a", "z")
