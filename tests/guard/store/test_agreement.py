"""When opinions settle a pick: the rules one by one, and what holds whatever people say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.store.agreement import Outcome, settle
from guard.store.states import PickState
from guard.taxonomy import GRAVE, Category

SELF_HARM, LEGAL, CLEAR, MEDICAL = (
    Category.SELF_HARM,
    Category.LEGAL_ADVICE,
    Category.NOT_HARMFUL,
    Category.MEDICAL_ADVICE,
)
MANY = 9  # people

opinions = st.lists(st.sampled_from([*Category, None]), max_size=5)
asked = st.fixed_dictionaries({"twice": st.booleans(), "overlap": st.sampled_from([1, 2])})


@pytest.mark.parametrize(
    ("said", "twice", "state", "category", "wanted"),
    [
        ([], False, PickState.WAITING, None, 1),
        ([LEGAL], False, PickState.LABELLED, LEGAL, 1),
        ([None], False, PickState.UNCLEAR, None, 1),
        ([SELF_HARM], False, PickState.WAITING, None, 2),
        ([Category.EMERGENCY_SITUATION], False, PickState.WAITING, None, 2),
        ([SELF_HARM, SELF_HARM], False, PickState.LABELLED, SELF_HARM, 2),
        ([], True, PickState.WAITING, None, 2),
        ([LEGAL], True, PickState.WAITING, None, 2),
        ([LEGAL, LEGAL], True, PickState.LABELLED, LEGAL, 2),
        ([None, None], True, PickState.UNCLEAR, None, 2),
        ([LEGAL, CLEAR], True, PickState.CONTESTED, None, 3),
        ([LEGAL, None], True, PickState.CONTESTED, None, 3),
        ([LEGAL, CLEAR, CLEAR], True, PickState.LABELLED, CLEAR, 3),
        ([LEGAL, None, None], True, PickState.UNCLEAR, None, 3),
        ([LEGAL, CLEAR, MEDICAL], True, PickState.CONTESTED, None, 3),
        ([LEGAL, CLEAR, None], True, PickState.CONTESTED, None, 3),
    ],
)
def test_rules(
    said: list[Category | None],
    twice: bool,  # noqa: FBT001
    state: PickState,
    category: Category | None,
    wanted: int,
) -> None:
    """Agreement settles, difference asks for a third opinion, a majority of three settles, three of a kind each do not."""
    assert settle(said, twice=twice, overlap=2, able=MANY) == Outcome(state, category, wanted)


@pytest.mark.parametrize("said", [SELF_HARM, LEGAL, None])
@pytest.mark.parametrize("twice", [True, False])
def test_one_person(said: Category | None, twice: bool) -> None:  # noqa: FBT001
    """Where nobody else is there, or nobody else shall be asked, one opinion settles everything."""
    for overlap, able in ((2, 1), (1, MANY)):
        assert settle([], twice=twice, overlap=overlap, able=able).wanted == 1
        outcome = settle([said], twice=twice, overlap=overlap, able=able)
        assert (outcome.state in {PickState.LABELLED, PickState.UNCLEAR}, outcome.category) == (True, said)


def test_nobody_there() -> None:
    """A message waits for one opinion even while nobody can give it: somebody may come."""
    assert settle([], twice=True, overlap=2, able=0) == Outcome(PickState.WAITING, None, 1)


@given(opinions, asked, st.integers(0, 4))
def test_nobody_is_waited_for_who_is_not_there(
    said: list[Category | None],
    asked: dict[str, int],
    more: int,
) -> None:
    """No more opinions are asked for than there can be, and with all of them in nothing waits."""
    outcome = settle(said, **asked, able=len(said) + more)  # type: ignore[arg-type]
    assert outcome.wanted <= max(1, len(said) + more)
    if said and outcome.state is PickState.WAITING:
        assert len(said) < outcome.wanted
    if said and not more:
        assert outcome.state is not PickState.WAITING


@given(st.permutations([*Category, None]), st.lists(st.integers(0, 6), max_size=4), asked)
def test_order_does_not_matter(kinds: list[Category | None], places: list[int], asked: dict[str, int]) -> None:
    """Who spoke first makes no difference."""
    said = [kinds[place] for place in places]
    for order in (said[::-1], sorted(said, key=str)):
        assert settle(order, **asked, able=MANY) == settle(said, **asked, able=MANY)  # type: ignore[arg-type]


@given(opinions, asked)
def test_what_settles_was_said_by_most(said: list[Category | None], asked: dict[str, int]) -> None:
    """A pick is settled as what more than half of the people said; self-harm and emergency never by one of several."""
    outcome = settle(said, **asked, able=MANY)  # type: ignore[arg-type]
    if outcome.state in {PickState.LABELLED, PickState.UNCLEAR}:
        assert 2 * said.count(outcome.category) > len(said)
        assert (outcome.state is PickState.UNCLEAR) == (outcome.category is None)
        if outcome.category in GRAVE and asked["overlap"] == 2:
            assert said.count(outcome.category) > 1
    else:
        assert outcome.category is None
        assert (outcome.state is PickState.CONTESTED) == (len(set(said)) > 1)
