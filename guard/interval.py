"""A share of some messages and how sure it is; pages and figures tell both."""

import math
from typing import Final

import msgspec

_Z: Final = 1.959964  # 97.5 % point of the normal distribution


class Rate(msgspec.Struct, frozen=True):
    """A share of some messages with its 95 % interval (Wilson 1927); the messages count as independent."""

    share: float
    low: float
    high: float
    messages: int


def wilson(successes: float, trials: float) -> Rate:
    """Return a share with its 95 % score interval (Wilson 1927); sound for few trials and shares near 0 and 1."""
    share = successes / trials
    middle = (share + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2)) / (1 + _Z**2 / trials)
    return Rate(share, max(0.0, middle - half), min(1.0, middle + half), round(trials))
