"""promises of all items: cuts that were tried, answers of other models

Revision ID: 0011
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("cuts", postgresql.JSONB(), nullable=True))
    op.add_column("trials", sa.Column("asked", sa.Integer(), server_default="0", nullable=False))
    op.add_column("trials", sa.Column("stood_in", sa.Integer(), server_default="0", nullable=False))
    op.add_column("trials", sa.Column("asked_up_to", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("trial_answers", sa.Column("reach", sa.DOUBLE_PRECISION(), nullable=True))
    # What was proven of all items took a nominal share for what pruning misses: it is proven anew.
    op.execute(
        "UPDATE certificates SET revoked_at = now(), revoked_why = 'what pruned prompts miss is measured now'"
        " FROM trials WHERE trials.id = trial_id AND revoked_at IS NULL AND promise ->> 'of' = 'all'"
    )
    op.execute(
        "UPDATE trials SET ended_at = now(), ended_why = 'what pruned prompts miss is measured now'"
        " WHERE ended_at IS NULL AND promise ->> 'of' = 'all'"
    )


def downgrade() -> None:
    op.drop_column("trial_answers", "reach")
    for name in ("asked_up_to", "stood_in", "asked", "cuts"):
        op.drop_column("trials", name)
