"""What stands around a pick: the messages that the learner found near it, opened when they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.rows import Message, Pick
from guard.taxonomy import Category

_OTHERS: Final = 50  # picks of the batch that a pick's words are compared with,
_OF_EACH: Final = 2  # by so many messages near each


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A labelled message near a pick, with the cosine of their embeddings."""

    text: str
    category: Category
    similarity: float


@dataclass(frozen=True, slots=True)
class Around:
    """What is around a pick.

    Args:
        near: Texts of the pool near it, each of at least one user.
        elsewhere: Texts near other picks of its batch.
        neighbours: Labelled messages near it, the nearest first.
    """

    near: list[str]
    elsewhere: list[str]
    neighbours: list[Neighbour]


class Surroundings:
    """Queries over what is near a pick. What was erased or has expired is missing from the answers."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def of(self, cycle_id: int, reason: dict[str, Any]) -> Around:
        """Return what is around the pick of a cycle that has this reason."""
        near: list[int] = reason.get("near", [])
        similar: dict[int, float] = {id_: cosine for id_, cosine in reason.get("neighbours", [])}
        if not near and not similar:
            return Around([], [], [])
        async with self._database.read() as session:
            elsewhere = await self._elsewhere(session, cycle_id, set(near)) if near else []
            texts = await self._texts(session, {*near, *elsewhere, *similar})
            labelled = await self._labels(session, list(similar))
        return Around(
            near=[texts[id_] for id_ in near if id_ in texts],
            elsewhere=[texts[id_] for id_ in elsewhere if id_ in texts],
            neighbours=[
                Neighbour(texts[id_], labelled[id_], cosine)
                for id_, cosine in similar.items()
                if id_ in texts and id_ in labelled
            ],
        )

    async def _elsewhere(self, session: AsyncSession, cycle_id: int, near: set[int]) -> list[int]:
        reasons = await session.scalars(select(Pick.reason).where(Pick.cycle_id == cycle_id).limit(_OTHERS))
        found = (id_ for reason in reasons for id_ in reason.get("near", [])[:_OF_EACH])
        return [id_ for id_ in dict.fromkeys(found) if id_ not in near]

    async def _texts(self, session: AsyncSession, ids: set[int]) -> dict[int, str]:
        # the columns alone: a hundred whole messages, with their scores and times, take four times as long
        columns = (Message.id, Message.ciphertext, Message.key_id, Message.fingerprint)
        messages = await session.execute(select(*columns).where(Message.id.in_(ids)))
        return {id_: self._keyring.open(sealed, key_id=key, owner=owner) for id_, sealed, key, owner in messages}

    async def _labels(self, session: AsyncSession, ids: Sequence[int]) -> dict[int, Category]:
        settled = select(Pick.message_id, Pick.category).where(Pick.message_id.in_(ids), Pick.category.is_not(None))
        return {message_id: category for message_id, category in await session.execute(settled.order_by(Pick.id))}
