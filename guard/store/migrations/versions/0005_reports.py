"""reports of wrong verdicts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_CATEGORY = sa.Enum(
    "self-harm",
    "medical-advice",
    "legal-advice",
    "financial-advice",
    "emergency-situation",
    "not-harmful",
    name="category",
    native_enum=False,
    length=32,
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "report",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=True),
        sa.Column("key_name", sa.String(length=64), nullable=False),
        sa.Column(
            "source", sa.Enum("chatbot", "person", name="reportsource", native_enum=False, length=16), nullable=False
        ),
        sa.Column("model_version", sa.String(length=16), nullable=False),
        sa.Column("verdict", _CATEGORY, nullable=False),
        sa.Column("category", _CATEGORY, nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_report_message_id_message"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report")),
        sa.UniqueConstraint("answer", name=op.f("uq_report_answer")),
    )
    op.create_index(op.f("ix_report_message_id"), "report", ["message_id"], unique=False)
    op.create_index(op.f("ix_report_user_hash_reported_at"), "report", ["user_hash", "reported_at"], unique=False)
    op.create_index(op.f("ix_report_key_name_reported_at"), "report", ["key_name", "reported_at"], unique=False)


def downgrade() -> None:
    """Undo; what reports brought into the pool stays there."""
    op.drop_table("report")
