"""Every table, one class each. Texts are ciphertext here, users are keyed hashes, times are UTC."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

from advanced_alchemy.types import BigIntIdentity, DateTimeUTC
from sqlalchemy import JSON, Enum, ForeignKey, Index, LargeBinary, MetaData, String, UniqueConstraint, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from guard.store.states import (
    ContrastState,
    CycleState,
    Deed,
    Mark,
    MessageState,
    PairVerdict,
    PickState,
    ReportSource,
    Role,
)
from guard.taxonomy import Category


def _enum(values: type[StrEnum], length: int) -> Enum:
    """Return a column of the enum's values (not its names), as plain text."""
    return Enum(
        values,
        native_enum=False,
        create_constraint=False,
        length=length,
        values_callable=lambda e: [m.value for m in e],
    )


_OPINION: Final = text("undone_at IS NULL AND NOT adjudicates")


class Row(DeclarativeBase):
    """The base of every table."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigIntIdentity,
        datetime: DateTimeUTC(timezone=True),
        bytes: LargeBinary,
        dict[str, Any]: JSON,
        list[Any]: JSON,
        Category: _enum(Category, 32),
        ContrastState: _enum(ContrastState, 16),
        CycleState: _enum(CycleState, 16),
        Deed: _enum(Deed, 32),
        Mark: _enum(Mark, 16),
        MessageState: _enum(MessageState, 16),
        PairVerdict: _enum(PairVerdict, 16),
        PickState: _enum(PickState, 16),
        ReportSource: _enum(ReportSource, 16),
        Role: _enum(Role, 16),
    }


class Message(Row):
    """A text in the pool with the verdict that brought it there and the probability of its being there."""

    __tablename__ = "message"
    __table_args__ = (Index(None, "state", "id"), Index(None, "last_seen_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(unique=True, insert_sentinel=True)  # SQLite then inserts rows in bulk
    ciphertext: Mapped[bytes]
    key_id: Mapped[str] = mapped_column(String(16), index=True)
    source: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(16))
    inclusion_probability: Mapped[float]
    model_version: Mapped[str] = mapped_column(String(16))
    category: Mapped[Category]
    scores: Mapped[list[Any]]
    uncertainty: Mapped[float]
    seen_count: Mapped[int]
    anonymous: Mapped[bool]
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    state: Mapped[MessageState]


class Sighting(Row):
    """That a user sent a message; erasing a user starts here."""

    __tablename__ = "sighting"

    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), primary_key=True)
    user_hash: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    seen_count: Mapped[int]
    first_seen_at: Mapped[datetime]


class Entry(Row):
    """How many verdicts of one kind were let into the pool with a message on one day, and with what probability each.

    A message keeps the verdict that brought it first; error rates need all of them, of every version. Those that came
    because a second model disputed them have none: how likely that was, nobody knows.
    """

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    model_version: Mapped[str] = mapped_column(String(16))
    category: Mapped[Category]
    certain: Mapped[bool]
    inclusion_probability: Mapped[float]
    uncertainty: Mapped[float]
    count: Mapped[int]
    first_at: Mapped[datetime] = mapped_column(index=True)


class Figure(Row):
    """What was last estimated: an error rate of a category under a version, or a drift, which has neither.

    `value` and its bounds are None where there are too few labels.
    """

    __tablename__ = "figure"

    id: Mapped[int] = mapped_column(primary_key=True)
    measure: Mapped[str] = mapped_column(String(32))
    model_version: Mapped[str | None] = mapped_column(String(16))
    category: Mapped[Category | None]
    value: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    naive: Mapped[float | None]
    labels: Mapped[float]
    since: Mapped[datetime]
    until: Mapped[datetime]
    computed_at: Mapped[datetime]


class Erasure(Row):
    """That a user was erased, so that nothing of theirs sent before comes back."""

    __tablename__ = "erasure"

    user_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    erased_at: Mapped[datetime]


class Report(Row):
    """That somebody called a verdict wrong; `category` is what it should have been, None where they could not say.

    `answer` is the keyed hash of the answer's id and the text's place in it: an answer is reported once.
    """

    __tablename__ = "report"
    __table_args__ = (Index(None, "user_hash", "reported_at"), Index(None, "key_name", "reported_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    answer: Mapped[bytes] = mapped_column(unique=True)
    user_hash: Mapped[str | None] = mapped_column(String(64))
    key_name: Mapped[str] = mapped_column(String(64))
    source: Mapped[ReportSource]
    model_version: Mapped[str] = mapped_column(String(16))
    verdict: Mapped[Category]
    category: Mapped[Category | None]
    reported_at: Mapped[datetime]


class Cycle(Row):
    """One turn of the loop. `timeline` holds `{stage, started_at, ended_at}`, `figures` counts and metrics by stage."""

    __tablename__ = "cycle"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[CycleState] = mapped_column(index=True)
    strategy: Mapped[str] = mapped_column(String(32))
    seed: Mapped[int]
    batch_size: Mapped[int]
    labels_spent: Mapped[int]
    champion: Mapped[str] = mapped_column(String(16))
    challenger: Mapped[str | None] = mapped_column(String(16))
    opened_at: Mapped[datetime]
    due_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    frozen_at: Mapped[datetime | None]
    timeline: Mapped[list[Any]]
    figures: Mapped[dict[str, Any]]
    reasons: Mapped[list[Any]]


class Pick(Row):
    """A message chosen for people in a cycle, and why.

    `wanted` opinions are asked for; `category` is what it is settled as, None while it is not or when nobody can tell.
    """

    __tablename__ = "pick"
    __table_args__ = (UniqueConstraint("cycle_id", "message_id"), Index(None, "cycle_id", "state", "position"))

    id: Mapped[int] = mapped_column(primary_key=True)
    cycle_id: Mapped[int] = mapped_column(ForeignKey("cycle.id", ondelete="CASCADE"))
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]
    reason: Mapped[dict[str, Any]]
    inclusion_probability: Mapped[float | None]
    state: Mapped[PickState]
    wanted: Mapped[int] = mapped_column(default=1, server_default="1")
    category: Mapped[Category | None]
    leased_by: Mapped[str | None] = mapped_column(String(64))
    leased_until: Mapped[datetime | None]
    varied_at: Mapped[datetime | None]
    contrasted_at: Mapped[datetime | None]


class PickMark(Row):
    """That a reviewer flagged a pick or handed it on."""

    __tablename__ = "pick_mark"

    pick_id: Mapped[int] = mapped_column(ForeignKey("pick.id", ondelete="CASCADE"), primary_key=True)
    reviewer: Mapped[str] = mapped_column(String(64), primary_key=True)
    mark: Mapped[Mark] = mapped_column(primary_key=True)
    marked_at: Mapped[datetime]


class Label(Row):
    """A person's opinion about a pick, or the decision that `adjudicates` between those of others.

    `category` is None for "can't tell". `scores_shown` tells whether the model's scores were before them; None where
    nobody knows. What the opinions make of the message stands in its pick.
    """

    __tablename__ = "label"
    __table_args__ = (
        Index(None, "pick_id"),
        Index(None, "reviewer", "decided_at"),
        # nobody has two standing opinions on a pick
        Index(None, "pick_id", "reviewer", unique=True, sqlite_where=_OPINION, postgresql_where=_OPINION),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    pick_id: Mapped[int] = mapped_column(ForeignKey("pick.id", ondelete="CASCADE"))
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    reviewer: Mapped[str] = mapped_column(String(64))
    category: Mapped[Category | None]
    decided_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(64), unique=True)
    scores_shown: Mapped[bool | None]
    adjudicates: Mapped[bool] = mapped_column(default=False, server_default=false())


class Doubt(Row):
    """A label, `category`, that models which never saw it disagree with; a message has one at most, so that none is asked twice.

    `reviewer` looked again at `settled_at`, and gave the label `label_id`, or could not tell.
    """

    __tablename__ = "doubt"

    id: Mapped[int] = mapped_column(primary_key=True)
    pick_id: Mapped[int] = mapped_column(ForeignKey("pick.id", ondelete="CASCADE"), unique=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), unique=True)
    cycle_id: Mapped[int] = mapped_column(ForeignKey("cycle.id", ondelete="CASCADE"), index=True)
    category: Mapped[Category]
    opinion: Mapped[Category]
    probability: Mapped[float]
    raised_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
    reviewer: Mapped[str | None] = mapped_column(String(64))
    label_id: Mapped[int | None] = mapped_column(ForeignKey("label.id", ondelete="SET NULL"), index=True)


class Variation(Row):
    """An accepted variation of a labelled message, with where it came from; `verdict` is None until a person checked it.

    An undone verdict leaves its `reviewer` and `decided_at`, by which the decisions that may be undone are counted.
    """

    __tablename__ = "variation"
    __table_args__ = (Index(None, "leased_by"), Index(None, "reviewer", "decided_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    cycle_id: Mapped[int] = mapped_column(ForeignKey("cycle.id", ondelete="CASCADE"), index=True)
    fingerprint: Mapped[bytes] = mapped_column(unique=True)
    ciphertext: Mapped[bytes]
    key_id: Mapped[str] = mapped_column(String(16), index=True)
    category: Mapped[Category]
    llm: Mapped[str] = mapped_column(String(64))
    template: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    verdict: Mapped[PairVerdict | None]
    leased_by: Mapped[str | None] = mapped_column(String(64))
    leased_until: Mapped[datetime | None]
    reviewer: Mapped[str | None] = mapped_column(String(64))
    decided_at: Mapped[datetime | None]


class Contrast(Row):
    """An LLM's edit of a labelled message that should have `category` instead of the label; `opinion` is the champion's.

    `reviewer` and `decided_at` are as in `Variation`.
    """

    __tablename__ = "contrast"

    id: Mapped[int] = mapped_column(primary_key=True)
    pick_id: Mapped[int] = mapped_column(ForeignKey("pick.id", ondelete="CASCADE"), index=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    cycle_id: Mapped[int] = mapped_column(ForeignKey("cycle.id", ondelete="CASCADE"), index=True)
    fingerprint: Mapped[bytes] = mapped_column(unique=True)
    ciphertext: Mapped[bytes]
    key_id: Mapped[str] = mapped_column(String(16), index=True)
    seed_category: Mapped[Category]
    category: Mapped[Category]
    opinion: Mapped[Category]
    state: Mapped[ContrastState] = mapped_column(index=True)
    llm: Mapped[str] = mapped_column(String(64))
    template: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    leased_by: Mapped[str | None] = mapped_column(String(64))
    leased_until: Mapped[datetime | None]
    reviewer: Mapped[str | None] = mapped_column(String(64))
    decided_at: Mapped[datetime | None]


class SnapshotItem(Row):
    """One training row of a cycle's frozen data set: a variation, a confirmed contrast, or else the message itself.

    Its group is its message.
    """

    __tablename__ = "snapshot_item"

    id: Mapped[int] = mapped_column(primary_key=True)
    cycle_id: Mapped[int] = mapped_column(ForeignKey("cycle.id", ondelete="CASCADE"), index=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    variation_id: Mapped[int | None] = mapped_column(ForeignKey("variation.id", ondelete="CASCADE"), index=True)
    contrast_id: Mapped[int | None] = mapped_column(ForeignKey("contrast.id", ondelete="CASCADE"), index=True)
    category: Mapped[Category]


class Key(Row):
    """An API key: its digest, never itself."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[Role]
    digest: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Reviewer(Row):
    """A person's account: the argon2 hash of the password, never itself."""

    __tablename__ = "reviewer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[Role]
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class DeskSession(Row):
    """A reviewer who is logged in: the digest of the cookie's token. `hard_texts` counts the distressing ones decided."""

    __tablename__ = "desk_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(unique=True)
    reviewer_id: Mapped[int] = mapped_column(ForeignKey("reviewer.id", ondelete="CASCADE"), index=True)
    opened_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    hard_texts: Mapped[int]


class LoginAttempt(Row):
    """That a login was tried; `subject` is the keyed hash of a name, of an address, or of both."""

    __tablename__ = "login_attempt"
    __table_args__ = (Index(None, "subject", "tried_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[bytes]
    tried_at: Mapped[datetime] = mapped_column(index=True)


class LedgerLine(Row):
    """A line of the ledger: who did what, when. Never a text; the database refuses to change or delete one."""

    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(primary_key=True)
    done_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64), index=True)
    deed: Mapped[Deed]
    subject: Mapped[str | None] = mapped_column(String(96))
    detail: Mapped[dict[str, Any]]


class Lease(Row):
    """Who may act as the learner, until when; `fence` grows with every new holder."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    fence: Mapped[int]
    expires_at: Mapped[datetime]
