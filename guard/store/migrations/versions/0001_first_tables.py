"""first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_key",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column(
            "role", sa.Enum("client", "reviewer", "admin", name="role", native_enum=False, length=16), nullable=False
        ),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_key_digest")),
        sa.UniqueConstraint("name", name=op.f("uq_api_key_name")),
    )
    op.create_table(
        "cycle",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "selecting",
                "labelling",
                "generating",
                "training",
                "gating",
                "promoted",
                "held",
                "failed",
                name="cyclestate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("strategy", sa.String(length=32), nullable=False),
        sa.Column("seed", _INTEGER, nullable=False),
        sa.Column("batch_size", _INTEGER, nullable=False),
        sa.Column("labels_spent", _INTEGER, nullable=False),
        sa.Column("champion", sa.String(length=16), nullable=False),
        sa.Column("challenger", sa.String(length=16), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("timeline", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cycle")),
    )
    with op.batch_alter_table("cycle", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_cycle_state"), ["state"], unique=False)

    op.create_table(
        "erasure",
        sa.Column("user_hash", sa.String(length=64), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_hash", name=op.f("pk_erasure")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("fence", _INTEGER, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "message",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("inclusion_probability", sa.Float(), nullable=False),
        sa.Column("model_version", sa.String(length=16), nullable=False),
        sa.Column(
            "category",
            sa.Enum(
                "self-harm",
                "medical-advice",
                "legal-advice",
                "financial-advice",
                "emergency-situation",
                "not-harmful",
                name="category",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("uncertainty", sa.Float(), nullable=False),
        sa.Column("seen_count", _INTEGER, nullable=False),
        sa.Column("anonymous", sa.Boolean(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "state",
            sa.Enum("pooled", "picked", "labelled", "unclear", name="messagestate", native_enum=False, length=16),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_message_fingerprint")),
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_message_key_id"), ["key_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_message_last_seen_at"), ["last_seen_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_message_state_id"), ["state", "id"], unique=False)

    op.create_table(
        "pick",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("cycle_id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("position", _INTEGER, nullable=False),
        sa.Column("reason", sa.JSON(), nullable=False),
        sa.Column("inclusion_probability", sa.Float(), nullable=True),
        sa.Column(
            "state",
            sa.Enum("waiting", "labelled", "unclear", "returned", name="pickstate", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("leased_by", sa.String(length=64), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("varied_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycle.id"], name=op.f("fk_pick_cycle_id_cycle"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_pick_message_id_message"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pick")),
        sa.UniqueConstraint("cycle_id", "message_id", name=op.f("uq_pick_cycle_id_message_id")),
    )
    with op.batch_alter_table("pick", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_pick_cycle_id_state_position"), ["cycle_id", "state", "position"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_pick_message_id"), ["message_id"], unique=False)

    op.create_table(
        "sighting",
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=False),
        sa.Column("seen_count", _INTEGER, nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_sighting_message_id_message"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("message_id", "user_hash", name=op.f("pk_sighting")),
    )
    with op.batch_alter_table("sighting", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sighting_user_hash"), ["user_hash"], unique=False)

    op.create_table(
        "variation",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("cycle_id", _INTEGER, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column(
            "category",
            sa.Enum(
                "self-harm",
                "medical-advice",
                "legal-advice",
                "financial-advice",
                "emergency-situation",
                "not-harmful",
                name="category",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("llm", sa.String(length=64), nullable=False),
        sa.Column("template", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["cycle_id"], ["cycle.id"], name=op.f("fk_variation_cycle_id_cycle"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_variation_message_id_message"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_variation")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_variation_fingerprint")),
    )
    with op.batch_alter_table("variation", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_variation_cycle_id"), ["cycle_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_variation_key_id"), ["key_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_variation_message_id"), ["message_id"], unique=False)

    op.create_table(
        "label",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("pick_id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("reviewer", sa.String(length=64), nullable=False),
        sa.Column(
            "category",
            sa.Enum(
                "self-harm",
                "medical-advice",
                "legal-advice",
                "financial-advice",
                "emergency-situation",
                "not-harmful",
                name="category",
                native_enum=False,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("idempotency_key", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_label_message_id_message"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["pick_id"], ["pick.id"], name=op.f("fk_label_pick_id_pick"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_label_idempotency_key")),
    )
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_label_message_id"), ["message_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_label_pick_id"), ["pick_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_label_reviewer_decided_at"), ["reviewer", "decided_at"], unique=False)

    op.create_table(
        "snapshot_item",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("cycle_id", _INTEGER, nullable=False),
        sa.Column("message_id", _INTEGER, nullable=False),
        sa.Column("variation_id", _INTEGER, nullable=True),
        sa.Column(
            "category",
            sa.Enum(
                "self-harm",
                "medical-advice",
                "legal-advice",
                "financial-advice",
                "emergency-situation",
                "not-harmful",
                name="category",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["cycle_id"], ["cycle.id"], name=op.f("fk_snapshot_item_cycle_id_cycle"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_snapshot_item_message_id_message"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["variation_id"], ["variation.id"], name=op.f("fk_snapshot_item_variation_id_variation"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot_item")),
    )
    with op.batch_alter_table("snapshot_item", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_snapshot_item_cycle_id"), ["cycle_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_snapshot_item_message_id"), ["message_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_snapshot_item_variation_id"), ["variation_id"], unique=False)


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("snapshot_item", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_snapshot_item_variation_id"))
        batch_op.drop_index(batch_op.f("ix_snapshot_item_message_id"))
        batch_op.drop_index(batch_op.f("ix_snapshot_item_cycle_id"))

    op.drop_table("snapshot_item")
    with op.batch_alter_table("label", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_label_reviewer_decided_at"))
        batch_op.drop_index(batch_op.f("ix_label_pick_id"))
        batch_op.drop_index(batch_op.f("ix_label_message_id"))

    op.drop_table("label")
    with op.batch_alter_table("variation", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_variation_message_id"))
        batch_op.drop_index(batch_op.f("ix_variation_key_id"))
        batch_op.drop_index(batch_op.f("ix_variation_cycle_id"))

    op.drop_table("variation")
    with op.batch_alter_table("sighting", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sighting_user_hash"))

    op.drop_table("sighting")
    with op.batch_alter_table("pick", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_pick_message_id"))
        batch_op.drop_index(batch_op.f("ix_pick_cycle_id_state_position"))

    op.drop_table("pick")
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_message_state_id"))
        batch_op.drop_index(batch_op.f("ix_message_last_seen_at"))
        batch_op.drop_index(batch_op.f("ix_message_key_id"))

    op.drop_table("message")
    op.drop_table("lease")
    op.drop_table("erasure")
    with op.batch_alter_table("cycle", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_cycle_state"))

    op.drop_table("cycle")
    op.drop_table("api_key")
