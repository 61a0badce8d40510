"""Near-duplicates and clusters."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import cluster
from learner.cluster import SAME, cluster_count, leaders, partition, unit

Floats = npt.NDArray[np.float32]


def blobs(count: int, size: int, *, spread: float, seed: int = 0, width: int = 16) -> Floats:
    """Return `count` groups of `size` unit vectors, the groups far apart, their members `spread` apart."""
    generator = np.random.default_rng(seed)
    centres = np.eye(width, dtype=np.float32)[:count]
    noise = generator.normal(0, spread, (count, size, width)).astype(np.float32)
    return unit((centres[:, None, :] + noise).reshape(-1, width))


@pytest.mark.parametrize(
    ("pool", "batch", "expected"),
    [(10, 20, 6), (100, 20, 7), (800, 20, 20), (100_000, 20, 20), (5_000, 500, 50), (100_000, 500, 50), (100, 3, 3)],
)
def test_the_default_number_of_clusters(pool: int, batch: int, expected: int) -> None:
    """Default m is min(N, max(6, sqrt(pool / 2)), 50)."""
    assert cluster_count(pool, batch) == expected


def test_unit_vectors_have_length_one() -> None:
    """Vectors come out with length 1, and a zero vector stays finite."""
    vectors = unit(np.array([[3, 4], [0, 0], [0, -2]], dtype=np.float32))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1])


def test_near_duplicates_follow_the_first_of_them_in_order() -> None:
    """Each group of near-duplicates has one leader, the one that comes first in the order given."""
    vectors = blobs(5, 40, spread=0.01)
    order = np.random.default_rng(1).permutation(len(vectors))
    leader = leaders(vectors, order)
    assert len(np.unique(leader)) == 5
    for group in range(5):
        members = range(group * 40, group * 40 + 40)
        assert set(leader[list(members)]) == {next(row for row in order if row in members)}


def test_different_messages_lead_themselves() -> None:
    """Vectors with cosines below the threshold are all their own leaders."""
    vectors = unit(np.random.default_rng(2).normal(size=(700, 64)).astype(np.float32))
    assert leaders(vectors, np.arange(700)).tolist() == list(range(700))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 0.99), st.integers(1, 60))
def test_blocks_do_not_change_who_leads(seed: int, same: float, block: int) -> None:
    """In blocks of any size no two leaders are the same, and every follower is the same as its leader."""
    generator = np.random.default_rng(seed)
    vectors = unit(generator.normal(size=(120, 3)).astype(np.float32))
    order = generator.permutation(120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_BLOCK", block)
        patch.setattr(cluster, "_SPAN", 7)
        leader = leaders(vectors, order, same=same)
    cosines = vectors @ vectors.T
    chiefs = np.unique(leader)
    assert (leader[chiefs] == chiefs).all()
    among = cosines[np.ix_(chiefs, chiefs)] - 2 * np.eye(len(chiefs), dtype=np.float32)
    assert among.max(initial=-1) <= same + 1e-5
    followers = np.flatnonzero(leader != np.arange(120))
    assert (cosines[followers, leader[followers]] > same - 1e-5).all()


def test_the_threshold_is_where_it_is_said_to_be() -> None:
    """A cosine a little below `SAME` separates two messages, a little above joins them."""
    for cosine, expected in ((SAME - 0.005, 2), (SAME + 0.005, 1)):
        pair = np.array([[1, 0], [cosine, np.sqrt(1 - cosine**2)]], dtype=np.float32)
        assert len(np.unique(leaders(pair, np.arange(2)))) == expected


def test_no_messages_have_no_leaders() -> None:
    """An empty pool collapses to nothing."""
    assert leaders(np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.intp)).tolist() == []


def test_clusters_follow_the_groups_there_are() -> None:
    """Messages of one group share a cluster, and those of different groups do not."""
    labels = partition(blobs(6, 50, spread=0.05), 6, seed=3).reshape(6, 50)
    assert all(len(set(group)) == 1 for group in labels)
    assert len(set(labels[:, 0])) == 6


def test_clusters_are_the_same_for_the_same_seed() -> None:
    """One seed gives one partition, also a seed beyond 32 bits."""
    vectors = unit(np.random.default_rng(4).normal(size=(300, 8)).astype(np.float32))
    first, second = (partition(vectors, 9, seed=2**40 + 5) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_one_cluster_holds_everything() -> None:
    """With m = 1 all messages share the cluster 0."""
    assert set(partition(blobs(3, 5, spread=0.1), 1, seed=0)) == {0}
