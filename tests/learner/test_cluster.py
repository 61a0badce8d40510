"""Near-duplicates and clusters."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import cluster
from learner.cluster import SAME, UnitRows, cluster_count, leaders, partition, unit

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


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few hundred rows cut into leaves, as a million are."""
    monkeypatch.setattr(cluster, "_EXACT", 0)
    monkeypatch.setattr(cluster, "_LEAF", 40)


def crowd(count: int, *, seed: int = 5) -> Floats:
    """Return messages that are apart, each followed by a double at a cosine of some 0.99, in no order."""
    generator = np.random.default_rng(seed)
    one = generator.normal(size=(count, 64)) * np.arange(1, 65) ** -0.5
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    two = one + generator.normal(size=one.shape) * (0.14 / np.sqrt(64))
    return generator.permutation(unit(np.concatenate([one, two]).astype(np.float32)))


@pytest.mark.usefixtures("large")
def test_large_pools_lose_few_near_duplicates() -> None:
    """Cut into some thirty leaves, nineteen in twenty pairs find each other, and nobody follows whom it should not."""
    vectors = crowd(400)
    leader = leaders(vectors, np.arange(800))
    cosines = (vectors * vectors[leader]).sum(axis=1)
    assert (leader[leader] == leader).all()
    assert cosines.min() > SAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_EXACT", 800)
        exact = leaders(vectors, np.arange(800))
    assert (leader <= np.arange(800)).all()  # the earlier ones lead
    assert len(np.unique(exact)) <= len(np.unique(leader)) <= len(np.unique(exact)) + 20


@pytest.mark.usefixtures("large")
def test_large_pools_collapse_alike_every_time() -> None:
    """The same rows in the same order have the same leaders."""
    vectors, order = crowd(300), np.random.default_rng(6).permutation(600)
    assert (leaders(vectors, order) == leaders(vectors, order)).all()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_a_flood_has_one_leader(spread: float) -> None:
    """A text sent again and again, as it is or with a letter changed, fills leaf after leaf and still stands as one."""
    flood = blobs(1, 900, spread=spread, width=64)
    vectors = np.concatenate([flood, crowd(50)])
    leader = leaders(vectors, np.arange(1000))
    assert set(leader[:900]) == {0}
    assert leader[900:].min() >= 900


@pytest.mark.usefixtures("large")
def test_who_loses_a_leader_follows_the_next_one_or_leads() -> None:
    """In a chain of near-duplicates, whose ends are not alike, all follow somebody who is near and leads."""
    angles = np.linspace(0, 3, 700)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    leader = leaders(vectors, np.random.default_rng(7).permutation(700))
    assert (leader[leader] == leader).all()
    assert (vectors * vectors[leader]).sum(axis=1).min() > SAME


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("same_place", [False, True])
def test_no_leaf_is_too_large(same_place: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Leaves hold all rows once, in their order, and never more than their limit, even where all rows are one."""
    axes = np.random.default_rng(8).normal(size=(1000, 4)).astype(np.float32) * (not same_place)
    rows = np.random.default_rng(9).permutation(1000)
    leaves = list(cluster._leaves(axes, rows, seed=0))
    assert max(len(leaf) for leaf in leaves) <= 40
    assert sorted(np.concatenate(leaves)) == list(range(1000))
    rank = np.argsort(rows)
    assert all((np.diff(rank[leaf]) > 0).all() for leaf in leaves)


def test_half_precision_and_any_length_collapse_alike() -> None:
    """Rows of float16 read as `UnitRows`, whatever their length, have the leaders that float32 rows of length 1 have."""
    vectors = blobs(5, 40, spread=0.01)
    longer = (vectors * np.linspace(1, 9, 200, dtype=np.float32)[:, None]).astype(np.float16)
    expected = leaders(vectors, np.arange(200))
    assert leaders(UnitRows(longer, np.arange(200)), np.arange(200)).tolist() == expected.tolist()
    assert leaders(vectors.astype(np.float16), np.arange(200)).tolist() == expected.tolist()


def test_unit_rows_read_like_an_array() -> None:
    """Slices and arrays of places give float32 rows of length 1, in the order given, and leave what they read alone."""
    vectors = np.array([[3, 4], [0, 2], [5, 0]], dtype=np.float16)
    rows = UnitRows(vectors, np.array([2, 0]))
    assert len(rows) == 2
    assert rows[:].tolist() == [[1, 0], pytest.approx([0.6, 0.8])]
    assert rows[1:2].dtype == np.float32
    assert rows[np.array([1, 0])].tolist() == [pytest.approx([0.6, 0.8]), [1, 0]]
    assert vectors[0].tolist() == [3, 4]


def test_clusters_from_a_sample_hold_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Centres from a sample, rows labelled block by block: the groups there are come out whole, also in half precision."""
    monkeypatch.setattr(cluster, "_SAMPLE", 120)
    monkeypatch.setattr(cluster, "_READ", 70)
    vectors = blobs(6, 50, spread=0.05).astype(np.float16)
    labels = partition(vectors, 6, seed=3).reshape(6, 50)
    assert all(len(set(group)) == 1 for group in labels)
    assert len(set(labels[:, 0])) == 6


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
