"""Why a message was asked, in words; and the words that are typical of what is near it."""

from guard.review.why import typical_words, why


def test_typical_words() -> None:
    """Typical are words of at least three messages nearby, and of fewer elsewhere; those that stand everywhere are not."""
    near = [
        "my Rent is late",
        "the rent, again",
        "can the landlord raise rent",
        "rent and the landlord",
        "a landlord? the",
    ]
    elsewhere = ["the dog ate the cake", "what is the capital of peru", "the end", "is the rash bad", "the car"]
    assert typical_words(near, elsewhere) == ["rent", "landlord"]
    assert typical_words([], elsewhere) == []
    assert typical_words(["only two wrote this"] * 2, elsewhere) == []
    assert typical_words(near, []) == []


def test_long_words_are_none() -> None:
    """What is longer than any word is not typical, however many wrote it: it would fill the page."""
    assert typical_words(["x" * 60_000 + " rent"] * 3, ["the end"]) == ["rent"]


def test_audit_says_nothing() -> None:
    """Of an audit nothing is said but that it is one."""
    said = " ".join(why({"audit": True}, ["rent"]))
    assert "audit" in said
    assert "rent" not in said


def test_all_that_is_known() -> None:
    """Each number that a strategy keeps is said, and nothing where there is none."""
    assert why({}, []) == []
    reason = {"margin": 0.125, "distance": 0.5, "rank": 3, "cluster": 2, "strategy": "rare", "near": [1], "unknown": 7}
    assert why(reason, ["rent"]) == [
        "It stands for cluster 2.",
        "Typical words of what is like it: rent.",
        "The two likeliest categories are 0.12 apart.",
        "0.50 away from the nearest labelled message.",
        "Number 3 in its cluster or list.",
        "Chosen by the strategy rare.",
    ]
