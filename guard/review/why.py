"""Why a message was asked: the numbers that the learner kept with its pick, and what is around it, in words for people."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from guard.store.reports import UNKNOWN

_NUMBERS: Final = {
    "margin": "the two likeliest categories are {:.2f} apart",
    "distance": "{:.2f} away from the nearest labelled message",
    "rank": "number {:.0f} in its cluster or list",
}

_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_LONGEST: Final = 40  # letters of a word; what is longer is no word that tells anything, but fills the page
_WORDS: Final = 6
_LEAD: Final = 0.2  # of its shares: less is chance, among a dozen messages
_LEAST: Final = 3  # messages that a word must stand in: what one person wrote is no type of anything


def typical_words(near: Sequence[str], elsewhere: Sequence[str]) -> list[str]:
    """Return the words that stand in a larger share of the messages near a pick than of those elsewhere, most telling first.

    Without anything elsewhere nothing is typical.
    """
    if not elsewhere:
        return []
    here, there = (Counter(word for text in texts for word in _words(text)) for texts in (near, elsewhere))
    leads = {
        word: number / len(near) - there[word] / len(elsewhere) for word, number in here.items() if number >= _LEAST
    }
    ranked = sorted(leads, key=lambda word: (-leads[word], word))
    return [word for word in ranked if leads[word] >= _LEAD][:_WORDS]


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if len(word) <= _LONGEST}


def why(reason: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Return sentences, the most telling first; what is not known is not said.

    Args:
        reason: Of the pick.
        words: Typical of what is near it.
    """
    if reason.get("audit"):
        return [
            "An audit: drawn at random from what the guard was sure of.",
            "What it said is not shown, so that your label is your own.",
        ]
    said = []
    if "category" in reason and "probability" in reason:
        said.append(f"The guard takes it for {reason['category']}, with {100 * reason['probability']:.0f} %.")
    if "uncertainty" in reason:
        said.append(f"Uncertainty {reason['uncertainty']:.2f}, where 1 is a guess among all six.")
    if "cluster" in reason:
        size = f" of {reason['cluster_size']} messages" if "cluster_size" in reason else ""
        said.append(f"It stands for cluster {reason['cluster']}{size}.")
    if words:
        said.append(f"Typical words of what is like it: {', '.join(words)}.")
    if reason.get("near_duplicates"):
        said.append(f"{reason['near_duplicates']} near-duplicates wait behind it.")
    said += [f"{words.format(reason[name]).capitalize()}." for name, words in _NUMBERS.items() if name in reason]
    if "reported_by" in reason:
        by = ", ".join(f"{number} by a {source}" for source, number in reason["reported_by"].items())
        said.append(f"Reported as wrong: {by}. What they take it for is said after your own decision.")
    elif "strategy" in reason:
        said.append(f"Chosen by the strategy {reason['strategy']}.")
    return said


def opinions(reported: Mapping[str, int]) -> str:
    """Return what those who reported a verdict as wrong take the message for, in words; nothing where nobody did."""
    if not reported:
        return ""
    said = [f"{number} cannot tell" if what == UNKNOWN else f"{number} say {what}" for what, number in reported.items()]
    return f" Of those who reported it, {', '.join(said)}."
