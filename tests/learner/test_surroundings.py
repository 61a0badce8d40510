"""What stands around a pick: the nearest of the pool and of what is labelled, by id alone, and nothing for audits."""

import json

import numpy as np
import pytest

from guard.store.cycles import Picked
from learner.embed import Embedded
from learner.selection import AUDIT
from learner.surroundings import LABELLED, NEAR, surround


def _pool(count: int = 40) -> Embedded:
    """Return messages 100, 101, … that stand on a quarter circle, one degree and a bit after the other."""
    angles = np.linspace(0, np.pi / 2, count)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    return Embedded(
        ids=np.arange(100, 100 + count),
        users=((),) * count,
        probabilities=np.full((count, 6), 1 / 6, dtype=np.float32),
        vectors=vectors,
    )


def _pick(message_id: int, strategy: str = "stochastic") -> Picked:
    return Picked(message_id, {"strategy": strategy, "cluster": 1}, 0.5)


def test_nearest_first() -> None:
    """A pick gets the pooled messages next to it without itself, and the labelled ones, the nearest first."""
    pool = _pool()
    labelled = np.array([[1.0, 0.02], [0.0, 1.0], [1.0, 0.2], [2.0, 0.2], [1.0, -9.0]], dtype=np.float32)
    (pick,) = surround([_pick(100)], pool, np.array([7, 8, 9, 10, 11]), labelled)
    assert pick.reason["near"] == list(range(101, 101 + NEAR))
    assert [id_ for id_, _ in pick.reason["neighbours"]] == [7, 10, 9]
    assert [cosine for _, cosine in pick.reason["neighbours"]] == [1.0, 1.0, 0.98]
    assert len(pick.reason["neighbours"]) == LABELLED
    assert (pick.reason["cluster"], pick.inclusion_probability) == (1, 0.5)
    assert json.loads(json.dumps(pick.reason)) == pick.reason


def test_audits_are_left_alone() -> None:
    """An audit's reason stays as it is: what stands around would sway a label given blind."""
    picks = [_pick(100, AUDIT), _pick(120)]
    first, second = surround(picks, _pool(), np.array([7]), np.array([[1.0, 1.0]], dtype=np.float32))
    assert first == picks[0]
    assert second.reason["neighbours"] == [[7, 1.0]]
    assert surround(picks[:1], _pool(), np.array([7]), np.ones((1, 2), dtype=np.float32)) == picks[:1]


def test_nothing_labelled_and_nothing_alike() -> None:
    """Before anything is labelled there are no neighbours, and what is far away is none."""
    none = np.empty(0, dtype=np.int64)
    (pick,) = surround([_pick(100)], _pool(1), none, np.empty((0, 2), dtype=np.float32))
    assert (pick.reason["near"], pick.reason["neighbours"]) == ([], [])
    (pick,) = surround([_pick(100)], _pool(2), np.array([7]), np.array([[0.0, 1.0]], dtype=np.float32))
    assert (pick.reason["near"], pick.reason["neighbours"]) == ([], [])


def test_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going through the pool block by block finds the same."""
    pool, none = _pool(), np.empty(0, dtype=np.int64)
    whole = surround([_pick(100), _pick(133)], pool, none, np.empty((0, 2), dtype=np.float32))
    monkeypatch.setattr("learner.surroundings._BLOCK", 7)
    assert surround([_pick(100), _pick(133)], pool, none, np.empty((0, 2), dtype=np.float32)) == whole
