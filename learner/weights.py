"""Batches and their draws come in; for how many messages of the pool each labelled one stands goes out.

The chain of probabilities of a label, and where each link comes from:

* A verdict enters the pool with 1 when uncertain, else with the audit rate: `guard.intake`, kept in `store.entries`. Not
  known, and therefore left out: what a second model disputed. Not correctable: what found the pool full (counted by
  `guard_intake_total`).
* Its message is drawn in a cycle with what the pick says, given that it was in the pool: near-duplicates, caps of users
  and the strategy's own draw are in it (`learner.draws`). None for strategies without chance, and for what fills up.
* It may meet several cycles until it is drawn. That is what this module is about.
* The reviewers answer. Places of audit picks are random, so those left over when the time is up are missing at random;
  a strategy's picks stand best first, so a batch with many of them left over says nothing about the rest.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, groupby
from typing import Final

from guard.store.entries import Batch, Drawn

_ANSWERED: Final = 0.8  # part of a strategy's picks that must be decided; below it what is missing is not like the rest


@dataclass(frozen=True, slots=True)
class _Rates:
    """The part of each stream that one batch asked about, 0 where nothing is known of it."""

    fresh: float
    stale: float
    others: float
    audits_answered: float
    others_answered: float


def stands_for(batches: Sequence[Batch], drawn: Sequence[Drawn]) -> dict[int, float]:
    """Return for how many pooled messages each decided one stands, by its id.

    Each batch j estimates a total over all that it has met: what was decided before counts 1, what it drew itself one
    over its chance. Each of these estimates is unbiased (Raj 1956; active testing's R_LURE, arXiv 2101.11665, is made
    of the same), and so is their mean over the batches that a message could meet, with any shares λ that do not depend
    on the draws. A message that entered before batch s and was drawn by batch j therefore stands for

        λ_j / π_j + Σ_{l > j} λ_l,    λ_l = r_l / Σ_{m ≥ s} r_m,

    where r_l is the part of the message's stream that batch l asked about. Only the chance of the draw that succeeded
    is needed. A batch without known chances has r = 0: whom it took is known later, and counts 1 there.

    Args:
        batches: Oldest first.
        drawn: In the same order.
    """
    places = {batch.cycle_id: place for place, batch in enumerate(batches)}
    opened = [batch.opened_at for batch in batches]
    rates = [_Rates(0, 0, 0, 0, 0)] * len(batches)
    for cycle_id, group in groupby(drawn, key=lambda pick: pick.cycle_id):
        place = places[cycle_id]
        rates[place] = _rates(batches[place], list(group), opened[place - 1] if place else None)
    stale, others = (_tails([getattr(rate, name) for rate in rates]) for name in ("stale", "others"))
    found: dict[int, float] = {}
    for pick in drawn:
        if not pick.decided or pick.message_id in found:
            continue
        place, first = places[pick.cycle_id], bisect_left(opened, pick.first_seen_at)
        if first == len(batches):
            continue
        own, tails = rates[place], stale if pick.audit else others
        head = rates[first].fresh if pick.audit else rates[first].others
        total = head + tails[first + 1]
        if not total:
            continue
        if place < first:  # drawn while its batch was being chosen, too late to be reckoned among those it met
            found[pick.message_id] = 1.0
            continue
        if pick.audit:
            rate, answered = (own.fresh if place == first else own.stale), own.audits_answered
        else:
            rate, answered = own.others, own.others_answered
        mine = rate / (pick.chance * answered) if pick.chance and rate else 0.0
        found[pick.message_id] = (mine + tails[place + 1]) / total
    return found


def _rates(batch: Batch, picks: Sequence[Drawn], before: datetime | None) -> _Rates:
    audits = [pick for pick in picks if pick.audit]
    chosen = [pick for pick in picks if not pick.audit and pick.chance is not None]
    fresh = [before is None or pick.first_seen_at > before for pick in audits if pick.decided]
    answered = _share(sum(pick.decided for pick in chosen), len(chosen))
    return _Rates(
        fresh=_share(sum(fresh), batch.fresh),
        stale=_share(len(fresh) - sum(fresh), batch.stale),
        others=_share(sum(pick.decided for pick in chosen), batch.others) if answered >= _ANSWERED else 0.0,
        audits_answered=_share(sum(pick.decided for pick in audits), len(audits)),
        others_answered=answered,
    )


def _share(part: int, whole: int | None) -> float:
    return part / whole if whole else 0.0


def _tails(rates: Sequence[float]) -> list[float]:
    """Return the sums of the rates from each place on, and 0 for the place behind the last."""
    return [*reversed(list(accumulate(reversed(rates)))), 0.0]
