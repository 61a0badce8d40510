"""people's checks of variations, and leases on what they check."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_VERDICT = sa.Enum("holds", "flips", "unclear", name="pairverdict", native_enum=False, length=16)


def upgrade() -> None:
    """Apply; nothing was checked until now."""
    for table in ("variation", "contrast"):
        op.add_column(table, sa.Column("leased_by", sa.String(length=64), nullable=True))
        op.add_column(table, sa.Column("leased_until", _TIME, nullable=True))
    op.add_column("variation", sa.Column("verdict", _VERDICT, nullable=True))
    op.add_column("variation", sa.Column("reviewer", sa.String(length=64), nullable=True))
    op.add_column("variation", sa.Column("decided_at", _TIME, nullable=True))
    op.create_index(op.f("ix_variation_leased_by"), "variation", ["leased_by"], unique=False)
    op.create_index(op.f("ix_variation_reviewer_decided_at"), "variation", ["reviewer", "decided_at"], unique=False)


def downgrade() -> None:
    """Undo; variations that people took out are trained on again."""
    op.drop_index(op.f("ix_variation_reviewer_decided_at"), table_name="variation")
    op.drop_index(op.f("ix_variation_leased_by"), table_name="variation")
    for column in ("decided_at", "reviewer", "verdict"):
        op.drop_column("variation", column)
    for table in ("contrast", "variation"):
        for column in ("leased_until", "leased_by"):
            op.drop_column(table, column)
