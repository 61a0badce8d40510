"""Contrast pairs: an LLM's edit of a labelled message that should change its category, until a person has said so."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select

from guard.errors import Conflict, NotFound
from guard.store.cycles import add_figures
from guard.store.database import Database
from guard.store.keyring import Keyring
from guard.store.lease import LEARNER, check_fence
from guard.store.ledger import enter
from guard.store.pool import open_text
from guard.store.rows import Contrast, Message, Pick
from guard.store.states import ContrastState, ContrastVerdict, Deed
from guard.store.variations import Seed, open_sealed
from guard.taxonomy import Category

_STATES: Final = {
    ContrastVerdict.FLIPS: ContrastState.CONFIRMED,
    ContrastVerdict.HOLDS: ContrastState.REJECTED,
    ContrastVerdict.UNCLEAR: ContrastState.UNCLEAR,
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """An edit that an LLM wrote and its judge put into `category`; `opinion` is what the champion takes it for."""

    text: str
    category: Category
    opinion: Category
    llm: str
    template: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A proposed pair, opened: the message with its label, and the edit with the label it should have."""

    id: int
    cycle_id: int
    seed: str
    seed_category: Category
    text: str
    category: Category


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

    async def proposed(self, limit: int = 50) -> list[Pair]:
        """Return pairs that wait for a person, oldest first."""
        async with self._database.read() as session:
            rows = await session.execute(
                select(Contrast, Message)
                .join(Message, Message.id == Contrast.message_id)
                .where(Contrast.state == ContrastState.PROPOSED)
                .order_by(Contrast.id)
                .limit(limit)
            )
            return [
                Pair(
                    id=contrast.id,
                    cycle_id=contrast.cycle_id,
                    seed=open_text(self._keyring, message),
                    seed_category=contrast.seed_category,
                    text=open_sealed(self._keyring, contrast),
                    category=contrast.category,
                )
                for contrast, message in rows
            ]

    async def confirm(self, contrast_id: int, *, verdict: ContrastVerdict, reviewer: str) -> ContrastState:
        """Record a person's verdict on a proposed pair, with who gave it and when, and return the pair's state.

        The same verdict of the same reviewer again is the same decision.

        Raises:
            NotFound: There is no such pair, or its message was erased.
            Conflict: It is decided already.
        """
        state = _STATES[verdict]
        async with self._database.write() as session:
            contrast = await session.get(Contrast, contrast_id)
            if contrast is None:
                raise NotFound(f"There is no contrast pair {contrast_id}: its message may have been erased.")
            if contrast.state is ContrastState.PROPOSED:
                now = self._clock()
                contrast.state, contrast.reviewer, contrast.decided_at = state, reviewer, now
                subject = f"contrast {contrast_id}"
                enter(session, Deed.CONTRAST_DECIDED, at=now, actor=reviewer, subject=subject, verdict=verdict)
            elif (contrast.state, contrast.reviewer) != (state, reviewer):
                raise Conflict(f"Contrast pair {contrast_id} is {contrast.state} already.")
            return state

    async def counts(self) -> dict[ContrastState, int]:
        """Return how many pairs are in each state."""
        async with self._database.read() as session:
            rows = await session.execute(select(Contrast.state, func.count()).group_by(Contrast.state))
            found = {state: number for state, number in rows}
        return {state: found.get(state, 0) for state in ContrastState}

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
