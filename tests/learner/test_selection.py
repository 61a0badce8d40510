"""The query strategies, by their properties."""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import BadConfiguration
from guard.store.cycles import Picked
from guard.taxonomy import CATEGORIES, Category
from learner.cluster import Vectors, unit
from learner.embed import Embedded
from learner.selection import STRATEGIES, Cluster, Coreset, Random, Strategy, TopN, select, strategy

Floats = npt.NDArray[np.float32]


def embedded(
    vectors: Vectors, peaks: Sequence[float] | npt.NDArray[np.floating], users: Sequence[tuple[str, ...]] | None = None
) -> Embedded:
    """Return a pool whose messages have the ids 100, 101, …; a high peak (of the first category) means certainty."""
    probabilities = np.empty((len(vectors), 6), dtype=np.float32)
    probabilities[:, 0] = peaks
    probabilities[:, 1:] = ((1 - probabilities[:, 0]) / 5)[:, None]
    return Embedded(
        ids=np.arange(100, 100 + len(vectors), dtype=np.int64),
        users=tuple(users) if users is not None else ((),) * len(vectors),
        probabilities=probabilities,
        vectors=vectors,
    )


def groups(count: int, size: int, *, users: Sequence[tuple[str, ...]] | None = None, seed: int = 0) -> Embedded:
    """Return a pool of `count` well separated groups of `size` different messages of random uncertainty."""
    generator = np.random.default_rng(seed)
    centres = np.repeat(np.eye(32, dtype=np.float32)[:count], size, axis=0)
    vectors = centres + generator.normal(0, 0.06, centres.shape).astype(np.float32)
    return embedded(vectors, generator.uniform(0.2, 0.99, len(vectors)), users)


def scattered(count: int, *, users: Sequence[tuple[str, ...]] | None = None, seed: int = 0) -> Embedded:
    """Return a pool of different messages in all directions."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(count, 32)).astype(np.float32)
    return embedded(vectors, generator.uniform(0.2, 0.99, count), users)


def pick(pool: Embedded, by: Strategy, size: int, *, user_cap: int = 1000, seed: int = 7) -> list[Picked]:
    """Select with nobody capped unless said."""
    return select(pool, by, size=size, user_cap=user_cap, seed=seed)


def rows(picks: Sequence[Picked]) -> list[int]:
    """Return which messages were picked, from 0."""
    return [p.message_id - 100 for p in picks]


EVERY: list[Strategy] = [strategy(name) for name in STRATEGIES]


@pytest.mark.parametrize("by", EVERY, ids=str)
class TestEveryStrategy:
    """What holds whatever the strategy."""

    def test_picks_n_different_messages(self, by: Strategy) -> None:
        """N messages of the pool are picked, none twice."""
        chosen = rows(pick(scattered(200), by, 20))
        assert len(set(chosen)) == 20
        assert set(chosen) <= set(range(200))

    def test_picks_all_of_a_small_pool(self, by: Strategy) -> None:
        """A pool smaller than the batch is picked whole."""
        assert sorted(rows(pick(scattered(5), by, 20))) == list(range(5))

    def test_picks_nothing_from_nothing(self, by: Strategy) -> None:
        """An empty pool, or no budget, gives an empty batch."""
        assert pick(scattered(0), by, 20) == []
        assert pick(scattered(9), by, 0) == []

    def test_is_the_same_for_the_same_seed(self, by: Strategy) -> None:
        """Pool, strategy and seed decide the batch and its reasons."""
        assert pick(scattered(150), by, 12, seed=3) == pick(scattered(150), by, 12, seed=3)

    def test_caps_what_one_user_gives(self, by: Strategy) -> None:
        """No user has more messages in the batch than the cap, also where a message has several users."""
        generator = np.random.default_rng(1)
        users = [tuple(str(u) for u in set(generator.integers(0, 12, generator.integers(1, 3)))) for _ in range(300)]
        picks = pick(scattered(300, users=users), by, 20, user_cap=2)
        shares = Counter(user for row in rows(picks) for user in users[row])
        assert max(shares.values()) <= 2
        assert len(picks) >= 12  # twelve users of two, shared by at most two users a message

    def test_never_caps_the_anonymous(self, by: Strategy) -> None:
        """Messages of nobody known fill the batch when everyone else is at the cap."""
        users: list[tuple[str, ...]] = [("flood",)] * 150 + [()] * 50
        picks = pick(scattered(200, users=users), by, 20, user_cap=1)
        assert len(picks) == 20
        assert sum(users[row] == ("flood",) for row in rows(picks)) <= 1

    def test_stops_when_the_caps_leave_nothing(self, by: Strategy) -> None:
        """A pool of one user gives as many messages as the cap allows."""
        assert len(pick(scattered(40, users=[("only",)] * 40), by, 20, user_cap=3)) == 3

    def test_picks_one_of_near_duplicates(self, by: Strategy) -> None:
        """Of a flood of near-duplicates at most one is in the batch, and its reason counts the others."""
        generator = np.random.default_rng(2)
        flood = generator.normal(size=(1, 32)) + generator.normal(0, 0.005, size=(100, 32))
        others = generator.normal(size=(15, 32))
        pool = embedded(np.vstack([flood, others]).astype(np.float32), np.linspace(0.2, 0.9, 115))
        picks = pick(pool, by, 50)
        assert len(picks) == 16
        (flooded,) = [p for p in picks if p.message_id < 200]
        assert flooded.reason["near_duplicates"] == 99

    def test_says_why_without_the_text(self, by: Strategy) -> None:
        """Each reason names strategy, uncertainty and likeliest category in JSON, and has no other words."""
        for picked in pick(groups(4, 30), by, 10):
            reason = json.loads(json.dumps(picked.reason))
            row = picked.message_id - 100
            assert reason["strategy"] == str(by)
            assert reason["uncertainty"] == pytest.approx(groups(4, 30).uncertainty[row], abs=1e-4)
            assert reason["probability"] == pytest.approx(groups(4, 30).probabilities[row].max(), abs=1e-4)
            words = {value for value in reason.values() if isinstance(value, str)}
            assert words == {str(by), Category(reason["category"])}
            assert reason["category"] == CATEGORIES[int(groups(4, 30).probabilities[row].argmax())]


def test_the_most_uncertain_stands_for_its_near_duplicates() -> None:
    """Of near-duplicates the one is picked that the model is least sure about."""
    generator = np.random.default_rng(8)
    double = generator.normal(size=(1, 32)) + generator.normal(0, 0.005, size=(30, 32))
    vectors = np.vstack([double, generator.normal(size=(5, 32))]).astype(np.float32)
    peaks = np.full(35, 0.8)
    peaks[17] = 0.3
    picks = pick(embedded(vectors, peaks), TopN(), 35)
    assert len(picks) == 6
    assert rows(picks)[0] == 17


@pytest.mark.parametrize("name", STRATEGIES)
def test_blocks_make_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of many blocks, with doubles, gives the batch that it gives in one."""
    vectors = scattered(60).vectors
    vectors[10:20] = vectors[30]
    pool = embedded(vectors, np.linspace(0.2, 0.9, 60))
    by = strategy(name, anchors=scattered(20, seed=4).vectors, anchor_labels=np.repeat([0, 1, 2, 3], [2, 6, 6, 6]))
    whole = rows(pick(pool, by, 12))
    monkeypatch.setattr("learner.strategies._BLOCK", 7)
    monkeypatch.setattr("learner.strategies._SPAN", 3)
    assert rows(pick(pool, by, 12)) == whole


def test_the_name_of_a_strategy_finds_it() -> None:
    """Every name that can be set finds the strategy of that name."""
    assert [str(strategy(name)) for name in STRATEGIES] == list(STRATEGIES)


def test_an_unknown_strategy_is_refused() -> None:
    """Another name is refused with those there are."""
    with pytest.raises(BadConfiguration, match=r"nearest.*cluster, random, topn, coreset"):
        strategy("nearest")


class TestCluster:
    """Algorithm 1 of the paper."""

    def test_takes_the_most_uncertain_of_every_cluster(self) -> None:
        """With N = 2m every cluster gives its two most uncertain messages."""
        pool = groups(5, 40)
        picks = pick(pool, Cluster(5), 10)
        for group in range(5):
            members = np.arange(group * 40, group * 40 + 40)
            best = members[np.argsort(-pool.uncertainty[members])][:2]
            assert set(best) <= set(rows(picks))

    def test_gives_the_remainder_to_the_most_uncertain(self) -> None:
        """With N = 2m + 2 the two most uncertain of the third messages come too, from two clusters."""
        pool = groups(5, 40)
        picks = pick(pool, Cluster(5), 12)
        thirds = [
            members[np.argsort(-pool.uncertainty[members])][2]
            for members in (np.arange(group * 40, group * 40 + 40) for group in range(5))
        ]
        expected = sorted(thirds, key=lambda row: -pool.uncertainty[row])[:2]
        assert rows(picks)[10:] == [int(row) for row in expected]

    def test_with_more_clusters_than_room_the_most_uncertain_have_it(self) -> None:
        """With m above N the batch is the N most uncertain of the clusters' best."""
        pool = groups(8, 30)
        best = [int(group * 30 + pool.uncertainty[group * 30 : group * 30 + 30].argmax()) for group in range(8)]
        expected = sorted(best, key=lambda row: -pool.uncertainty[row])[:3]
        assert rows(pick(pool, Cluster(8), 3)) == expected

    def test_small_clusters_leave_their_room_to_others(self) -> None:
        """A cluster of one message gives one, and the batch is full all the same."""
        big = groups(2, 40)
        lonely = np.eye(32, dtype=np.float32)[7:8]
        pool = embedded(np.vstack([big.vectors, lonely]), [*big.probabilities[:, 0], 0.99])
        picks = pick(pool, Cluster(3), 9)
        assert len(picks) == 9
        assert 80 in rows(picks)
        sizes = {p.message_id: p.reason["cluster_size"] for p in picks}
        assert sizes[180] == 1

    def test_a_certain_cluster_is_heard_too(self) -> None:
        """A cluster the model is sure about is in the batch, where the most uncertain alone would pass it over."""
        pool = groups(2, 30)
        sure = embedded(pool.vectors, [*np.linspace(0.2, 0.4, 30), *np.linspace(0.97, 0.99, 30)])
        assert sum(row >= 30 for row in rows(pick(sure, Cluster(2), 10))) == 5
        assert sum(row >= 30 for row in rows(pick(sure, TopN(), 10))) == 0

    def test_a_capped_message_leaves_the_turn_to_its_cluster(self) -> None:
        """Where the cap refuses a cluster's best message its next one comes, however certain, not another cluster's."""
        vectors = groups(2, 10).vectors
        peaks = [0.2, 0.25, *np.linspace(0.3, 0.4, 8), 0.21, *np.linspace(0.9, 0.95, 9)]
        users: list[tuple[str, ...]] = [("loud",) if row in {0, 10} else () for row in range(20)]
        picks = pick(embedded(vectors, peaks, users), Cluster(2), 2, user_cap=1)
        assert rows(picks) == [0, 11]
        assert [p.reason["rank"] for p in picks] == [1, 2]

    def test_says_which_cluster_and_which_rank(self) -> None:
        """The reason gives the cluster, its size and the message's rank in it by uncertainty."""
        for picked in pick(groups(3, 25), Cluster(3), 9):
            assert picked.reason["cluster_size"] == 25
            assert picked.reason["rank"] in {1, 2, 3}
            assert picked.inclusion_probability is None

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 12), st.integers(0, 1000))
    def test_is_as_fair_as_the_clusters_allow(self, messages: int, size: int, clusters: int, seed: int) -> None:
        """The batch is full, and a cluster gives less than another by more than one only when it has no more."""
        pool = scattered(messages, seed=seed)
        picks = pick(pool, Cluster(clusters), size, seed=seed)
        assert len(picks) == min(size, messages)
        given_by = Counter(p.reason["cluster"] for p in picks)
        for picked in picks:
            cluster = picked.reason["cluster"]
            if given_by[cluster] < picked.reason["cluster_size"]:
                assert given_by[cluster] >= max(given_by.values()) - 1


class TestTopN:
    """The most uncertain of all."""

    def test_takes_the_most_uncertain(self) -> None:
        """The batch is the N most uncertain messages, in that order."""
        pool = scattered(100)
        assert rows(pick(pool, TopN(), 8)) == np.argsort(-pool.uncertainty)[:8].tolist()

    def test_its_probability_is_not_pretended(self) -> None:
        """A deterministic choice has no inclusion probability."""
        assert {p.inclusion_probability for p in pick(scattered(50), TopN(), 8)} == {None}


class TestRandom:
    """A uniform draw."""

    def test_is_uniform(self) -> None:
        """Over 2,000 seeds every message is drawn about equally often (chi-square below its 99.9 % point)."""
        pool, drawn = scattered(40), np.zeros(40)
        for seed in range(2000):
            drawn[rows(pick(pool, Random(), 10, seed=seed))] += 1
        # without replacement the counts vary less than a chi-square of 39 degrees of freedom, by (40 - 10) / 39
        statistic = ((drawn - 500) ** 2 / 500).sum() * 39 / 30
        assert statistic < 72.1
        assert statistic > 14.0  # nor is it suspiciously even (0.1 % point)

    def test_its_probability_is_known(self) -> None:
        """A message's probability is n over the pool."""
        assert {p.inclusion_probability for p in pick(scattered(40), Random(), 10)} == {0.25}
        assert {p.inclusion_probability for p in pick(scattered(8), Random(), 10)} == {1.0}

    def test_near_duplicates_share_the_probability_of_one(self) -> None:
        """A member of a group of near-duplicates is drawn as often as its probability says."""
        generator = np.random.default_rng(5)
        others = generator.normal(size=(7, 32))
        double = np.repeat(generator.normal(size=(1, 32)), 4, axis=0)
        pool = embedded(np.vstack([others, double]).astype(np.float32), np.linspace(0.3, 0.9, 11))
        drawn, stated = np.zeros(11), np.zeros(11)
        for seed in range(1600):
            for picked in pick(pool, Random(), 2, seed=seed):
                drawn[picked.message_id - 100] += 1 / 1600
                stated[picked.message_id - 100] = picked.inclusion_probability
        assert stated.tolist() == [2 / 8] * 7 + [2 / 32] * 4
        assert drawn == pytest.approx(stated, abs=0.04)  # 3.7 standard errors of 1,600 draws at 1/4

    def test_its_probability_is_known_under_caps(self) -> None:
        """A user's four messages share a cap of three: each stays with 3/4, and is drawn with 10/39 of that."""
        users: list[tuple[str, ...]] = [("loud",)] * 4 + [()] * 36
        stated = {}
        for seed in range(30):
            for picked in pick(scattered(40, users=users), Random(), 10, user_cap=3, seed=seed):
                stated[picked.message_id - 100] = picked.inclusion_probability
        assert stated == {row: pytest.approx(10 / 39 * (3 / 4 if row < 4 else 1)) for row in range(40)}


class TestCoreset:
    """K-centre greedy."""

    def test_covers_far_points(self) -> None:
        """One message of each of seven far groups is in a batch of seven, however small the group."""
        sizes = [60, 60, 60, 60, 2, 2, 1]
        centres = np.repeat(np.eye(32, dtype=np.float32)[:7], sizes, axis=0)
        vectors = centres + np.random.default_rng(3).normal(0, 0.06, centres.shape).astype(np.float32)
        chosen = rows(pick(embedded(vectors, np.full(len(vectors), 0.5)), Coreset(), 7))
        assert {int(centres[row].argmax()) for row in chosen} == set(range(7))

    def test_passes_over_what_is_labelled(self) -> None:
        """With anchors in two of three groups the first picks lie in the third."""
        pool = groups(3, 20)
        anchors = pool.vectors[[0, 5, 20, 25]]
        picks = pick(pool, Coreset(anchors), 1)
        assert rows(picks)[0] >= 40

    def test_is_within_twice_the_best_radius(self) -> None:
        """The batch covers the pool within twice the radius of any three messages (the greedy bound)."""
        pool = scattered(14, seed=4)
        vectors = unit(pool.vectors)
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        best = min(
            distances[:, [a, b, c]].min(axis=1).max()
            for a in range(14)
            for b in range(a + 1, 14)
            for c in range(b + 1, 14)
        )
        assert distances[:, rows(pick(pool, Coreset(), 3))].min(axis=1).max() <= 2 * best + 1e-5

    def test_says_how_far_each_pick_was(self) -> None:
        """Distances to the nearest centre fall from pick to pick, and the first has none without anchors."""
        picks = pick(scattered(80), Coreset(), 10)
        distances = [p.reason["distance"] for p in picks[1:]]
        assert "distance" not in picks[0].reason
        assert distances == sorted(distances, reverse=True)
        assert {p.inclusion_probability for p in picks} == {None}

    def test_many_anchors_count_all(self) -> None:
        """Anchors beyond one block of comparisons are centres, too."""
        pool = scattered(100)
        anchors = np.vstack([pool.vectors[:99]])
        assert rows(pick(pool, Coreset(anchors), 1)) == [99]
