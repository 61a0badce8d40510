"""How alike people label, for the page about it and for /metrics: messages with two opinions come in, figures go out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import msgspec

from guard.interval import Rate, wilson
from guard.kappa import LEAST, Kappa, Opinion, cohen, fleiss
from guard.store.conflicts import Doubled

UNCLEAR: Final = "unclear"  # "can't tell", in JSON


class Pair(msgspec.Struct, frozen=True):
    """Two people, Cohen's kappa between them, and how many messages both labelled."""

    first: str
    second: str
    kappa: Kappa | None
    messages: int


class Person(msgspec.Struct, frozen=True):
    """How often somebody said what the other one said, and what was settled in the end; None where that is too few.

    What was settled rests on their own opinion, too.
    """

    name: str
    with_others: Rate | None
    with_settled: Rate | None


class Confusion(msgspec.Struct, frozen=True):
    """Two categories between which people were divided, and about how many messages."""

    first: str
    second: str
    messages: int


class Alike(msgspec.Struct, frozen=True):
    """How alike people label.

    Args:
        messages: That two people labelled because two were asked.
        kappa: Fleiss', of all of them.
        pairs: Of people who labelled the same messages, by name.
        people: By name.
        confusions: The most frequent first.
    """

    messages: int
    kappa: Kappa | None
    pairs: list[Pair]
    people: list[Person]
    confusions: list[Confusion]


def alike(doubled: Sequence[Doubled]) -> Alike:
    """Return how alike people label."""
    said: defaultdict[tuple[str, str], list[tuple[Opinion, Opinion]]] = defaultdict(list)
    others: defaultdict[str, list[bool]] = defaultdict(list)
    settled: defaultdict[str, list[bool]] = defaultdict(list)
    confusions = Counter[tuple[str, ...]]()
    for message in doubled:
        one, other = sorted(message.opinions, key=lambda opinion: opinion.reviewer)
        same = one.category is other.category
        said[one.reviewer, other.reviewer].append((one.category, other.category))
        if not same:
            confusions[tuple(sorted(_word(opinion.category) for opinion in (one, other)))] += 1
        for opinion in (one, other):
            others[opinion.reviewer].append(same)
            if message.settled:
                settled[opinion.reviewer].append(opinion.category is message.category)
    names = sorted(others)
    return Alike(
        messages=len(doubled),
        kappa=overall(doubled),
        pairs=[Pair(*pair, cohen(said[pair]), len(said[pair])) for pair in combinations(names, 2) if pair in said],
        people=[Person(name, _rate(others[name]), _rate(settled[name])) for name in names],
        confusions=[Confusion(first, second, number) for (first, second), number in confusions.most_common()],
    )


def overall(doubled: Sequence[Doubled]) -> Kappa | None:
    """Return Fleiss' kappa of all people together."""
    return fleiss([[opinion.category for opinion in message.opinions] for message in doubled])


def _rate(hits: Sequence[bool]) -> Rate | None:
    return wilson(sum(hits), len(hits)) if len(hits) >= LEAST else None


def _word(category: Opinion) -> str:
    return UNCLEAR if category is None else category.value
