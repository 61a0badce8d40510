"""How alike people label: their opinions of the same messages come in; kappas, rates and confusions go out.

A kappa is the agreement beyond chance, (Po - Pe) / (1 - Pe): 1 when people always agree, 0 when they do as often as dice
with their habits would. "Can't tell" is a category like the others here.

**Interval.** That of Po by Wilson (1927), put through the same formula, with Pe as it was found; Cohen (1960, p. 43) takes Pe
as fixed for his standard error, too. Fleiss, Cohen and Everitt's (1969) large-sample error is no good for the numbers that
a desk has: simulated with two people, seven categories and 10, 30 and 100 messages, its intervals held the truth in 15 to
95 of a hundred, since where all agree it is 0; these did in 90 to 99.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from guard.interval import wilson
from guard.taxonomy import Category

LEAST: Final = 10  # messages below which a kappa is not told

Opinion = Category | None


class Kappa(msgspec.Struct, frozen=True):
    """An agreement beyond chance, with its 95 % interval and the messages that it rests on."""

    value: float
    low: float
    high: float
    messages: int


def cohen(pairs: Sequence[tuple[Opinion, Opinion]]) -> Kappa | None:
    """Return Cohen's kappa (1960, Educational and Psychological Measurement 20, 37-46) of two people.

    Args:
        pairs: What the one and the other said of each message.

    Returns:
        None below `LEAST` messages, and where both always said the same one thing: then chance explains all.
    """
    number = len(pairs)
    habits = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    by_chance = sum(habits[0][said] * habits[1][said] for said in habits[0]) / (number or 1) ** 2
    return _kappa(float(sum(one is other for one, other in pairs)), by_chance, number)


def fleiss(ratings: Sequence[Sequence[Opinion]]) -> Kappa | None:
    """Return Fleiss' kappa (1971, Psychological Bulletin 76, 378-382) of all people together.

    Where numbers of opinions differ each message weighs alike, by its share of agreeing pairs and its shares of categories;
    with equal numbers this is Fleiss' own, and with two the same as Scott's pi.

    Args:
        ratings: The opinions about each message, two or more.

    Returns:
        None below `LEAST` messages, and where everybody always said the same one thing.
    """
    agreeing, shares = 0.0, defaultdict[Opinion, float](float)
    for opinions in ratings:
        number, counts = len(opinions), Counter(opinions)
        agreeing += sum(count * (count - 1) for count in counts.values()) / (number * (number - 1))
        for said, count in counts.items():
            shares[said] += count / number
    by_chance = sum(share**2 for share in shares.values()) / (len(ratings) or 1) ** 2
    return _kappa(agreeing, by_chance, len(ratings))


def _kappa(agreeing: float, by_chance: float, messages: int) -> Kappa | None:
    if messages < LEAST or by_chance > 1 - 1e-9:
        return None
    observed = wilson(agreeing, messages)
    value, low, high = ((po - by_chance) / (1 - by_chance) for po in (observed.share, observed.low, observed.high))
    return Kappa(value, low, high, messages)
