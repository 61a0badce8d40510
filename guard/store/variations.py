"""Accepted variations of labelled messages, and the frozen data sets made of both and of confirmed contrasts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select

from guard.errors import Conflict
from guard.store.cycles import add_figures
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.lease import LEARNER, check_fence
from guard.store.pool import open_text
from guard.store.rows import Contrast, Cycle, Message, Pick, SnapshotItem, Variation
from guard.store.states import ContrastState, PairVerdict, PickState
from guard.taxonomy import Category


@dataclass(frozen=True, slots=True)
class Seed:
    """A labelled message that waits for its variations."""

    pick_id: int
    message_id: int
    text: str
    category: Category


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A training row: `message_id` is its group, `variation` tells an LLM's label from a person's.

    `contrast`: an LLM's edit of the message, whose label a person confirmed.
    """

    message_id: int
    text: str
    category: Category
    variation: bool
    contrast: bool = False


class Variations:
    """Queries over variations and snapshots."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    async def pending(self, cycle_id: int) -> list[Seed]:
        """Return the labelled picks of a cycle that have no variations yet, in order."""
        async with self._database.read() as session:
            rows = await session.execute(
                select(Pick.id, Pick.category, Message)
                .join(Message, Message.id == Pick.message_id)
                .where(Pick.cycle_id == cycle_id, Pick.category.is_not(None), Pick.varied_at.is_(None))
                .order_by(Pick.position)
            )
            return [
                Seed(pick_id, message.id, open_text(self._keyring, message), category)
                for pick_id, category, message in rows
            ]

    async def known(self, texts: Sequence[str]) -> set[str]:
        """Return those of the normalised texts that the store holds already: messages, variations, contrasts."""
        by_fingerprint = {self._keyring.fingerprint(text): text for text in texts}
        async with self._database.read() as session:
            found: set[bytes] = set()
            for row in (Message, Variation, Contrast):
                query = select(row.fingerprint).where(row.fingerprint.in_(by_fingerprint))
                found.update((await session.scalars(query)).all())
        return {by_fingerprint[fingerprint] for fingerprint in found}

    async def record(
        self,
        cycle_id: int,
        seed: Seed,
        accepted: Sequence[str],
        *,
        fence: int,
        llm: str,
        template: str,
        fates: dict[str, int],
        tally: dict[str, int] | None = None,
        offers: dict[str, int] | None = None,
    ) -> int:
        """Store a seed's accepted variations and count all fates, in one transaction: a seed is varied once.

        Args:
            fates: Counts by fate, added to the cycle's figures under `variations`.
            tally: What else is counted (calls, tokens), added under `llm`.
            offers: Seeds by how many of their variations stood, added under `offers`.

        Returns:
            How many were stored; those that another seed brought meanwhile are there already.

        Raises:
            Conflict: It was varied already, erased meanwhile, or the lease was lost.
        """
        async with self._database.write() as session:
            await check_fence(session, LEARNER, fence)
            pick = await session.get(Pick, seed.pick_id)
            if pick is None or pick.varied_at is not None:
                raise Conflict(f"Pick {seed.pick_id} was varied or erased already.")
            pick.varied_at = self._clock()
            texts = {self._keyring.fingerprint(text): text for text in accepted}
            known = set(await session.scalars(select(Variation.fingerprint).where(Variation.fingerprint.in_(texts))))
            session.add_all(
                Variation(
                    message_id=seed.message_id,
                    cycle_id=cycle_id,
                    fingerprint=fingerprint,
                    ciphertext=self._keyring.seal(text, owner=fingerprint),
                    key_id=self._keyring.active_id,
                    category=seed.category,
                    llm=llm,
                    template=template,
                    created_at=self._clock(),
                )
                for fingerprint, text in texts.items()
                if fingerprint not in known
            )
            await add_figures(session, cycle_id, "variations", fates)
            await add_figures(session, cycle_id, "llm", tally or {})
            await add_figures(session, cycle_id, "offers", offers or {})
            return len(texts) - len(known)

    async def count(self) -> int:
        """Return how many accepted variations there are."""
        async with self._database.read() as session:
            return int(await session.scalar(select(func.count()).select_from(Variation)) or 0)

    async def freeze(self, cycle_id: int, *, fence: int) -> int:
        """Freeze a cycle's data set, every labelled message with its variations and confirmed contrasts; return its size.

        It is frozen once. What was erased since no longer counts. A message that was picked again is what people said of
        it last; while that is contested it is left out, as are variations that a person took out.
        """
        async with self._database.write() as session:
            await check_fence(session, LEARNER, fence)
            cycle = await session.get_one(Cycle, cycle_id)
            if cycle.frozen_at is not None:
                return int(await session.scalar(select(func.count()).where(SnapshotItem.cycle_id == cycle_id)) or 0)
            cycle.frozen_at = self._clock()
            answered = Pick.state.not_in([PickState.WAITING, PickState.RETURNED])
            picks = await session.execute(select(Pick.message_id, Pick.category).where(answered).order_by(Pick.id))
            latest = {message_id: category for message_id, category in picks}
            varied = await session.execute(
                select(Variation.message_id, Variation.id, Variation.category)
                .where(or_(Variation.verdict.is_(None), Variation.verdict == PairVerdict.HOLDS))
                .order_by(Variation.id)
            )
            items = [
                SnapshotItem(cycle_id=cycle_id, message_id=message_id, variation_id=None, category=category)
                for message_id, category in latest.items()
                if category is not None
            ]
            items += [
                SnapshotItem(cycle_id=cycle_id, message_id=message_id, variation_id=variation_id, category=category)
                for message_id, variation_id, category in varied
                if latest.get(message_id) is category  # one written for a label that no longer stands says nothing
            ]
            confirmed = await session.execute(
                select(Contrast.message_id, Contrast.id, Contrast.category)
                .where(Contrast.state == ContrastState.CONFIRMED)
                .order_by(Contrast.id)
            )
            items += [
                SnapshotItem(cycle_id=cycle_id, message_id=message_id, contrast_id=contrast_id, category=category)
                for message_id, contrast_id, category in confirmed
            ]
            session.add_all(items)
            return len(items)

    async def snapshot(self, cycle_id: int) -> list[LabelledText]:
        """Return a cycle's frozen data set, opened, in the order it was frozen."""
        async with self._database.read() as session:
            rows = await session.execute(
                select(SnapshotItem, Message, Variation, Contrast)
                .join(Message, Message.id == SnapshotItem.message_id)
                .outerjoin(Variation, Variation.id == SnapshotItem.variation_id)
                .outerjoin(Contrast, Contrast.id == SnapshotItem.contrast_id)
                .where(SnapshotItem.cycle_id == cycle_id)
                .order_by(SnapshotItem.id)
            )
            return [
                LabelledText(
                    message_id=item.message_id,
                    text=open_sealed(self._keyring, variation or contrast or message),
                    category=item.category,
                    variation=variation is not None,
                    contrast=contrast is not None,
                )
                for item, message, variation, contrast in rows
            ]

    async def rotate(self, keyring: Keyring, *, batch: int) -> int:
        """Seal every variation anew under the keyring's active key, a batch a transaction."""
        count = 0
        while True:
            async with self._database.write() as session:
                rows = (
                    await session.scalars(select(Variation).where(Variation.key_id != keyring.active_id).limit(batch))
                ).all()
                for row in rows:
                    row.ciphertext = keyring.seal(open_sealed(keyring, row), owner=row.fingerprint)
                    row.key_id = keyring.active_id
            if not rows:
                return count
            count += len(rows)


def open_sealed(keyring: Keyring, row: Message | Variation | Contrast) -> str:
    """Return the text of a row."""
    return keyring.open(row.ciphertext, key_id=row.key_id, owner=row.fingerprint)
