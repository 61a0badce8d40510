"""What people's opinions make of picks: read from the labels that stand, written into the picks and their messages."""

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import ColumnElement, CompoundSelect, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.store.agreement import Outcome, decided, settle
from guard.store.pool import AUDIT, move
from guard.store.rows import Cycle, Key, Label, Message, Pick, PickMark, Reviewer
from guard.store.states import CycleState, Mark, MessageState, PickState, Role
from guard.taxonomy import GRAVE, Category

UNSETTLED: Final = (PickState.WAITING, PickState.CONTESTED)
OPINION: Final = Label.undone_at.is_(None) & ~Label.adjudicates  # that stands
_OPEN: Final = {
    PickState.WAITING: MessageState.PICKED,
    PickState.CONTESTED: MessageState.PICKED,
    PickState.LABELLED: MessageState.LABELLED,
    PickState.UNCLEAR: MessageState.UNCLEAR,
}
_CLOSED: Final = {
    **_OPEN,
    PickState.CONTESTED: MessageState.CONTESTED,
    PickState.RETURNED: MessageState.POOLED,
}


class Opinions:
    """Settles picks.

    Args:
        overlap: How many people are asked where more than one should be.
    """

    def __init__(self, overlap: int) -> None:
        self._overlap = overlap

    async def settle(self, session: AsyncSession, picks: Sequence[Pick], *, closed: bool = False) -> None:
        """Bring picks and their messages to what the standing labels make of them, within the caller's transaction.

        Args:
            closed: Whether nobody is asked any more: what there is counts, and what has nothing goes back to the pool.
        """
        await session.flush()
        outcomes = await self.outcomes(session, picks, closed=closed)
        messages: dict[MessageState, list[int]] = {}
        for pick in picks:
            outcome = outcomes[pick.id]
            pick.state, pick.category, pick.wanted = outcome.state, outcome.category, outcome.wanted
            messages.setdefault((_CLOSED if closed else _OPEN)[pick.state], []).append(pick.message_id)
        for state, ids in messages.items():
            await move(session, ids, state)

    async def settle_open(self, session: AsyncSession) -> None:
        """Settle what is open, within the caller's transaction: somebody who was asked is no longer there."""
        waiting = select(Pick).join(Cycle, Cycle.id == Pick.cycle_id)
        waiting = waiting.where(Cycle.state == CycleState.LABELLING, Pick.state.in_(UNSETTLED))
        await session.flush()
        await self.settle(session, (await session.scalars(waiting)).all())

    async def outcomes(self, session: AsyncSession, picks: Collection[Pick], *, closed: bool) -> dict[int, Outcome]:
        """Return what the standing labels make of picks, by the picks' ids."""
        ids = [pick.id for pick in picks]
        twice = select(Message.id).where(asked_twice(), Message.id.in_([pick.message_id for pick in picks]))
        from_the_outset = set(await session.scalars(twice))
        given: dict[int, dict[str, Category | None]] = {id_: {} for id_ in ids}
        adjudged: dict[int, Category | None] = {}
        standing = select(Label).where(Label.pick_id.in_(ids), Label.undone_at.is_(None)).order_by(Label.id)
        for label in await session.scalars(standing):
            if label.adjudicates:
                adjudged[label.pick_id] = label.category
            else:
                given[label.pick_id][label.reviewer] = label.category
        there = set() if closed else set(await session.scalars(reviewers()))
        away: dict[int, set[str]] = {id_: set() for id_ in ids}
        passed = select(PickMark.pick_id, PickMark.reviewer)
        passed = passed.where(PickMark.pick_id.in_(ids), PickMark.mark == Mark.HANDED_ON)
        for pick_id, reviewer in await session.execute(passed):
            away[pick_id].add(reviewer)
        outcomes = {}
        for pick in picks:
            opinions = given[pick.id]
            outcome = settle(
                list(opinions.values()),
                twice=pick.message_id in from_the_outset,
                overlap=self._overlap,
                able=len(opinions) + len(there - opinions.keys() - away[pick.id]),
            )
            if pick.id in adjudged:
                outcome = Outcome(decided(adjudged[pick.id]), adjudged[pick.id], outcome.wanted)
            elif closed and outcome.state is PickState.WAITING:
                outcome = Outcome(PickState.RETURNED, None, outcome.wanted)
            outcomes[pick.id] = outcome
        return outcomes


def asked_twice() -> ColumnElement[bool]:
    """Return the condition on messages that two people are asked about from the outset."""
    return or_(Message.reason == AUDIT, Message.category.in_(GRAVE))


def asks(reviewer: str) -> ColumnElement[bool]:
    """Return the condition on picks that ask for this reviewer's opinion, whoever holds them.

    Of what is contested a reviewer gives a third opinion; who adjudicates has seen the other two.
    """
    given = select(func.count(Label.id)).where(Label.pick_id == Pick.id, OPINION).correlate(Pick).scalar_subquery()
    passed = exists().where(PickMark.pick_id == Pick.id, PickMark.reviewer == reviewer, PickMark.mark == Mark.HANDED_ON)
    third = and_(Pick.state == PickState.CONTESTED, is_reviewer(reviewer))
    return and_(or_(Pick.state == PickState.WAITING, third), given < Pick.wanted, ~has_opinion(reviewer), ~passed)


def has_opinion(reviewer: str) -> ColumnElement[bool]:
    """Return the condition on picks that this reviewer has given an opinion on."""
    return exists().where(Label.pick_id == Pick.id, Label.reviewer == reviewer, OPINION).correlate(Pick)


def is_reviewer(name: str) -> ColumnElement[bool]:
    """Return the condition that somebody is a reviewer in force, and no admin."""
    return or_(*(exists().where(row.name == name, *in_force) for row, in_force in _IN_FORCE))


_IN_FORCE: Final = tuple((row, (row.role == Role.REVIEWER, row.revoked_at.is_(None))) for row in (Reviewer, Key))


def reviewers() -> CompoundSelect[tuple[str]]:
    """Return the names of the reviewers in force, admins not among them."""
    account, key = (select(row.name).where(*in_force) for row, in_force in _IN_FORCE)
    return account.union(key)
