"""reviewers, their sessions and marks, the ledger, and whether scores were shown."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_ROLE = sa.Enum("client", "reviewer", "admin", name="role", native_enum=False, length=16)
_MARK = sa.Enum("flagged", "handed-on", name="mark", native_enum=False, length=16)
# append-only by the database itself: a mistake of ours cannot rewrite what people have decided
_SQLITE = (
    "CREATE TRIGGER ledger_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    "CREATE TRIGGER ledger_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    # INSERT OR REPLACE deletes without a word to the trigger above
    (
        "CREATE TRIGGER ledger_insert BEFORE INSERT ON ledger WHEN EXISTS (SELECT 1 FROM ledger WHERE id = NEW.id) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    ),
)
_POSTGRESQL = (
    (
        "CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
    ),
    (
        "CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
    ),
)


def upgrade() -> None:
    """Apply; what was labelled until now was shown with scores, but for audits."""
    op.create_table(
        "reviewer",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", _ROLE, nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviewer")),
        sa.UniqueConstraint("name", name=op.f("uq_reviewer_name")),
    )
    op.create_table(
        "desk_session",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("reviewer_id", _INTEGER, nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("hard_texts", _INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["reviewer_id"], ["reviewer.id"], name=op.f("fk_desk_session_reviewer_id_reviewer"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_desk_session")),
        sa.UniqueConstraint("digest", name=op.f("uq_desk_session_digest")),
    )
    op.create_index(op.f("ix_desk_session_reviewer_id"), "desk_session", ["reviewer_id"], unique=False)
    op.create_table(
        "login_attempt",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("tried_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_attempt")),
    )
    op.create_index(op.f("ix_login_attempt_subject_tried_at"), "login_attempt", ["subject", "tried_at"], unique=False)
    op.create_index(op.f("ix_login_attempt_tried_at"), "login_attempt", ["tried_at"], unique=False)
    op.create_table(
        "pick_mark",
        sa.Column("pick_id", _INTEGER, autoincrement=False, nullable=False),
        sa.Column("reviewer", sa.String(length=64), nullable=False),
        sa.Column("mark", _MARK, nullable=False),
        sa.Column("marked_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["pick_id"], ["pick.id"], name=op.f("fk_pick_mark_pick_id_pick"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pick_id", "reviewer", "mark", name=op.f("pk_pick_mark")),
    )
    op.create_table(
        "ledger",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("done_at", _TIME, nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("deed", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=96), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
    )
    op.create_index(op.f("ix_ledger_actor"), "ledger", ["actor"], unique=False)
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
    op.add_column("label", sa.Column("scores_shown", sa.Boolean(), nullable=True))
    op.execute(
        "UPDATE label SET scores_shown = (SELECT message.reason <> 'audit' FROM message WHERE message.id = label.message_id)"
    )


def downgrade() -> None:
    """Undo; accounts and the ledger are gone."""
    op.drop_column("label", "scores_shown")
    op.drop_table("ledger")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION ledger_refuse()")
    for table in ("pick_mark", "login_attempt", "desk_session", "reviewer"):
        op.drop_table(table)
