"""Who is let in: how fast runs go and how many tokens wait decide at once, before any work is done on a request."""

import math
import threading
import time
from typing import Final

from guard.errors import NoRoom

MEMORY: Final = 0.98  # a run's share of the measured pace halves within 34 runs
PUNCTUAL: Final = 0.8  # of its time a request may be expected to take: the pace is an estimate, and late work is lost
SHORT_S: Final = 0.05  # a queue of less work is short
STANDING_S: Final = 1.0  # a queue that has not been short for so long is no burst
STANDING_SHARE: Final = 0.2  # of its time a request may wait in a standing queue


class Pace:
    """How fast runs go, with older runs counting ever less.

    Args:
        threads: How many run at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._tokens = 0.0

    def note(self, seconds: float, tokens: int) -> None:
        """Take note of one run."""
        with self._lock:
            self._seconds = self._seconds * MEMORY + seconds
            self._tokens = self._tokens * MEMORY + tokens

    def seconds(self, tokens: int) -> float:
        """Return how long all threads together take for some tokens; 0 before the first run."""
        return tokens * self._seconds / self._tokens / self._threads if self._tokens else 0.0


class Admission:
    """Refuses what the queue has no room for, and what would wait in it for too long.

    A burst may fill the queue with what can be run within the callers' deadlines. A queue that stands makes everybody
    wait and answers nobody sooner, so it is kept short (CoDel's idea: Nichols and Jacobson, 2012).

    Args:
        threads: Worker threads.
        max_tokens: That may wait.
    """

    def __init__(self, *, threads: int, max_tokens: int) -> None:
        self.pace = Pace(threads)
        self._max_tokens = max_tokens
        self._short_at = time.monotonic()

    def check(self, waiting: int, tokens: int, *, timeout_s: float) -> None:
        """Refuse a request that comes too much; where nothing waits, none does.

        Args:
            waiting: Tokens in the queue.
            tokens: Of the request.
            timeout_s: How long its caller waits.

        Raises:
            NoRoom: With the seconds until the queue has drained at the pace measured last.
        """
        now = time.monotonic()
        ahead_s = self.pace.seconds(waiting)
        if ahead_s < SHORT_S:
            self._short_at = now
        if not waiting:
            return
        if waiting + tokens > self._max_tokens:
            raise NoRoom(
                f"{waiting} tokens wait already, the limit is {self._max_tokens}.",
                retry_after_s=self.drained_s(waiting),
            )
        expected_s = ahead_s + self.pace.seconds(tokens)
        stands = now - self._short_at > STANDING_S
        if expected_s > timeout_s * PUNCTUAL or (stands and ahead_s > timeout_s * STANDING_SHARE):
            raise NoRoom(
                f"{waiting} tokens wait already: a verdict would take about {expected_s * 1000:.0f} ms, "
                f"this request has {timeout_s * 1000:.0f} ms.",
                retry_after_s=self.drained_s(waiting),
            )

    def drained_s(self, waiting: int) -> int:
        """Return the whole seconds, at least one, until so many tokens have gone."""
        return max(1, math.ceil(self.pace.seconds(waiting)))
