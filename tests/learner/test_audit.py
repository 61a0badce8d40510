"""The audit's share of a batch, whatever the strategy fills the rest with."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.settings import GuardSettings
from guard.store import open_store
from guard.store.cycles import Picked
from guard.store.rows import Pick
from learner.cluster import unit
from learner.embed import Embedded
from learner.selection import AUDIT, STRATEGIES, Cluster, Coreset, Strategy, TopN, select, strategy
from tests.conftest import Clock
from tests.guard.store.scenes import arrival
from tests.learner.stages import build, texts, walk
from tests.learner.test_selection import embedded, rows, scattered

EVERY: list[Strategy] = [strategy(name) for name in STRATEGIES]
RATE = 0.01  # probability of a message being in the pool by the audit stream


def batch(pool: Embedded, by: Strategy, audits: range, **changes: Any) -> tuple[list[Picked], list[Picked]]:
    """Select 20 and return the audit's picks and the strategy's; the rows named came by the audit stream."""
    given_settings = {"size": 20, "user_cap": 1000, "seed": 7, "audit_share": 0.2, **changes}
    picks = select(pool, by, audits={100 + row: RATE for row in audits}, **given_settings)
    return [p for p in picks if p.reason["strategy"] == AUDIT], [p for p in picks if p.reason["strategy"] != AUDIT]


@pytest.mark.parametrize("by", EVERY, ids=str)
class TestEveryStrategy:
    """What holds whatever the strategy."""

    def test_a_fifth_is_the_audit_s(self, by: Strategy) -> None:
        """Of 20 picks four are drawn among the audit arrivals and sixteen by the strategy among the others."""
        drawn, chosen = batch(scattered(200), by, range(50))
        assert len(drawn) == 4
        assert len(chosen) == 16
        assert max(rows(drawn)) < 50 <= min(rows(chosen))
        assert {p.reason["strategy"] for p in chosen} == {str(by)}

    def test_the_probability_is_known(self, by: Strategy) -> None:
        """Each audit pick has the probability of its being in the pool times that of its draw."""
        drawn, _ = batch(scattered(200), by, range(50))
        assert [p.inclusion_probability for p in drawn] == [pytest.approx(RATE * 4 / 50)] * 4

    def test_room_goes_both_ways(self, by: Strategy) -> None:
        """Where either kind is scarce the other fills the batch; the audit's probability follows."""
        drawn, chosen = batch(scattered(200), by, range(2))
        assert (len(drawn), len(chosen)) == (2, 18)
        assert [p.inclusion_probability for p in drawn] == [RATE] * 2
        drawn, chosen = batch(scattered(200), by, range(195))
        assert (len(drawn), len(chosen)) == (15, 5)
        assert [p.inclusion_probability for p in drawn] == [pytest.approx(RATE * 15 / 195)] * 15

    @settings(max_examples=15, deadline=None)
    @given(
        seed=st.integers(0, 999),
        size=st.integers(1, 30),
        cap=st.integers(1, 4),
        count=st.integers(1, 60),
        share=st.floats(0, 1),
    )
    def test_caps_and_collapse_hold(
        self, by: Strategy, seed: int, size: int, cap: int, count: int, share: float
    ) -> None:
        """No user exceeds the cap, no two near-duplicates meet and no message comes twice, audit picks included."""
        generator = np.random.default_rng(seed)
        kinds = generator.integers(0, 25, count)
        vectors = generator.normal(size=(25, 32))[kinds] + generator.normal(0, 0.01, (count, 32))
        users = [tuple(f"{u}" for u in set(generator.integers(0, 8, generator.integers(0, 3)))) for _ in range(count)]
        pool = embedded(vectors.astype(np.float32), generator.uniform(0.2, 0.99, count), users)
        audits = {100 + int(row): RATE for row in np.flatnonzero(generator.random(count) < 0.3)}
        picks = select(pool, by, size=size, user_cap=cap, seed=seed, audits=audits, audit_share=share)
        taken = rows(picks)
        assert len(taken) == len(set(taken)) <= size
        assert max(Counter(kinds[row] for row in taken).values(), default=0) <= 1
        assert max(Counter(user for row in taken for user in users[row]).values(), default=0) <= cap
        assert all(p.inclusion_probability is not None for p in picks if p.reason["strategy"] == AUDIT)
        assert {p.message_id for p in picks if p.reason["strategy"] == AUDIT} <= set(audits)
        assert not {p.message_id for p in picks if p.reason["strategy"] != AUDIT} & set(audits)


def test_the_draw_weighs_back_to_the_traffic() -> None:
    """Doubles and a loud user change no total: weighed by what is stated every audit arrival counts 1 / rate on average."""
    vectors = scattered(24).vectors
    vectors[:6] = vectors[0]  # six doubles, one of them the loud user's
    users: list[tuple[str, ...]] = [("loud",) if 5 <= row < 14 else () for row in range(24)]
    pool, counts = embedded(vectors, np.linspace(0.3, 0.9, 24), users), np.zeros((3000, 20))
    for seed in range(3000):
        drawn, _ = batch(pool, TopN(), range(20), user_cap=2, seed=seed, size=10, audit_share=0.5)
        for picked in drawn:
            counts[seed, picked.message_id - 100] = RATE / (picked.inclusion_probability or np.nan)
    errors = counts.std(axis=0) / np.sqrt(3000)
    assert (np.abs(counts.mean(axis=0) - 1) < 4 * errors).all()


def test_the_model_s_certainty_does_not_matter() -> None:
    """Over 400 seeds each of 20 audit arrivals is drawn about as often, the most uncertain no more than the others."""
    pool, drawn = embedded(scattered(60).vectors, np.linspace(0.2, 0.99, 60)), np.zeros(20)
    for seed in range(400):
        drawn[rows(batch(pool, Cluster(), range(20), seed=seed)[0])] += 1
    assert np.abs(drawn - 80).max() < 4 * np.sqrt(400 * 0.2 * 0.8)


def test_the_strategy_passes_over_the_doubles_of_what_was_drawn() -> None:
    """A message like one that the audit drew is not asked a second time."""
    vectors = scattered(40).vectors
    vectors[30] = vectors[0]
    drawn, chosen = batch(embedded(vectors, np.full(40, 0.5)), TopN(), range(1), size=40)
    assert rows(drawn) == [0]
    assert drawn[0].reason["near_duplicates"] == 1
    assert sorted(rows(chosen)) == [row for row in range(1, 40) if row != 30]


def test_each_candidate_keeps_its_own_vector() -> None:
    """Where audit arrivals and doubles are left out the distance in a reason is that of the message picked."""
    vectors, anchors = scattered(60).vectors, scattered(5, seed=4).vectors
    vectors[25:30] = vectors[20]
    _, chosen = batch(embedded(vectors, np.full(60, 0.5)), Coreset(anchors), range(20), audit_share=0.0, size=1)
    cosine = (unit(vectors[rows(chosen)]) @ unit(anchors).T).max()
    assert chosen[0].reason["distance"] == pytest.approx(np.sqrt(2 - 2 * cosine), abs=1e-3)


def test_audit_picks_stand_anywhere_in_the_batch() -> None:
    """Their places tell nothing, so that they are blind and a batch cut short has its part of them."""
    pool, places = scattered(60), Counter[int]()
    for seed in range(100):
        picks = select(
            pool, TopN(), size=5, user_cap=9, seed=seed, audits=dict.fromkeys(range(100, 120), RATE), audit_share=0.2
        )
        places.update(place for place, pick in enumerate(picks) if pick.reason["strategy"] == AUDIT)
        order = [pick.reason["rank"] for pick in picks if pick.reason["strategy"] != AUDIT]
        assert order == sorted(order)
    assert min(places[place] for place in range(5)) > 5


def test_without_a_share_audit_arrivals_wait() -> None:
    """A share of 0 asks about none of them while there is anything else."""
    drawn, chosen = batch(scattered(60), TopN(), range(20), audit_share=0.0)
    assert drawn == []
    assert len(chosen) == 20


@pytest.mark.parametrize("by", EVERY, ids=str)
def test_half_precision_gives_the_same_kind_of_batch(by: Strategy) -> None:
    """Vectors of float16 that are not of length 1 serve, are left as they were, and give most of the same picks."""
    pool = scattered(300)
    half = Embedded(pool.ids, pool.users, pool.probabilities, pool.vectors.astype(np.float16))
    before = half.vectors.copy()
    full, mine = (set(rows(select(p, by, size=20, user_cap=9, seed=3))) for p in (pool, half))
    assert (half.vectors == before).all()
    assert len(mine) == 20
    assert len(full & mine) >= 10


def test_fresh_arrivals_come_first() -> None:
    """Among those that no draw was offered yet the draw is even; older ones have what room is left, and its chance."""
    pool = scattered(200)
    fresh = frozenset(range(100, 110))
    drawn, _ = batch(pool, TopN(), range(50), fresh=fresh)
    assert max(rows(drawn)) < 10
    assert [p.inclusion_probability for p in drawn] == [pytest.approx(RATE * 4 / 10)] * 4
    drawn, chosen = batch(pool, TopN(), range(50), fresh=frozenset({100, 101}))
    assert {0, 1} < set(rows(drawn))
    assert (len(drawn), len(chosen)) == (4, 16)
    chances = sorted(p.inclusion_probability or 0 for p in drawn)
    assert chances == [pytest.approx(RATE * 2 / 48)] * 2 + [RATE] * 2


def test_older_doubles_of_fresh_arrivals_are_passed_over() -> None:
    """What is like a message that the fresh draw took is not asked a second time."""
    vectors = scattered(40).vectors
    vectors[1] = vectors[0]
    drawn, _ = batch(embedded(vectors, np.full(40, 0.5)), TopN(), range(3), fresh=frozenset({100}), audit_share=1.0)
    assert sorted(rows(drawn)) == [0, 2]


async def test_in_service_audit_arrivals_have_their_share(guard_settings: GuardSettings, clock: Clock) -> None:
    """Of five picks one is drawn among the audit arrivals, shown blind, and its probability is the whole of it."""
    apart = [" ".join(mix) for mix in combinations(texts(6), 4)][:3]
    arrivals = [replace(arrival(text, reason="audit", probability=0.01), seen_at=clock()) for text in apart]
    async with open_store(guard_settings, clock=clock, create_keyring=True) as store:
        world = await build(store, clock, guard_settings)
        await store.pool.add(arrivals, max_messages=1000)
        await walk(world.loop(batch_size=5))
        assert (await world.cycle()).figures["selection"]["audits"] == 1
        async with store.database.read() as session:
            picks = (await session.scalars(sa.select(Pick))).all()
        assert [p.inclusion_probability for p in picks if p.reason["strategy"] == "audit"] == [pytest.approx(0.01 / 3)]
        seen = []
        while (held := await store.review.next("ann")) is not None:
            seen.append(held.audit)
            await store.review.label(held.pick_id, reviewer="ann", category=None)
        assert sorted(seen) == [False] * 4 + [True]
