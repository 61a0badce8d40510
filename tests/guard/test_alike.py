"""How alike people label: from messages with two opinions to the figures of the page."""

from guard.alike import Alike, Confusion, alike
from guard.store.conflicts import Doubled, Opinion
from guard.taxonomy import Category
from tests.conftest import START

CLEAR, LEGAL, MEDICAL = Category.NOT_HARMFUL, Category.LEGAL_ADVICE, Category.MEDICAL_ADVICE


def _doubled(
    first: str, one: Category | None, second: str, other: Category | None, settled: Category | None = None
) -> Doubled:
    opinions = Opinion(first, one, START), Opinion(second, other, START)
    return Doubled(opinions, settled=one is other or settled is not None, category=one if one is other else settled)


def test_nothing_yet() -> None:
    """Without messages with two opinions nothing is told."""
    assert alike([]) == Alike(0, None, [], [], [])


def test_figures() -> None:
    """Whoever spoke first, a pair is one; what nobody settled counts among people and not against what was settled."""
    messages = [
        *[_doubled("ann", CLEAR if n % 2 else LEGAL, "bob", CLEAR if n % 2 else LEGAL) for n in range(8)],
        _doubled("bob", LEGAL, "ann", CLEAR, settled=CLEAR),
        _doubled("ann", CLEAR, "bob", LEGAL),
        _doubled("bob", None, "cyd", MEDICAL),
    ]
    found = alike(messages)
    assert found.messages == 11
    assert found.kappa is not None
    assert [(pair.first, pair.second, pair.messages) for pair in found.pairs] == [("ann", "bob", 10), ("bob", "cyd", 1)]
    kappas = [pair.kappa for pair in found.pairs]
    assert kappas[0] is not None
    assert (round(kappas[0].value, 3), kappas[0].messages, kappas[1]) == (0.615, 10, None)
    ann, bob, cyd = found.people
    assert ann.with_others is not None
    assert (ann.name, ann.with_others.share, ann.with_others.messages) == ("ann", 0.8, 10)
    assert ann.with_settled is None, "nine are settled"
    assert bob.with_others is not None
    assert bob.with_others.messages == 11
    assert (cyd.with_others, cyd.with_settled) == (None, None)
    assert found.confusions == [
        Confusion("legal-advice", "not-harmful", 2),
        Confusion("medical-advice", "unclear", 1),
    ]
