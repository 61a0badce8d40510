"""The six categories and what is said about them."""

import pytest

from guard.taxonomy import CATEGORIES, GUIDELINES, HARMFUL, Action, Category


def test_order() -> None:
    """The categories stand in the order of the model's logits, which exports and stored scores rely on."""
    assert [c.value for c in CATEGORIES] == [
        "self-harm",
        "medical-advice",
        "legal-advice",
        "financial-advice",
        "emergency-situation",
        "not-harmful",
    ]


def test_harmful() -> None:
    """All but the last are harmful."""
    assert CATEGORIES[:-1] == HARMFUL
    assert CATEGORIES[-1] is Category.NOT_HARMFUL


@pytest.mark.parametrize("category", CATEGORIES)
def test_guidelines(category: Category) -> None:
    """Every category has a definition, a boundary and an action; only what is not harmful is simply allowed."""
    guideline = GUIDELINES[category]
    assert guideline.definition.endswith(".")
    assert guideline.boundary.endswith(".")
    assert (guideline.action is Action.ALLOW) == (category is Category.NOT_HARMFUL)


def test_guidelines_read_only() -> None:
    """Nobody changes what a category means while the program runs."""
    with pytest.raises(TypeError):
        GUIDELINES[Category.SELF_HARM] = GUIDELINES[Category.NOT_HARMFUL]  # type: ignore[index]
