"""What the learner last estimated, for whoever shows it: error rates with their intervals, and drift."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from guard.store.database import Database
from guard.store.lease import LEARNER, check_fence
from guard.store.rows import Figure, Message, Pick
from guard.taxonomy import Category


@dataclass(frozen=True, slots=True)
class Estimated:
    """A figure about the verdicts of some time.

    Args:
        measure: Which; `learner.estimate.Measure` or `learner.drift.Drift`.
        model_version: Whose verdicts; None for a drift.
        category: Of which category; None for a drift.
        value: The estimate; None where there are too few labels, and so are its bounds.
        naive: The same of all that was labelled, as if it were a fair sample: to see what that would mislead to.
        labels: How many labelled messages it rests on; one that reviewers disagree about is shared out.
    """

    measure: str
    model_version: str | None
    category: Category | None
    value: float | None
    low: float | None
    high: float | None
    naive: float | None
    labels: float
    since: datetime
    until: datetime


class Figures:
    """Queries over figures."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def replace(self, figures: Sequence[Estimated], *, fence: int) -> None:
        """Put new figures in the place of all others.

        Raises:
            Conflict: The lease was lost.
        """
        now = self._clock()
        async with self._database.write() as session:
            await check_fence(session, LEARNER, fence)
            await session.execute(delete(Figure))
            if figures:
                await session.execute(insert(Figure), [{**asdict(one), "computed_at": now} for one in figures])

    async def latest(self) -> list[Estimated]:
        """Return all figures."""
        async with self._database.read() as session:
            rows = (await session.scalars(select(Figure).order_by(Figure.id))).all()
        return [Estimated(**{name: getattr(row, name) for name in Estimated.__dataclass_fields__}) for row in rows]

    async def reviewed_errors(self) -> dict[tuple[Category, Category], int]:
        """Return how many labels differ from the verdict that brought the message, by label and verdict."""
        wrong = (
            select(Pick.category, Message.category, func.count())
            .join(Message, Message.id == Pick.message_id)
            .where(Pick.category.is_not(None), Pick.category != Message.category)
            .group_by(Pick.category, Message.category)
        )
        async with self._database.read() as session:
            return {(label, verdict): number for label, verdict, number in await session.execute(wrong)}
