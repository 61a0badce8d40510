"""A budget for repeating what failed: earned by successes, so that an overloaded guard is not asked more for failing."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Final

BACKOFF_S: Final = 0.05  # mean wait before the second attempt is half of it; doubled with every further one
MAX_BACKOFF_S: Final = 2.0

Pause = Callable[[float], Awaitable[None]]


class Retries:
    """Decides whether a failed attempt is repeated, and when.

    One object may be given to several clients, which then share the budget. Threads may use it at once.

    Args:
        share: Further attempts earned by each success: 0.1 lets a guard that fails see at most 10 % more requests.
        reserve: The most that can be saved up, and what there is at the start; 0 never repeats anything.
        attempts: Attempts of one call, the first included.
        seed: Of the jitter; without it every process waits differently.
        pause: Waits for some seconds; injected in tests.

    Raises:
        ValueError: A number that cannot be.
    """

    def __init__(
        self,
        *,
        share: float = 0.1,
        reserve: float = 10.0,
        attempts: int = 3,
        seed: int | None = None,
        pause: Pause = asyncio.sleep,
    ) -> None:
        if not (0 <= share <= 1 and reserve >= 0 and attempts >= 1):
            raise ValueError(
                f"share={share} must be in [0, 1], reserve={reserve} not negative, attempts={attempts} ≥ 1."
            )
        self._share = share
        self._reserve = reserve
        self._attempts = attempts
        self._random = random.Random(seed)  # noqa: S311 - it spreads load, it keeps no secret
        self._left = reserve
        self._lock = threading.Lock()
        self.pause = pause

    @property
    def left(self) -> float:
        """Further attempts that may be made now."""
        return self._left

    def earn(self) -> None:
        """Count a success."""
        with self._lock:
            self._left = min(round(self._left + self._share, 9), self._reserve)  # ten tenths are one

    def wait_s(self, attempt: int, *, retry_after_s: float | None, left_s: float) -> float | None:
        """Spend one attempt and return how long to wait before it; None, with nothing spent, when it must not be made.

        The wait is drawn evenly from 0 to a bound that doubles ("full jitter": Brooker, "Exponential Backoff And
        Jitter", 2015), on top of what the guard asked for.

        Args:
            attempt: The attempt that failed, from 1.
            retry_after_s: The least wait that the guard asked for.
            left_s: The time until the deadline; a wait that reaches it is in vain.
        """
        if attempt >= self._attempts:
            return None
        with self._lock:
            bound_s = min(BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S)
            wait_s = (retry_after_s or 0.0) + self._random.uniform(0.0, bound_s)
            if wait_s >= left_s or self._left < 1:
                return None
            self._left -= 1
        return wait_s
