"""That wrong labels are suspected, and right ones much less."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from guard.store.doubts import Suspicion
from guard.store.variations import LabelledText
from guard.taxonomy import CATEGORIES, Category
from learner.dataset import Corpus, Dataset, assemble
from learner.doubts import doubts, suspected
from learner.head import Recipe, Rows, fit_head

_SURE = 0.9


def taken_for(*categories: int, sure: float = _SURE) -> npt.NDArray[np.float32]:
    """Return probabilities of rows that are taken for these categories."""
    found = np.full((len(categories), len(CATEGORIES)), (1 - sure) / (len(CATEGORIES) - 1), dtype=np.float32)
    found[np.arange(len(categories)), categories] = sure
    return found


def flipped(share: float, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int_], npt.NDArray[np.bool_]]:
    """Return what cross-validated heads say of 600 rows around six centres, their labels, and which of these are wrong."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(CATEGORIES)), 100)
    features = (1.5 * np.eye(len(CATEGORIES), 12)[truth] + 0.4 * generator.normal(size=(600, 12))).astype(np.float32)
    wrong = np.zeros(600, dtype=np.bool_)
    wrong[generator.choice(600, round(600 * share), replace=False)] = True
    labels = np.where(wrong, (truth + generator.integers(1, len(CATEGORIES), 600)) % len(CATEGORIES), truth)
    rows = Rows(labels, np.ones(600), np.arange(600) // 2, np.ones(600, dtype=np.bool_))
    unseen = np.empty((600, len(CATEGORIES)), dtype=np.float32)
    for inside, outside in StratifiedGroupKFold(5).split(features, labels, rows.groups):
        unseen[outside] = fit_head(features[inside], rows.some(inside), Recipe()).predict_proba(features[outside])
    return unseen, labels, wrong


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_flipped_labels_are_found(share: float) -> None:
    """Of labels flipped at random most are suspected and hardly any others; the first ten of the list are all wrong."""
    unseen, labels, wrong = flipped(share, 3)
    rows, _opinions = suspected(unseen, labels)
    precision, recall = wrong[rows].mean(), wrong[rows].sum() / wrong.sum()
    assert recall > 0.6, "a list as long drawn at random would hold a tenth of them at most"
    assert precision > 0.9, "and one in ten of it would be wrong"
    assert wrong[rows[:10]].all()


def test_the_opinion_is_the_truth() -> None:
    """What a wrong label is taken for instead is what it was before it was flipped."""
    unseen, labels, wrong = flipped(0.1, 4)
    rows, opinions = suspected(unseen, labels)
    truth = np.repeat(np.arange(len(CATEGORIES)), 100)
    caught = wrong[rows]
    assert (opinions[caught] == truth[rows[caught]]).mean() > 0.95


def test_strongest_first() -> None:
    """The label that has the least probability beside the likeliest category comes first."""
    unseen = np.concatenate([taken_for(0, 1, 2, 3, 4, 5), taken_for(1, sure=0.9), taken_for(2, sure=0.95)])
    rows, opinions = suspected(unseen, np.array([0, 1, 2, 3, 4, 5, 0, 0]))
    assert rows.tolist() == [7, 6]
    assert opinions.tolist() == [2, 1]


def test_a_shy_category_is_reached_sooner() -> None:
    """Of categories whose own rows have little for them, little is enough to suspect; of sure ones it is not."""
    shy = taken_for(*[0] * 20, sure=0.4)
    sure = taken_for(*[1] * 20, sure=0.99)
    labels = np.array([0] * 20 + [1] * 20 + [2])
    for doubtful, expected in ((0, [40]), (1, [])):
        odd = taken_for(doubtful, sure=0.5)
        rows, _opinions = suspected(np.concatenate([shy, sure, odd]), labels)
        assert rows.tolist() == expected


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(1, 50), min_size=6, max_size=6), min_size=n, max_size=n),
            st.lists(st.integers(0, 5), min_size=n, max_size=n),
        )
    )
)
def test_only_labels_that_differ(rows: tuple[list[list[int]], list[int]]) -> None:
    """Whatever the probabilities, a suspected row is named once, for another category than its label that somebody has."""
    counts, given_labels = np.array(rows[0], dtype=np.float32), np.array(rows[1])
    unseen = counts / counts.sum(axis=1, keepdims=True)
    places, opinions = suspected(unseen, given_labels)
    assert len(set(places.tolist())) == len(places)
    assert (opinions != given_labels[places]).all()
    assert set(opinions.tolist()) <= set(given_labels.tolist())


def people(corpus: Corpus) -> Dataset:
    """Return the corpus with two labels of people, a variation of the first and a contrast to the second."""
    snapshot = [
        LabelledText(7, "whose turn is it", Category.LEGAL_ADVICE, variation=False),
        LabelledText(7, "is it my turn", Category.LEGAL_ADVICE, variation=True),
        LabelledText(8, "what a nice day", Category.NOT_HARMFUL, variation=False),
        LabelledText(8, "what a nice rash", Category.MEDICAL_ADVICE, variation=False, contrast=True),
    ]
    return assemble(corpus, snapshot, variation_weight=0.3)


def test_only_people_are_doubted(corpus: Corpus) -> None:
    """Neither the corpus nor what an LLM wrote is suspected: only messages, by their id, with what they are taken for."""
    dataset = people(corpus)
    examples = [example for example in dataset.train if not example.variation]
    odd = {"whose turn is it": 5, "what a nice rash": 5, examples[0].text: 3}
    unseen = taken_for(*[odd.get(e.text, CATEGORIES.index(e.category)) for e in examples])
    (doubt,) = doubts(dataset, unseen)
    assert doubt.probability == pytest.approx(_SURE)
    assert replace(doubt, probability=0.9) == Suspicion(7, Category.LEGAL_ADVICE, Category.NOT_HARMFUL, 0.9)


def test_too_little_data_doubts_nothing(corpus: Corpus) -> None:
    """Where nothing could be held out, nothing is suspected."""
    assert doubts(people(corpus), None) == ()


def test_only_messages_have_an_id(corpus: Corpus) -> None:
    """Of what a snapshot adds, only the messages themselves are marked as such, not what was written after them."""
    dataset = people(corpus)
    marked = [(e.message_id, e.text) for e in dataset.train if e.message_id is not None]
    assert marked == [(7, "whose turn is it"), (8, "what a nice day")]
