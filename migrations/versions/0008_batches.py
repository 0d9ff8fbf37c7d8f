"""batches, and deadlines of items

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATES = "'building', 'uploaded', 'submitted', 'completed', 'expired', 'failed', 'harvested'"
MOMENT = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")
WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    _create_batches()
    op.create_index(op.f("ix_batches_classifier_id"), "batches", ["classifier_id"])
    op.create_index(
        "uq_batches_building",
        "batches",
        ["classifier_id"],
        unique=True,
        postgresql_where=sa.text("state = 'building'"),
    )
    op.create_index("ix_batches_open", "batches", ["due_at"], postgresql_where=sa.text("state <> 'harvested'"))
    op.add_column("items", sa.Column("deadline", MOMENT, nullable=True))
    op.add_column("asks", sa.Column("deadline", MOMENT, nullable=True))
    op.add_column("asks", sa.Column("batchable", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.drop_index("ix_asks_waiting", table_name="asks")
    _index_waiting("deadline", "id")
    op.create_index(
        "ix_asks_in_batch",
        "asks",
        ["lease_token"],
        postgresql_where=sa.text("state = 'calling' AND lease_until IS NULL"),
    )
    op.add_column("calls", sa.Column("batch_id", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_calls_batch_id_batches"), "calls", "batches", ["batch_id"], ["id"])
    op.create_index(
        "uq_calls_batch",
        "calls",
        ["batch_id", "ask_id"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )


def _index_waiting(*last: str) -> None:
    op.create_index(
        "ix_asks_waiting",
        "asks",
        ["classifier_id", "priority", sa.text("reason DESC"), *last],
        postgresql_where=WAITING,
    )


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("key", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("state", sa.Text(), server_default="building", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=True)
            for name in ("input_file_id", "remote_id", "output_file_id", "error_file_id", "ended_as", "error")
        ),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("due_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("announced_at", MOMENT, server_default=sa.text("'-infinity'"), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("submitted_at", MOMENT, nullable=True),
        sa.Column("harvested_at", MOMENT, nullable=True),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_batches_state")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_batches_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(
            ["classifier_id", "spec_version"],
            ["specs.classifier_id", "specs.version"],
            name=op.f("fk_batches_classifier_id_specs"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("key", name=op.f("uq_batches_key")),
    )


def downgrade() -> None:
    """Asks that a batch has wait again; what it may have cost is booked as unknown."""
    op.execute(
        "UPDATE calls SET state = 'unknown', cost_usd = reserved_usd, settled_at = now(), error_kind = 'no_reply'"
        " WHERE state = 'sent' AND batch_id IS NOT NULL"
    )
    op.execute("UPDATE asks SET state = 'waiting', lease_token = NULL WHERE state = 'calling' AND lease_until IS NULL")
    op.drop_index("uq_calls_batch", table_name="calls")
    op.drop_constraint(op.f("fk_calls_batch_id_batches"), "calls", type_="foreignkey")
    op.drop_column("calls", "batch_id")
    op.drop_index("ix_asks_in_batch", table_name="asks")
    op.drop_index("ix_asks_waiting", table_name="asks")
    _index_waiting("id")
    op.drop_column("asks", "batchable")
    op.drop_column("asks", "deadline")
    op.drop_column("items", "deadline")
    op.drop_table("batches")
