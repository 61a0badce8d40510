"""Which texts a call has brought already: a retried call offers none of them to the pool again."""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

REMEMBERED: Final = timedelta(minutes=10)  # a retry comes within seconds; a proxy's patience ends within minutes
MAX_REMEMBERED: Final = 20_000  # some 3 MB


class Calls:
    """Remembers texts by call, in this process, for a while: of those beyond its bound the oldest are forgotten.

    Args:
        clock: Tells the time.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._seen: OrderedDict[int, datetime] = OrderedDict()

    def first(self, call: str, text: str) -> bool:
        """Return whether a call brings a text for the first time, and remember that it did."""
        now = self._clock()
        while self._seen and next(iter(self._seen.values())) <= now - REMEMBERED:
            self._seen.popitem(last=False)
        key = hash(
            (call, text)
        )  # salted, 64 bits: two of 20,000 agree once in 10^11 times, and the text stays out of here
        if key in self._seen:
            return False
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.popitem(last=False)
        self._seen[key] = now
        return True
