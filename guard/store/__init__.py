"""Every query Lifeguard makes. Nobody else opens a transaction.

    async with open_store(settings) as store:
        await store.pool.add(sightings)

One noun a module: `pool` (messages), `reports` (of wrong verdicts), `review` (picks and labels), `agreement` (when they
settle a pick), `opinions` (which does it), `conflicts`, `doubts`, `marks`, `surroundings`, `cycles`, `variations`,
`contrasts`, `pairs` (people's checks of both), `transfer` (messages and labels in files), `entries` (verdicts and draws, as
estimates need them), `figures` (the estimates), `keys`, `reviewers`, `sessions`, `ledger`, `moves`, `lease`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from guard.settings import GuardSettings
from guard.store.conflicts import Conflicts
from guard.store.contrasts import Contrasts
from guard.store.cycles import Cycles
from guard.store.database import BUSY_TIMEOUT_S, Database
from guard.store.doubts import Doubts
from guard.store.entries import Entries
from guard.store.figures import Figures
from guard.store.keyring import Keyring
from guard.store.keys import Keys
from guard.store.lease import Leases
from guard.store.ledger import Ledger
from guard.store.marks import Marks
from guard.store.moves import Moves
from guard.store.opinions import Opinions
from guard.store.pairs import Pairs
from guard.store.pool import Pool
from guard.store.reports import Reports
from guard.store.review import Review
from guard.store.reviewers import Reviewers
from guard.store.sessions import Sessions
from guard.store.surroundings import Surroundings
from guard.store.transfer import Transfer
from guard.store.variations import Variations

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Store:
    """The tables, by noun.

    Args:
        database: Where the rows are.
        keyring: Seals and opens the texts.
        clock: Tells the time; injected in tests.
        review_lease_s: Seconds for which a reviewer holds a message.
        overlap: How many reviewers label a message where more than one should.
        session_idle_s: Seconds without a request after which a reviewer is logged out.
        session_max_s: Seconds after which a reviewer is logged out in any case.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        *,
        clock: Clock = utc_now,
        review_lease_s: int = 600,
        overlap: int = 2,
        session_idle_s: int = 3600,
        session_max_s: int = 43_200,
    ) -> None:
        self.database = database
        self.keyring = keyring
        self.clock = clock
        self.pool = Pool(database, keyring, clock)
        self.reports = Reports(database, keyring, clock, self.pool)
        opinions = Opinions(overlap)
        self.review = Review(database, keyring, clock, opinions, lease_s=review_lease_s)
        self.conflicts = Conflicts(database, keyring, clock, opinions)
        self.doubts = Doubts(database, keyring, clock, opinions)
        self.marks = Marks(database, clock, opinions)
        self.surroundings = Surroundings(database, keyring)
        self.cycles = Cycles(database, clock, opinions)
        self.transfer = Transfer(database, keyring, clock, opinions)
        self.variations = Variations(database, keyring, clock)
        self.contrasts = Contrasts(database, keyring, clock)
        self.pairs = Pairs(database, keyring, clock, lease_s=review_lease_s)
        self.entries = Entries(database)
        self.figures = Figures(database, clock)
        self.keys = Keys(database, clock, opinions)
        self.reviewers = Reviewers(database, clock, opinions)
        self.sessions = Sessions(database, keyring, clock, idle_s=session_idle_s, max_s=session_max_s)
        self.ledger = Ledger(database)
        self.moves = Moves(database, clock)
        self.leases = Leases(database, clock)

    async def rotate(self, keyring: Keyring, *, batch: int = 500) -> int:
        """Seal every text anew under the keyring's active key and return how many there were."""
        tables = (self.pool, self.variations, self.contrasts)
        return sum([await table.rotate(keyring, batch=batch) for table in tables])


@asynccontextmanager
async def open_store(
    settings: GuardSettings,
    *,
    clock: Clock = utc_now,
    create_keyring: bool = False,
    timeout_s: float = BUSY_TIMEOUT_S,
) -> AsyncIterator[Store]:
    """Yield the store with its schema up to date; close it afterwards.

    Args:
        settings: Where the database and the keyring are.
        clock: Tells the time; injected in tests.
        create_keyring: Make a keyring where there is none.
        timeout_s: How long to wait for the database before it counts as unavailable.

    Raises:
        BadConfiguration: No keyring, not the one the texts were sealed with, or a schema newer than this program.
        StoreUnavailable: The database does not answer.
    """
    keyring = Keyring.load(settings, create=create_keyring)
    database = Database(settings.store_url, timeout_s=timeout_s)
    try:
        await database.migrate()
        store = Store(
            database,
            keyring,
            clock=clock,
            review_lease_s=settings.review_lease_s,
            overlap=settings.overlap,
            session_idle_s=settings.session_idle_s,
            session_max_s=settings.session_max_s,
        )
        await store.pool.check_keyring()
        yield store
    finally:
        await database.close()
