"""The places of marks on the loop page's pictures."""

import pytest

from guard.interval import wilson
from guard.review.overview import by_class
from guard.review.pictures import duration
from guard.taxonomy import CATEGORIES


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "—"), (0.0, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (3725.4, "1 h 2 min"), (183_600, "2 d 3 h")],
)
def test_durations(seconds: float | None, words: str) -> None:
    """A time is said in its two largest units."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("right", "messages", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 1, 0.2065, 1.0)],
)
def test_intervals(right: int, messages: int, low: float, high: float) -> None:
    """Wilson's intervals are those of the literature (81 of 263: Newcombe 1998, table I), also at no error and at one message."""
    found = wilson(right, messages)
    assert (found.share, found.messages) == (right / messages, messages)
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


def test_what_cannot_be_told() -> None:
    """A category without a message, or never decided rightly, has no rate that could be trusted."""
    first, second, *_ = by_class({"rows.self-harm": 4.0, "recall.self-harm": 0.0, "precision.self-harm": 0.0})
    assert first.category is CATEGORIES[0]
    assert first.recall is not None
    assert (first.recall.share, first.recall.low, first.recall.messages) == (0.0, 0.0, 4)
    assert first.recall.high == pytest.approx(0.4899, abs=5e-5)
    assert first.precision is None
    assert (second.recall, second.precision) == (None, None)
