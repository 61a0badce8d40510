"""The query strategies beside the paper's four, by their properties."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from guard.bundle import Bundle
from guard.exports import Exports
from guard.settings import GuardSettings
from guard.store import open_store
from guard.taxonomy import CATEGORIES
from learner.cluster import unit
from learner.dataset import Corpus
from learner.embed import Embedded
from learner.rivals import Badge, ClusterMargin, Margin, Rare, Stochastic
from learner.settings import LearnerSettings
from learner.strategies import Candidates, Groups
from learner.work import Work
from tests.learner.test_selection import groups, pick, rows, scattered


def mixed(count: int, *, seed: int = 0) -> Candidates:
    """Return candidates in all directions with probabilities of every kind, none with a double."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(6, 0.5), count).astype(np.float32)
    return Candidates(
        groups=Groups(np.arange(count), np.arange(count + 1)),
        users=((),) * count,
        vectors=unit(generator.normal(size=(count, 8)).astype(np.float32)),
        probabilities=probabilities,
        uncertainty=(-(probabilities * np.log(probabilities + 1e-12)).sum(axis=1) / np.log(6)).astype(np.float32),
        room=lambda _: 1000,
        seed=seed,
    )


def anchors() -> Rare:
    """Return the rare strategy with two labelled messages of the first category and ten of each other one."""
    generator = np.random.default_rng(9)
    labels = np.array([0, 0, *np.repeat(np.arange(1, 6), 10)])
    return Rare(np.eye(32, dtype=np.float32)[labels] + generator.normal(0, 0.05, (52, 32)).astype(np.float32), labels)


class TestMargin:
    """Breaking ties."""

    def test_takes_the_closest_two(self) -> None:
        """What counts is how close the two likeliest categories are, not how uncertain the whole is."""
        probabilities = np.array([[0.5, 0.5, 0, 0, 0, 0], [0.4, 0.12, 0.12, 0.12, 0.12, 0.12]], dtype=np.float32)
        pool = Embedded(np.array([100, 101]), ((), ()), probabilities, np.eye(2, 8, dtype=np.float32))
        assert pool.uncertainty[0] < pool.uncertainty[1]
        (picked,) = pick(pool, Margin(), 1)
        assert picked.message_id == 100
        assert picked.reason["margin"] == 1.0


class TestClusterMargin:
    """Margins spread over clusters."""

    def test_takes_one_of_every_cluster(self) -> None:
        """A batch of four from four groups has the closest margin of each, where margin alone may not."""
        pool = groups(4, 10)
        best = [group * 10 + int(pool.uncertainty[group * 10 : group * 10 + 10].argmax()) for group in range(4)]
        assert sorted(rows(pick(pool, ClusterMargin(), 4))) == best
        assert sorted(rows(pick(pool, Margin(), 4))) != best

    def test_looks_at_the_closest_only(self) -> None:
        """Nothing behind the ten closest for each pick is taken."""
        pool = scattered(300)
        close = np.argsort(-pool.uncertainty)[:50]
        assert set(rows(pick(pool, ClusterMargin(), 5))) <= set(close)


class TestBadge:
    """Gradients of the last layer."""

    def test_draws_as_over_the_gradients_themselves(self) -> None:
        """The batch is the one that k-means++ draws with all the gradients in memory."""
        candidates = mixed(60, seed=3)
        errors = candidates.probabilities.astype(np.float64)
        errors[np.arange(60), errors.argmax(axis=1)] -= 1
        gradients = (errors[:, :, None] * candidates.vectors[:][:, None, :]).reshape(60, -1)
        generator = np.random.default_rng(3)
        expected = [int(np.linalg.norm(gradients, axis=1).argmax())]
        while len(expected) < 12:
            squares = ((gradients[:, None] - gradients[expected][None]) ** 2).sum(axis=2).min(axis=1)
            expected.append(int(generator.choice(60, p=squares / squares.sum())))
        assert [choice.row for choice in Badge().choose(candidates, 12, lambda _: True)] == expected

    def test_passes_over_what_is_certain(self) -> None:
        """Messages the model is certain of all have the gradient 0: one of them at most comes before the others end."""
        candidates = mixed(30)
        candidates.probabilities[:20] = np.eye(6)[0]
        chosen = [choice.row for choice in Badge().choose(candidates, 30, lambda _: True)]
        assert sum(row < 20 for row in chosen[:11]) <= 1
        assert sorted(chosen) == list(range(30))


class TestStochastic:
    """A draw with known probabilities."""

    def test_draws_as_often_as_it_says(self) -> None:
        """Over 3,000 seeds each message is drawn as often as its stated probability, within 4 standard errors."""
        drawn, stated = np.zeros(15), np.zeros(15)
        candidates = mixed(15)
        for seed in range(3000):
            for choice in Stochastic(1).choose(replace(candidates, seed=seed), 4, lambda _: True):
                assert choice.inclusion_probability is not None
                drawn[choice.row] += 1 / 3000
                stated[choice.row] = choice.inclusion_probability
        errors = np.sqrt(np.maximum(stated * (1 - stated), 1 / 3000) / 3000)
        assert (np.abs(drawn - stated) < 4 * errors).all()
        assert drawn.sum() == pytest.approx(4)

    def test_its_probabilities_weigh_the_batch_back_to_the_pool(self) -> None:
        """The Horvitz-Thompson estimate of a mean over the pool is right on average, where the plain mean is not."""
        candidates = mixed(40, seed=1)
        values = candidates.uncertainty.astype(np.float64)
        flat = replace(candidates, uncertainty=candidates.uncertainty**0.0625)
        estimates, plain = [], []
        for seed in range(300):
            chosen = Stochastic(4).choose(replace(flat, seed=seed), 12, lambda _: True)
            estimates.append(sum(values[c.row] / (c.inclusion_probability or np.nan) for c in chosen) / 40)
            plain.append(np.mean([values[c.row] for c in chosen]))
        error = np.std(estimates) / np.sqrt(300)
        assert abs(np.mean(estimates) - values.mean()) < 4 * error
        assert np.mean(plain) - values.mean() > 0.03

    def test_every_cluster_has_its_share(self) -> None:
        """Of five groups and ten draws each group gives two."""
        chosen = rows(pick(groups(5, 40), Stochastic(5), 10))
        assert sorted(row // 40 for row in chosen) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]

    def test_near_duplicates_share_the_probability_of_one(self) -> None:
        """Any of three doubles may be drawn, each with a third of the probability."""
        pool = scattered(6)
        doubled = Embedded(
            pool.ids, pool.users, np.full((6, 6), 1 / 6, dtype=np.float32), pool.vectors[[0, 0, 0, 3, 4, 5]]
        )
        drawn = {}
        for seed in range(60):
            for picked in pick(doubled, Stochastic(1), 2, seed=seed):
                drawn[picked.message_id - 100] = picked.inclusion_probability
        assert drawn == {row: pytest.approx(1 / 6 if row < 3 else 1 / 2) for row in range(6)}

    def test_its_probability_is_known_under_caps(self) -> None:
        """With users far above the cap a batch that it can fill has a probability for each pick."""
        pool = scattered(60, users=[("loud",)] * 30 + [("loud", "ann")] * 5 + [()] * 25)
        assert None not in {p.inclusion_probability for p in pick(pool, Stochastic(), 20, user_cap=2)}

    def test_what_fills_up_has_no_probability(self) -> None:
        """A batch for which the caps leave too little is filled with what they passed over, as far as they allow."""
        pool = scattered(3, users=[("ann", "bob"), ("ann", "eve"), ("bob", "eve")])
        picks = pick(pool, Stochastic(1), 3, user_cap=2, seed=1)
        assert len(picks) == 3


class TestRare:
    """Seeking the rare."""

    def test_finds_the_rare_near_its_anchors(self) -> None:
        """Half of a batch lies near the two labelled messages of the rarest category."""
        chosen = rows(pick(groups(6, 30), anchors(), 8))
        assert sum(row < 30 for row in chosen[:4]) == 4

    def test_stops_seeking_what_is_no_longer_rare(self) -> None:
        """Once a category has as many labels as the mean its turn is over, and the clusters have the rest."""
        chosen = pick(groups(6, 30), anchors(), 40)
        assert sum("nearness" in p.reason for p in chosen) == 7  # 2 + 7 is the first above 52 / 6
        assert len(chosen) == 40

    def test_takes_the_most_uncertain_of_the_nearest(self) -> None:
        """Of the ten nearest the first pick is the one the model is least sure about."""
        pool, by = groups(6, 30), anchors()
        assert by.anchors is not None
        nearest = (unit(pool.vectors) @ unit(by.anchors[:2]).T).max(axis=1)
        ten = np.argsort(-nearest)[:10]
        assert rows(pick(pool, by, 2))[0] == ten[pool.uncertainty[ten].argmax()]

    def test_never_picks_a_message_twice_or_above_a_cap(self) -> None:
        """Both halves together hold each message once and no user more often than the cap."""
        users: list[tuple[str, ...]] = [(str(row % 7),) for row in range(180)]
        chosen = rows(pick(groups(6, 30, users=users), anchors(), 30, user_cap=3))
        assert len(set(chosen)) == len(chosen) == 21
        assert max(Counter(row % 7 for row in chosen).values()) == 3

    def test_without_anchors_it_is_the_clusters(self) -> None:
        """Where nothing is labelled the whole batch comes by turns over the clusters."""
        assert all("cluster" in p.reason for p in pick(scattered(80), Rare(), 10))


async def test_service_gives_anchors_with_their_categories(
    guard_settings: GuardSettings, corpus: Corpus, corpus_folder: Path
) -> None:
    """In service the anchors are all labelled texts in order, each with its own category."""
    bundle = Mock(spec=Bundle)
    bundle.score.side_effect = lambda texts: (None, np.array([[len(text)] for text in texts], dtype=np.float32))
    async with open_store(guard_settings, create_keyring=True) as store:
        work = Work(store, Exports(guard_settings.exports_dir), LearnerSettings(corpus_dir=corpus_folder))
        vectors, labels = await work._anchors(bundle)
    assert vectors[:, 0].tolist() == [len(example.text) for example in corpus.train]
    assert [CATEGORIES[label] for label in labels] == [example.category for example in corpus.train]
