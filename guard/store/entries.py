"""What error rates rest on: every verdict that let a message in, every draw that people answered, and what they said.

`pool` writes the entries down as it takes the arrivals; `learner.monitor` reads all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Select, case, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.store.database import Database
from guard.store.rows import Cycle, Doubt, Entry, Label, Message, Pick
from guard.store.states import CycleState, PickState
from guard.taxonomy import Category

if TYPE_CHECKING:
    from guard.store.pool import Arrival

BINS: Final = 10  # of the uncertainty, in [0, 1]

_S = TypeVar("_S", bound=Select[Any])
_Kind = tuple[int, str, Category, bool, float, date]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Verdicts of one kind about a message that people labelled.

    Args:
        verdicts: How many verdicts they stand for: their number over the probability with which each was let in.
        certain: Whether the model was certain, so that the audit had to draw them, with this probability.
    """

    message_id: int
    model_version: str
    category: Category
    certain: bool
    verdicts: float
    probability: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that people are done with, and what it was drawn from.

    Args:
        fresh: Audit arrivals of since the batch before; None where nobody wrote it down.
        stale: Audit arrivals of before that.
        others: All other messages.
    """

    cycle_id: int
    opened_at: datetime
    fresh: int | None
    stale: int | None
    others: int | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A message of such a batch.

    Args:
        audit: Whether the audit drew it, or else the strategy.
        chance: The probability of the draw, given that the message was in the pool; None where it is not known.
        decided: Whether people have said something about it, or that they cannot tell.
    """

    cycle_id: int
    message_id: int
    first_seen_at: datetime
    audit: bool
    chance: float | None
    decided: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many verdicts of one kind were given, by what was let in of them."""

    model_version: str
    category: Category
    certain: bool
    verdicts: float


@dataclass(frozen=True, slots=True)
class Share:
    """Part of the verdicts of some time: how many they were, by what was let in, and the sum of the squared weights."""

    category: Category
    uncertainty_bin: int
    verdicts: float
    squares: float


class Entries:
    """Queries over entries, draws and votes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batches(self) -> list[Batch]:
        """Return the batches that people are done with, oldest first."""
        filled = (
            select(Cycle.id, Cycle.opened_at, Cycle.figures)
            .where(
                Cycle.state.not_in([CycleState.SELECTING, CycleState.LABELLING]),
                Cycle.id.in_(select(Pick.cycle_id)),
            )
            .order_by(Cycle.id)
        )
        async with self._database.read() as session:
            rows = [(id_, at, figures.get("selection", {})) for id_, at, figures in await session.execute(filled)]
        return [Batch(i, at, s.get("audits_fresh"), s.get("audits_stale"), s.get("others")) for i, at, s in rows]

    async def drawn(self) -> list[Drawn]:
        """Return the messages of those batches, in the order of their cycles."""
        picks = (
            select(
                Pick.cycle_id,
                Pick.message_id,
                Message.first_seen_at,
                Pick.reason["strategy"].as_string(),
                Pick.inclusion_probability,
                Message.inclusion_probability,
                Pick.state,
            )
            .join(Message, Message.id == Pick.message_id)
            .join(Cycle, Cycle.id == Pick.cycle_id)
            .where(Cycle.state.not_in([CycleState.SELECTING, CycleState.LABELLING]))
            .order_by(Pick.cycle_id, Pick.position)
        )
        decided = {PickState.LABELLED, PickState.UNCLEAR, PickState.CONTESTED}
        async with self._database.read() as session:
            return [
                # the audit's probability holds that of being in the pool, which a picked message keeps
                Drawn(cycle, message, seen, by == "audit", p and (p / let_in if by == "audit" else p), state in decided)
                for cycle, message, seen, by, p, let_in, state in await session.execute(picks)
            ]

    async def votes(self) -> dict[int, list[Category]]:
        """Return what people said of each message, by its id, those who could not tell left out.

        Whoever adjudicates has the last word: it stands in the place of what others said before. Second looks do not
        count: they mend only such labels as models disagree with, so the models would seem better than they are.
        """
        async with self._database.read() as session:
            return await _votes(session)

    async def reviewed(self, since: datetime, until: datetime) -> list[Reviewed]:
        """Return the verdicts of some time about messages that people labelled."""
        query = _within(
            select(
                Entry.message_id,
                Entry.model_version,
                Entry.category,
                Entry.certain,
                Entry.count,
                Entry.inclusion_probability,
            ).where(Entry.message_id.in_(select(Label.message_id))),
            since,
            until,
        ).order_by(Entry.id)
        async with self._database.read() as session:
            votes = await _votes(session)
            return [
                Reviewed(message, version, category, certain, count / p, p)
                for message, version, category, certain, count, p in await session.execute(query)
                if message in votes
            ]

    async def traffic(self, since: datetime, until: datetime) -> list[Traffic]:
        """Return how many verdicts of each kind were given in some time."""
        kinds = (Entry.model_version, Entry.category, Entry.certain)
        query = _within(select(*kinds, func.sum(Entry.count / Entry.inclusion_probability)), since, until)
        async with self._database.read() as session:
            rows = await session.execute(query.group_by(*kinds).order_by(*kinds))
            return [Traffic(*row) for row in rows]

    async def mix(self, since: datetime, until: datetime) -> list[Share]:
        """Return the verdicts of some time by category and by tenth of uncertainty."""
        tenth = case(*((Entry.uncertainty < (n + 1) / BINS, n) for n in range(BINS - 1)), else_=BINS - 1).label("tenth")
        weight = 1.0 / Entry.inclusion_probability
        query = _within(
            select(Entry.category, tenth, func.sum(Entry.count * weight), func.sum(Entry.count * weight * weight)),
            since,
            until,
        ).group_by(Entry.category, "tenth")
        async with self._database.read() as session:
            return [Share(*row) for row in await session.execute(query)]


async def record(session: AsyncSession, entries: Sequence[tuple[int, "Arrival", bool]], *, known: set[int]) -> None:
    """Write verdicts down that let messages in, within the caller's transaction.

    Args:
        entries: The message's id, the verdict, and whether the model was certain.
        known: Those of the messages that were there before; only they can have entries already.
    """
    rows: dict[_Kind, Entry] = {}
    new: list[Entry] = []
    if again := known.intersection(message_id for message_id, _, _ in entries):
        today = min(a.seen_at for _, a, _ in entries).replace(hour=0, minute=0, second=0, microsecond=0)
        for row in await session.scalars(select(Entry).where(Entry.message_id.in_(again), Entry.first_at >= today)):
            rows[_kind(row.message_id, row, certain=row.certain, day=row.first_at.date())] = row
    for message_id, arrival, certain in entries:
        kind = _kind(message_id, arrival, certain=certain, day=arrival.seen_at.date())
        if kind in rows:
            rows[kind].count += 1
            continue
        rows[kind] = Entry(
            message_id=message_id,
            model_version=arrival.model_version,
            category=arrival.category,
            certain=certain,
            inclusion_probability=arrival.inclusion_probability,
            uncertainty=arrival.uncertainty,
            count=1,
            first_at=arrival.seen_at,
        )
        new.append(rows[kind])
    if new:  # without reading the ids back: SQLite would then insert row by row
        columns = [column.key for column in Entry.__mapper__.column_attrs if column.key != "id"]
        await session.execute(insert(Entry), [{name: getattr(row, name) for name in columns} for row in new])


async def _votes(session: AsyncSession) -> dict[int, list[Category]]:
    standing = select(Label.message_id, Label.category, Label.adjudicates)
    standing = standing.where(Label.undone_at.is_(None), ~exists().where(Doubt.label_id == Label.id))
    votes: dict[int, list[Category]] = {}
    for message_id, category, adjudicates in await session.execute(standing.order_by(Label.id)):
        if adjudicates:
            votes[message_id] = []
        if category is not None:
            votes.setdefault(message_id, []).append(category)
    return {message_id: said for message_id, said in votes.items() if said}


def _kind(message_id: int, verdict: "Entry | Arrival", *, certain: bool, day: date) -> _Kind:
    return message_id, verdict.model_version, verdict.category, certain, verdict.inclusion_probability, day


def _within(query: _S, since: datetime, until: datetime) -> _S:
    return query.where(Entry.first_at > since, Entry.first_at <= until)
