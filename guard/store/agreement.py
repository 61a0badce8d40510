"""When a pick is settled: people's opinions come in; what they make of it, and how many are asked for, go out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from guard.store.states import PickState
from guard.taxonomy import GRAVE, Category

_CASTING: Final = 3  # opinions where two differ


@dataclass(frozen=True, slots=True)
class Outcome:
    """What opinions make of a pick.

    Args:
        category: What it is settled as; None while it is not, and when people settled that nobody can tell.
        wanted: How many opinions are asked for.
    """

    state: PickState
    category: Category | None
    wanted: int


def settle(opinions: Sequence[Category | None], *, twice: bool, overlap: int, able: int) -> Outcome:
    """Return what opinions make of a pick; "can't tell" is an opinion like the others.

    Opinions that agree settle it once there are as many as are asked for. When two differ a third is asked for, and the
    majority settles it; three different ones leave it contested, for an adjudicator.

    Args:
        opinions: Standing ones, of as many people, in the order in which they were given.
        twice: Whether two people are asked from the outset, and not only when the first says self-harm or emergency.
        overlap: How many people are asked where more than one should be.
        able: How many opinions there can be at most: those given, and those of people who may still give one.
    """
    given, kinds = len(opinions), Counter(opinions)
    often = twice or not GRAVE.isdisjoint(kinds)
    asked = _CASTING if len(kinds) > 1 else overlap if often else 1
    wanted = max(given, 1, min(asked, able))
    if not given:
        return Outcome(PickState.WAITING, None, wanted)
    ((category, most),) = kinds.most_common(1)
    if 2 * most > given >= (wanted if len(kinds) == 1 else _CASTING):
        return Outcome(decided(category), category, wanted)
    return Outcome(PickState.WAITING if len(kinds) == 1 else PickState.CONTESTED, None, wanted)


def decided(category: Category | None) -> PickState:
    """Return the state of a pick that is settled as a category, or as one that nobody can tell."""
    return PickState.UNCLEAR if category is None else PickState.LABELLED
