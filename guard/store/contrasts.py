"""Contrast pairs: an LLM's edit of a labelled message that should change its category, proposed to people (`pairs`)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from guard.errors import Conflict
from guard.store.cycles import add_figures
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.lease import LEARNER, check_fence
from guard.store.pool import open_text
from guard.store.rows import Contrast, Message, Pick
from guard.store.states import ContrastState
from guard.store.variations import Seed, open_sealed
from guard.taxonomy import Category


@dataclass(frozen=True, slots=True)
class Proposal:
    """An edit that an LLM wrote and its judge put into `category`; `opinion` is what the champion takes it for."""

    text: str
    category: Category
    opinion: Category
    llm: str
    template: str


class Contrasts:
    """Queries over contrast pairs. Only confirmed ones enter a data set (`variations.freeze`)."""

    def __init__(self, database: Database, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    async def pending(self, categories: Collection[Category]) -> list[Seed]:
        """Return the labelled picks of these categories, of every cycle, that were not asked about yet, in order."""
        async with self._database.read() as session:
            rows = await session.execute(
                select(Pick.id, Pick.category, Message)
                .join(Message, Message.id == Pick.message_id)
                .where(Pick.contrasted_at.is_(None), Pick.category.in_(categories))
                .order_by(Pick.id)
            )
            return [
                Seed(pick_id, message.id, open_text(self._keyring, message), category)
                for pick_id, category, message in rows
            ]

    async def pends(self, seed: Seed) -> bool:
        """Return whether a seed is still there and was not asked about."""
        async with self._database.read() as session:
            query = select(Pick.id).where(Pick.id == seed.pick_id, Pick.contrasted_at.is_(None))
            return await session.scalar(query) is not None

    async def propose(
        self,
        cycle_id: int,
        seed: Seed,
        proposal: Proposal | None,
        *,
        fence: int,
        counts: dict[str, int],
        tally: dict[str, int],
    ) -> int | None:
        """Store what came of a seed, in one transaction, and return the pair's id; a seed is asked about once.

        Args:
            proposal: None when no edit stood.
            counts: Added to the cycle's figures under `contrasts`.
            tally: Calls and tokens, added under `llm`.

        Raises:
            Conflict: It was asked about already, erased meanwhile, or the lease was lost.
        """
        async with self._database.write() as session:
            await check_fence(session, LEARNER, fence)
            pick = await session.get(Pick, seed.pick_id)
            if pick is None or pick.contrasted_at is not None:
                raise Conflict(f"Pick {seed.pick_id} was contrasted or erased already.")
            pick.contrasted_at = self._clock()
            await add_figures(session, cycle_id, "contrasts", counts)
            await add_figures(session, cycle_id, "llm", tally)
            if proposal is None:
                return None
            fingerprint = self._keyring.fingerprint(proposal.text)
            if await session.scalar(select(Contrast.id).where(Contrast.fingerprint == fingerprint)) is not None:
                return None
            contrast = Contrast(
                pick_id=seed.pick_id,
                message_id=seed.message_id,
                cycle_id=cycle_id,
                fingerprint=fingerprint,
                ciphertext=self._keyring.seal(proposal.text, owner=fingerprint),
                key_id=self._keyring.active_id,
                seed_category=seed.category,
                category=proposal.category,
                opinion=proposal.opinion,
                state=ContrastState.PROPOSED,
                llm=proposal.llm,
                template=proposal.template,
                created_at=self._clock(),
                reviewer=None,
                decided_at=None,
            )
            session.add(contrast)
            await session.flush()
            return contrast.id

    async def rotate(self, keyring: Keyring, *, batch: int) -> int:
        """Seal every edit anew under the keyring's active key, a batch a transaction."""
        count = 0
        while True:
            async with self._database.write() as session:
                old = select(Contrast).where(Contrast.key_id != keyring.active_id).limit(batch)
                rows = (await session.scalars(old)).all()
                for row in rows:
                    row.ciphertext = keyring.seal(open_sealed(keyring, row), owner=row.fingerprint)
                    row.key_id = keyring.active_id
            if not rows:
                return count
            count += len(rows)
