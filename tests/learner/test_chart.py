"""The map of a selection."""

import json

import numpy as np
import pytest

from learner.chart import chart
from learner.selection import STRATEGIES, select, strategy
from tests.learner.test_selection import embedded, groups


def test_places_keep_what_is_near() -> None:
    """Three groups of vectors lie apart on the map, with size, mean uncertainty and the picks of each beside it."""
    generator = np.random.default_rng(1)
    centres = np.eye(8, dtype=np.float32)[:3]
    labels = np.repeat(np.arange(3), (30, 20, 10))
    vectors = centres[labels] + generator.normal(0, 0.02, (60, 8)).astype(np.float32)
    uncertainty = (0.1 * (1 + labels)).astype(np.float32)
    found = chart(vectors, labels, uncertainty, [(centres[2], 2, False), (centres[0], None, True)])
    assert [(c["cluster"], c["size"], c["uncertainty"]) for c in found["clusters"]] == [
        (0, 30, 0.1),
        (1, 20, 0.2),
        (2, 10, 0.3),
    ]
    assert found["explained"] > 0.95
    places = np.array([[c["x"], c["y"]] for c in found["clusters"]])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert apart[np.triu_indices(3, 1)] == pytest.approx(np.sqrt(2), abs=0.1)
    sought, audited = found["picks"]
    assert (sought["cluster"], sought["audit"], audited["cluster"], audited["audit"]) == (2, False, None, True)
    assert [sought["x"], sought["y"]] == pytest.approx(places[2].tolist(), abs=0.05)
    assert [audited["x"], audited["y"]] == pytest.approx(places[0].tolist(), abs=0.05)
    assert found == chart(vectors, labels, uncertainty, [(centres[0], None, True), (centres[2], 2, False)])
    json.dumps(found)


def test_messages_all_alike() -> None:
    """Where nothing sets messages apart, all lie in the middle."""
    found = chart(np.eye(4, dtype=np.float32)[:1], np.array([0]), np.array([0.5], dtype=np.float32), [])
    assert found["explained"] == 0
    assert (found["clusters"][0]["x"], found["clusters"][0]["y"]) == (0, 0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_gives_one(name: str) -> None:
    """The map has each pick of the batch, and each cluster that a pick is of; the batch is the same without it."""
    pool = groups(6, 20)
    pool = embedded(pool.vectors, pool.probabilities[:, 0])
    layout: dict[str, object] = {}
    audits = {100: 0.1, 101: 0.1}
    arguments = {"size": 12, "user_cap": 3, "seed": 7, "audits": audits, "audit_share": 0.2}
    picks = select(pool, strategy(name), **arguments, layout=layout)  # type: ignore[arg-type]
    assert picks == select(pool, strategy(name), **arguments)  # type: ignore[arg-type]
    found = json.loads(json.dumps(layout))
    assert len(found["picks"]) == len(picks)
    assert sum(pick["audit"] for pick in found["picks"]) == 2
    sizes = {cluster["cluster"]: cluster["size"] for cluster in found["clusters"]}
    assert {pick["cluster"] for pick in found["picks"]} - {None} <= sizes.keys()
    assert sum(sizes.values()) == (118 if sizes else 0)
    for pick in picks:
        if "cluster_size" in pick.reason:
            assert sizes[pick.reason["cluster"]] == pick.reason["cluster_size"]
