"""The budget of further attempts, and the words of HTTP that it goes by."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.client import Retries
from guard.client.retries import BACKOFF_S, MAX_BACKOFF_S
from guard.client.wire import retry_after_s

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_reserve_is_the_start_and_the_most() -> None:
    """There is the reserve at the start, and successes never save up more."""
    retries = Retries(share=0.5, reserve=2)
    for _ in range(10):
        retries.earn()
    assert retries.left == 2
    assert [retries.wait_s(1, retry_after_s=None, left_s=60) is None for _ in range(3)] == [False, False, True]


def test_nothing_is_spent_in_vain() -> None:
    """An attempt that will not be made costs nothing: the last one, and one that would come after the deadline."""
    retries = Retries(attempts=2, reserve=5)
    assert retries.wait_s(2, retry_after_s=None, left_s=60) is None
    assert retries.wait_s(1, retry_after_s=7, left_s=6) is None
    assert retries.wait_s(1, retry_after_s=None, left_s=0) is None
    assert retries.left == 5


def test_seed_decides_the_jitter() -> None:
    """The same seed waits the same, another one differently."""

    def waits(seed: int) -> list[float | None]:
        retries = Retries(seed=seed, attempts=9)
        return [retries.wait_s(n, retry_after_s=None, left_s=60) for n in range(1, 6)]

    assert waits(1) == waits(1) != waits(2)


def test_backoff_grows_to_its_bound() -> None:
    """Waits are spread below a bound that doubles up to the greatest, on top of what the guard asked for."""
    retries = Retries(seed=3, reserve=1e6, attempts=99)
    for attempt in (1, 2, 3, 40):
        waits = [retries.wait_s(attempt, retry_after_s=None, left_s=60) or 0.0 for _ in range(400)]
        bound = min(BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S)
        assert 0.9 * bound < max(waits) <= bound
        assert min(waits) < 0.1 * bound
        asked = [retries.wait_s(attempt, retry_after_s=5, left_s=60) or 0.0 for _ in range(50)]
        assert all(5 <= wait <= 5 + bound for wait in asked)


@pytest.mark.parametrize("wrong", [{"share": -0.1}, {"share": 1.1}, {"reserve": -1}, {"attempts": 0}])
def test_numbers_that_cannot_be(wrong: dict[str, Any]) -> None:
    """A budget that makes no sense is refused."""
    with pytest.raises(ValueError, match="attempts"):
        Retries(**wrong)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("Fri, 20 Nov 2026 12:00:09 GMT", 9.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 12:00:09 -0000", 9.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("0 JAN 3000000000 0:0", None),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0.0),
        ("9" * 5_000, float("inf")),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Retry-After is a number of seconds or a date; anything else asks for nothing."""
    assert retry_after_s(value, NOW) == seconds


@settings(max_examples=50)
@given(
    st.text(max_size=60)
    | st.from_regex(r"[a-zA-Z]{3}, [0-9]{1,6} (Jan|Nov) [0-9]{1,12} [0-9]{2}:00:00 [+-]?[0-9]{0,8}", fullmatch=True)
)
def test_retry_after_of_any_kind(value: str) -> None:
    """Whatever a header holds, it is read as nothing or as a time not below zero."""
    seconds = retry_after_s(value, NOW)
    assert seconds is None or seconds >= 0
