"""Bursts are let in up to their deadlines; a queue that stands is kept short."""

import pytest

from guard.admission import STANDING_S, STANDING_SHARE, Admission
from guard.errors import NoRoom


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("guard.admission.time.monotonic", made)
    return made


def _admission(threads: int = 1, max_tokens: int = 100_000) -> Admission:
    """Return one whose runs take a millisecond a token."""
    made = Admission(threads=threads, max_tokens=max_tokens)
    made.pace.note(1.0, 1000)
    return made


def test_pace_follows() -> None:
    """The pace is that of the last runs, by their tokens, over all threads."""
    made = _admission(threads=2)
    for _ in range(1000):
        made.pace.note(1, 100)
    assert made.pace.seconds(1000) == pytest.approx(5, rel=0.01)
    assert made.drained_s(1000) == 5


def test_no_pace_yet() -> None:
    """Before the first run only the room counts."""
    made = Admission(threads=1, max_tokens=100)
    made.check(90, 10, timeout_s=0.001)
    with pytest.raises(NoRoom, match="100"):
        made.check(90, 11, timeout_s=0.001)


def test_burst(clock: Clock) -> None:
    """What comes at once is let in as long as it can be run within four fifths of its time."""
    made = _admission()
    made.check(0, 10_000, timeout_s=1)  # nothing waits: everything is tried
    made.check(3_900, 90, timeout_s=5)
    with pytest.raises(NoRoom, match="5000 ms") as refused:
        made.check(3_900, 101, timeout_s=5)
    assert refused.value.retry_after_s == 4
    clock.now += STANDING_S - 0.1
    made.check(3_900, 90, timeout_s=5)


def test_standing_queue(clock: Clock) -> None:
    """A queue that has not been short for a second takes a fifth of each caller's time, no more."""
    made = _admission()
    made.check(0, 1, timeout_s=5)
    clock.now += STANDING_S + 0.1
    limit = round(5 * STANDING_SHARE * 1000)
    made.check(limit - 1, 2_000, timeout_s=5)
    with pytest.raises(NoRoom):
        made.check(limit + 1, 1, timeout_s=5)
    made.check(limit + 1, 1, timeout_s=10)


def test_short_again(clock: Clock) -> None:
    """Once the queue has been short, the next burst is a burst."""
    made = _admission()
    clock.now += 60
    with pytest.raises(NoRoom):
        made.check(2_000, 1, timeout_s=5)
    made.check(10, 1, timeout_s=5)
    made.check(2_000, 1, timeout_s=5)
