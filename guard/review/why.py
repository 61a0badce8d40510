"""Why a message was asked: the numbers that the learner kept with its pick, in words for people."""

from typing import Any, Final

_NUMBERS: Final = {
    "margin": "the two likeliest categories are {:.2f} apart",
    "distance": "{:.2f} away from the nearest labelled message",
    "rank": "number {:.0f} in its cluster or list",
}


def why(reason: dict[str, Any]) -> list[str]:
    """Return sentences, the most telling first; what is not known is not said."""
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
    if reason.get("words"):
        said.append(f"Typical words there: {', '.join(reason['words'])}.")
    if reason.get("near_duplicates"):
        said.append(f"{reason['near_duplicates']} near-duplicates wait behind it.")
    said += [f"{words.format(reason[name]).capitalize()}." for name, words in _NUMBERS.items() if name in reason]
    if "strategy" in reason:
        said.append(f"Chosen by the strategy {reason['strategy']}.")
    return said
