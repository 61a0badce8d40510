"""contrast pairs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
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
_STATE = sa.Enum("proposed", "confirmed", "rejected", "unclear", name="contraststate", native_enum=False, length=16)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "contrast",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("pick_id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("cycle_id", _INTEGER, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("seed_category", _CATEGORY, nullable=False),
        sa.Column("category", _CATEGORY, nullable=False),
        sa.Column("opinion", _CATEGORY, nullable=False),
        sa.Column("state", _STATE, nullable=False),
        sa.Column("llm", sa.String(length=64), nullable=False),
        sa.Column("template", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewer", sa.String(length=64), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["pick_id"], ["pick.id"], name=op.f("fk_contrast_pick_id_pick"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_contrast_message_id_message"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["cycle_id"], ["cycle.id"], name=op.f("fk_contrast_cycle_id_cycle"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contrast")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_contrast_fingerprint")),
    )
    for column in ("pick_id", "message_id", "cycle_id", "key_id", "state"):
        op.create_index(op.f(f"ix_contrast_{column}"), "contrast", [column], unique=False)
    op.add_column("pick", sa.Column("contrasted_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("snapshot_item", schema=None) as batch_op:
        batch_op.add_column(sa.Column("contrast_id", _INTEGER, nullable=True))
        batch_op.create_foreign_key(
            op.f("fk_snapshot_item_contrast_id_contrast"), "contrast", ["contrast_id"], ["id"], ondelete="CASCADE"
        )
        batch_op.create_index(batch_op.f("ix_snapshot_item_contrast_id"), ["contrast_id"], unique=False)


def downgrade() -> None:
    """Undo; the confirmed contrasts leave the frozen data sets."""
    op.execute("DELETE FROM snapshot_item WHERE contrast_id IS NOT NULL")
    with op.batch_alter_table("snapshot_item", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_snapshot_item_contrast_id"))
        batch_op.drop_constraint(batch_op.f("fk_snapshot_item_contrast_id_contrast"), type_="foreignkey")
        batch_op.drop_column("contrast_id")
    op.drop_column("pick", "contrasted_at")
    op.drop_table("contrast")
