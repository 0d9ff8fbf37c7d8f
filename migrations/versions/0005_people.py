"""labels of people, samples for them, asks that were withdrawn

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outcomes", sa.Column("labelled_by", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_outcomes_labelled_by"), "outcomes", "labelled_by IS NULL OR source = 'human'")
    _ask_states("'waiting', 'calling', 'answered', 'dead', 'withdrawn'")
    op.create_table(
        "samples",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("population", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Integer(), nullable=False),
        sa.Column("audit_rate", sa.Double(), nullable=False),
        sa.Column("audited", sa.Integer(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("up_to_outcome", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("propensity > 0 AND propensity <= 1", name=op.f("ck_samples_propensity")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_samples_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_samples")),
        sa.UniqueConstraint("classifier_id", "seed", name=op.f("uq_samples_classifier_id_seed")),
    )
    op.create_table(
        "sampled_items",
        sa.Column("sample_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("outcome_id", sa.BigInteger(), nullable=False),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["samples.id"], name=op.f("fk_sampled_items_sample_id_samples"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_sampled_items_item_id_items")),
        sa.ForeignKeyConstraint(["outcome_id"], ["outcomes.id"], name=op.f("fk_sampled_items_outcome_id_outcomes")),
        sa.PrimaryKeyConstraint("sample_id", "item_id", name=op.f("pk_sampled_items")),
    )


def downgrade() -> None:
    op.drop_table("sampled_items")
    op.drop_table("samples")
    op.execute("UPDATE asks SET state = 'dead' WHERE state = 'withdrawn'")
    _ask_states("'waiting', 'calling', 'answered', 'dead'")
    op.drop_constraint(op.f("ck_outcomes_labelled_by"), "outcomes")
    op.drop_column("outcomes", "labelled_by")


def _ask_states(listed: str) -> None:
    op.drop_constraint(op.f("ck_asks_state"), "asks")
    op.create_check_constraint(op.f("ck_asks_state"), "asks", f"state IN ({listed})")
