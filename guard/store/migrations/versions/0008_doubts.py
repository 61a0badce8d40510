"""labels that models doubt, and who looked at them again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
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
        "doubt",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("pick_id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("cycle_id", _INTEGER, nullable=False),
        sa.Column("category", _CATEGORY, nullable=False),
        sa.Column("opinion", _CATEGORY, nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("raised_at", _TIME, nullable=False),
        sa.Column("settled_at", _TIME, nullable=True),
        sa.Column("reviewer", sa.String(length=64), nullable=True),
        sa.Column("label_id", _INTEGER, nullable=True),
        sa.ForeignKeyConstraint(["pick_id"], ["pick.id"], name=op.f("fk_doubt_pick_id_pick"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_doubt_message_id_message"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycle.id"], name=op.f("fk_doubt_cycle_id_cycle"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["label_id"], ["label.id"], name=op.f("fk_doubt_label_id_label"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_doubt")),
        sa.UniqueConstraint("pick_id", name=op.f("uq_doubt_pick_id")),
        sa.UniqueConstraint("message_id", name=op.f("uq_doubt_message_id")),
    )
    op.create_index(op.f("ix_doubt_cycle_id"), "doubt", ["cycle_id"], unique=False)
    op.create_index(op.f("ix_doubt_label_id"), "doubt", ["label_id"], unique=False)


def downgrade() -> None:
    """Undo; what second looks decided stands as adjudications."""
    op.drop_table("doubt")
