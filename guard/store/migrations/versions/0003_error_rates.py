"""error rates."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
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
    """Apply. Verdicts of before are not known one by one, so estimates begin here."""
    op.create_table(
        "entry",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("model_version", sa.String(length=16), nullable=False),
        sa.Column("category", _CATEGORY, nullable=False),
        sa.Column("certain", sa.Boolean(), nullable=False),
        sa.Column("inclusion_probability", sa.Float(), nullable=False),
        sa.Column("uncertainty", sa.Float(), nullable=False),
        sa.Column("count", _INTEGER, nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_entry_message_id_message"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entry")),
    )
    for column in ("message_id", "first_at"):
        op.create_index(op.f(f"ix_entry_{column}"), "entry", [column], unique=False)
    op.create_table(
        "figure",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("measure", sa.String(length=32), nullable=False),
        sa.Column("model_version", sa.String(length=16), nullable=True),
        sa.Column("category", _CATEGORY, nullable=True),
        *(sa.Column(name, sa.Float(), nullable=True) for name in ("value", "low", "high", "naive")),
        sa.Column("labels", sa.Float(), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in ("since", "until", "computed_at")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_figure")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("figure")
    op.drop_table("entry")
