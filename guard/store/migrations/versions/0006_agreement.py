"""agreement: how many opinions a pick asks for, what it is settled as, and adjudications."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
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
_OPINION = sa.text("undone_at IS NULL AND NOT adjudicates")


def upgrade() -> None:
    """Apply. Until now one label settled a pick, the latest where a file brought several."""
    op.add_column("pick", sa.Column("wanted", _INTEGER, nullable=False, server_default="1"))
    op.add_column("pick", sa.Column("category", _CATEGORY, nullable=True))
    op.add_column("label", sa.Column("adjudicates", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE pick SET category = (SELECT label.category FROM label WHERE label.id = "
        "(SELECT max(l.id) FROM label AS l WHERE l.pick_id = pick.id AND l.undone_at IS NULL AND l.category IS NOT NULL)) "
        "WHERE pick.state = 'labelled'"
    )
    # a file may have brought two labels of one name for one message: the latest was what counted
    op.execute(
        "UPDATE label SET undone_at = decided_at WHERE undone_at IS NULL AND EXISTS (SELECT 1 FROM label AS later "
        "WHERE later.pick_id = label.pick_id AND later.reviewer = label.reviewer AND later.undone_at IS NULL "
        "AND later.id > label.id)"
    )
    op.create_index(
        op.f("ix_label_pick_id_reviewer"),
        "label",
        ["pick_id", "reviewer"],
        unique=True,
        sqlite_where=_OPINION,
        postgresql_where=_OPINION,
    )


def downgrade() -> None:
    """Undo; adjudications become opinions, and conflicts count as what nobody can tell."""
    op.drop_index(op.f("ix_label_pick_id_reviewer"), table_name="label")
    op.execute("UPDATE pick SET state = 'unclear' WHERE state = 'contested'")
    op.execute("UPDATE message SET state = 'unclear' WHERE state = 'contested'")
    op.drop_column("label", "adjudicates")
    op.drop_column("pick", "category")
    op.drop_column("pick", "wanted")
