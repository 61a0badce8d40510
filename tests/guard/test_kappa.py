"""Kappas: against scikit-learn, against Fleiss' own example, and what holds whatever people say."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.kappa import LEAST, Kappa, Opinion, cohen, fleiss
from guard.taxonomy import CATEGORIES, Category

ALL: tuple[Opinion, ...] = (*CATEGORIES, None)
# Fleiss 1971, table 1: thirty patients, each put into one of five diagnoses by six psychiatrists
FLEISS = (
    "00060", "03003", "01401", "00006", "03030", "20400", "00402", "20310", "20040", "00006",
    "10050", "11040", "03300", "10050", "02031", "00501", "30012", "51000", "02040", "10203",
    "00006", "01050", "02013", "20040", "10041", "05010", "40002", "02040", "10500", "00006",
)  # fmt: skip

pairs = st.lists(st.tuples(st.sampled_from(ALL), st.sampled_from(ALL)), min_size=LEAST, max_size=60)


def _value(found: Kappa | None) -> float:
    assert found is not None
    return found.value


def test_cohen_as_scikit_learn_has_it() -> None:
    """Cohen's kappa is scikit-learn's, however often people agree."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(20261121)
    for agreement in (0.0, 0.3, 0.8, 0.99):
        first = [rng.choice(ALL) for _ in range(200)]
        second = [one if rng.random() < agreement else rng.choice(ALL) for one in first]
        expected = metrics.cohen_kappa_score([str(one) for one in first], [str(one) for one in second])
        assert _value(cohen(list(zip(first, second, strict=True)))) == pytest.approx(expected, abs=1e-12)


def test_fleiss_own_example() -> None:
    """Thirty patients, six psychiatrists, five diagnoses: 0.430, as Fleiss (1971) works out."""
    ratings = [[CATEGORIES[place] for place, n in enumerate(row) for _ in range(int(n))] for row in FLEISS]
    assert {len(opinions) for opinions in ratings} == {6}
    found = fleiss(ratings)
    assert _value(found) == pytest.approx(0.430, abs=0.0005)
    assert found is not None
    assert found.messages == 30


def test_messages_weigh_alike() -> None:
    """A message with six opinions weighs as much as one with two."""
    two: list[list[Opinion]] = [[ALL[n % 3], ALL[n % 2]] for n in range(12)]
    agreed: list[list[Opinion]] = [[ALL[n % 2]] * 2 for n in range(12)]
    assert _value(fleiss([opinions * (1 + n) for n, opinions in enumerate(agreed)])) == pytest.approx(1)
    more = [[*opinions, *opinions] if len(set(opinions)) == 1 else opinions for opinions in two]
    assert _value(fleiss(more)) == pytest.approx(_value(fleiss(two)))


@given(pairs)
def test_bounds(said: list[tuple[Opinion, Opinion]]) -> None:
    """A kappa lies within its interval and never above 1; it is the same from either side."""
    found = cohen(said)
    both = fleiss(said)
    for one in (found, both):
        if one is not None:
            assert one.low <= one.value + 1e-12
            assert one.value <= one.high + 1e-12
            assert one.high <= 1 + 1e-12
            assert one.messages == len(said)
    turned = cohen([(other, one) for one, other in said])
    assert (turned is None) == (found is None)
    if turned is not None and found is not None:
        assert turned.value == pytest.approx(found.value)


def test_too_few() -> None:
    """Below ten messages, and where everybody always says the same one thing, there is no kappa."""
    said: list[tuple[Opinion, Opinion]] = [(ALL[n % 2], ALL[n % 2]) for n in range(LEAST - 1)]
    assert (cohen([]), fleiss([]), cohen(said), fleiss(said)) == (None, None, None, None)
    same: list[tuple[Opinion, Opinion]] = [(Category.SELF_HARM, Category.SELF_HARM)] * 50
    assert (cohen(same), fleiss(same)) == (None, None)


def test_certainty_is_never_told() -> None:
    """Ten messages on which two people agree leave room for doubt; a thousand leave less."""
    intervals = []
    for number in (10, 1000):
        found = cohen([(ALL[n % 2], ALL[n % 2]) for n in range(number)])
        assert found is not None
        assert [found.value, found.high] == pytest.approx([1, 1])
        intervals.append(found.high - found.low)
    assert intervals[0] > 0.4
    assert intervals[1] < 0.01
