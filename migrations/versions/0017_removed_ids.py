"""up to when ids were removed, so that receipts can say so

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "removed_ids",
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("until", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_removed_ids_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("classifier_id", name=op.f("pk_removed_ids")),
    )
    # Ids that went before this table was there: nobody knows when their items ended, but before now.
    op.execute("INSERT INTO removed_ids SELECT DISTINCT classifier_id, now() FROM past_items")


def downgrade() -> None:
    op.drop_table("removed_ids")
