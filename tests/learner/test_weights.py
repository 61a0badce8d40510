"""How many messages a labelled one stands for: known cases by hand, and on average every message of the pool once."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from guard.store.entries import Batch, Drawn
from learner.draws import inclusion, systematic
from learner.weights import stands_for
from tests.conftest import START


def day(number: float) -> datetime:
    """Return a moment so many days after the start."""
    return START + timedelta(days=number)


def batch(number: int, *, fresh: int | None = 10, stale: int | None = 0, others: int | None = 10) -> Batch:
    """Return the batch that opened at the end of a day."""
    return Batch(number, day(number), fresh, stale, others)


def pick(
    cycle: int, message: int, *, seen: float = 0.5, audit: bool = True, chance: float | None = 0.5, decided: bool = True
) -> Drawn:
    """Return a message drawn in a cycle."""
    return Drawn(cycle, message, day(seen), audit, chance, decided)


def test_one_batch() -> None:
    """Of one batch a message stands for one over its chance."""
    assert stands_for([batch(1)], [pick(1, 7, chance=0.25), pick(1, 8, audit=False, chance=0.5)]) == {7: 4, 8: 2}


def test_what_is_left_over_weighs_on_the_rest() -> None:
    """Audit picks that nobody came to are missing at random: those decided stand for them, too."""
    drawn = [pick(1, 1), pick(1, 2, decided=False)]
    assert stands_for([batch(1)], drawn) == {1: 4}


def test_a_strategy_s_batch_that_was_broken_off_has_no_chances() -> None:
    """Its picks stand best first, so with half of them open those decided say nothing of the rest."""
    assert stands_for([batch(1)], [pick(1, 1, audit=False), pick(1, 2, audit=False, decided=False)]) == {}


def test_a_message_met_by_several_batches_is_shared_among_them() -> None:
    """Of two batches that ask about a tenth and three tenths the shares are 1/4 and 3/4; what was drawn counts 1 later."""
    drawn = [pick(1, 1, audit=False, chance=0.5), *(pick(2, n, audit=False, chance=0.25) for n in (2, 3, 4))]
    found = stands_for([batch(1), batch(2)], drawn)
    assert found == {1: pytest.approx(0.25 / 0.5 + 0.75), 2: pytest.approx(3), 3: pytest.approx(3), 4: pytest.approx(3)}


def test_only_batches_after_it_came_count() -> None:
    """A message that came between two batches is the second's alone."""
    drawn = [pick(1, 1, audit=False), pick(2, 2, seen=1.5, audit=False, chance=0.25)]
    assert stands_for([batch(1), batch(2)], drawn)[2] == 4


def test_unknown_chances_count_once_known() -> None:
    """What a batch took without a chance counts 1 for each later batch, and nothing where there is none."""
    drawn = [pick(1, 1, audit=False, chance=None), pick(2, 2, audit=False, chance=0.5)]
    assert stands_for([batch(1), batch(2)], drawn) == {1: 1, 2: 2}
    assert stands_for([batch(1)], drawn[:1]) == {}


def test_batches_of_unknown_pools_are_passed_over() -> None:
    """A batch of before the pools were counted estimates nothing; what it labelled counts 1 afterwards."""
    drawn = [pick(1, 1, audit=False), pick(2, 2, audit=False, chance=0.2)]
    assert stands_for([batch(1, fresh=None, stale=None, others=None), batch(2)], drawn) == {1: 1, 2: 5}


def test_drawn_while_the_batch_was_being_chosen() -> None:
    """A message that came after its batch was opened belongs to the next one, and counts 1 there."""
    drawn = [pick(1, 1, seen=1.2), pick(2, 2, seen=1.5)]
    assert stands_for([batch(1), batch(2)], drawn) == {1: 1, 2: 2}
    assert stands_for([batch(1)], drawn[:1]) == {}


def test_asked_again() -> None:
    """The first decision counts; a pick that went back to the pool undecided does not."""
    drawn = [pick(1, 1, decided=False), pick(1, 3), pick(2, 1, chance=0.5), pick(2, 3, audit=False, chance=None)]
    found = stands_for([batch(1, fresh=4), batch(2, stale=4)], drawn)
    assert set(found) == {1, 3}
    assert found[3] == pytest.approx(0.5 * 1 / (0.5 * 0.5) + 0.5)


@pytest.mark.parametrize("audit", [True, False])
def test_on_average_every_message_counts_once(*, audit: bool) -> None:
    """Whenever it came and however likely it was to be drawn, over 3000 turns of four batches a message weighs 1."""
    generator = np.random.default_rng(1)
    seen = np.repeat([0.5, 1.5, 2.5, 3.5], 6)
    pull = np.tile([0.05, 0.1, 0.2, 0.3, 0.4, 0.8], 4)
    found = np.zeros((3000, 24))
    for turn in found:
        waiting, batches, drawn = np.ones(24, dtype=bool), [], []
        for number in (1, 2, 3, 4):
            here = waiting & (seen < number)
            strata = [here & (seen > number - 1), here & (seen < number - 1)] if audit else [here]
            for rows, size in zip(map(np.flatnonzero, strata), (4, 1) if audit else (3,), strict=True):
                if len(rows):
                    chances = inclusion(np.ones(len(rows)) if audit else pull[rows], min(size, len(rows)))
                    taken = systematic(chances, generator)
                    waiting[rows[taken]] = False
                    drawn += [
                        pick(number, int(rows[t]), seen=seen[rows[t]], audit=audit, chance=chances[t]) for t in taken
                    ]
            fresh, stale = (int(stratum.sum()) for stratum in strata) if audit else (0, 0)
            batches.append(batch(number, fresh=fresh, stale=stale, others=int(here.sum())))
        for row, weight in stands_for(batches, drawn).items():
            turn[row] = weight
    errors = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - 1) < 4 * errors + 1e-9).all()
