"""What was reported as wrong has its bounded share of a batch, whatever the strategy fills the rest with."""

from collections import Counter

import pytest

from guard.store.cycles import Picked
from guard.store.reports import Reported
from guard.store.states import ReportSource
from guard.taxonomy import Category
from learner.selection import AUDIT, FEEDBACK, STRATEGIES, Random, Strategy, TopN, select, strategy
from tests.learner.test_selection import rows, scattered

EVERY: list[Strategy] = [strategy(name) for name in STRATEGIES]


def _reports(places: range, probability: float | None = None) -> dict[int, Reported]:
    said = Counter[Category | None]({Category.LEGAL_ADVICE: 2, None: 1})
    by = Counter({ReportSource.PERSON: 3})
    return {100 + row: Reported(probability, said, by) for row in places}


def _told(picks: list[Picked]) -> list[Picked]:
    return [pick for pick in picks if pick.reason["strategy"] == FEEDBACK]


@pytest.mark.parametrize("by", EVERY, ids=str)
def test_its_share_and_no_more(by: Strategy) -> None:
    """Of 20 picks two are drawn among 150 reported messages, before the others, and the strategy sees none of them."""
    picks = select(scattered(200), by, size=20, user_cap=1000, seed=7, reports=_reports(range(150)))
    assert [pick.reason["strategy"] for pick in picks] == [FEEDBACK] * 2 + [str(by)] * 18
    assert max(rows(_told(picks))) < 150 <= min(rows(picks[2:]))


def test_probability_only_of_what_was_sampled() -> None:
    """An uncertain message that was reported has the probability of this draw; what a report brought in has none."""
    for known, expected in ((None, None), (1.0, pytest.approx(2 / 50))):
        picks = select(scattered(200), Random(), size=20, user_cap=1000, seed=7, reports=_reports(range(50), known))
        assert [pick.inclusion_probability for pick in _told(picks)] == [expected] * 2
        assert all(pick.inclusion_probability == pytest.approx(18 / 150) for pick in picks[2:])


def test_reason() -> None:
    """A reviewer is told what the reports said and who they came from, beside what is told of every pick."""
    (pick,) = _told(select(scattered(40), TopN(), size=5, user_cap=1000, seed=7, reports=_reports(range(9))))
    assert pick.reason["should_be"] == {"legal-advice": 2, "unknown": 1}
    assert pick.reason["reported_by"] == {"person": 3}
    assert {"uncertainty", "category", "probability"} <= pick.reason.keys()


def test_audit_comes_first() -> None:
    """An audit arrival that was reported stays with the audit's draw, and a batch is never larger than it should be."""
    audits = {100 + row: 0.01 for row in range(30)}
    picks = select(
        scattered(40),
        TopN(),
        size=10,
        user_cap=1000,
        seed=7,
        audits=audits,
        audit_share=0.2,
        reports=_reports(range(20, 40)),
        feedback_share=0.5,
    )
    kinds = Counter(pick.reason["strategy"] for pick in picks)
    assert kinds == {AUDIT: 5, FEEDBACK: 5}  # nothing is left for the strategy, and the reports have their share
    picks = select(
        scattered(40),
        TopN(),
        size=10,
        user_cap=1000,
        seed=7,
        audits={100 + row: 0.01 for row in range(10)},
        audit_share=0.2,
        reports=_reports(range(5, 20)),
        feedback_share=0.5,
    )
    assert Counter(pick.reason["strategy"] for pick in picks) == {AUDIT: 2, FEEDBACK: 5, "topn": 3}
    assert all(10 <= row < 20 for row in rows(_told(picks)))


def test_nobody_fills_it_alone() -> None:
    """A user's messages are capped among the reported ones as among all others."""
    picks = select(
        scattered(60, users=[("ada",)] * 60), TopN(), size=20, user_cap=1, seed=7, reports=_reports(range(30))
    )
    assert len(picks) == 1


def test_imported_messages_have_no_probability() -> None:
    """What was not drawn from the traffic may be picked, but no estimate can rest on it."""
    picks = select(scattered(40), Random(), size=20, user_cap=1000, seed=7, unsampled={100 + row for row in range(20)})
    assert {pick.inclusion_probability is None for pick in picks if pick.message_id < 120} == {True}
    assert {pick.inclusion_probability for pick in picks if pick.message_id >= 120} == {0.5}
