"""items that are forgotten

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
_BEFORE = "state IN ('queued', 'scoring', 'asked', 'held', 'done', 'dead')"
_AFTER = "state IN ('queued', 'scoring', 'asked', 'held', 'done', 'dead', 'forgotten')"
_ASKS_BEFORE = "state IN ('waiting', 'calling', 'answered', 'dead', 'withdrawn')"
_ASKS_AFTER = "state IN ('waiting', 'calling', 'answered', 'dead', 'withdrawn', 'forgotten')"


def upgrade() -> None:
    op.drop_constraint(op.f("ck_items_state"), "items", type_="check")
    op.create_check_constraint(op.f("ck_items_state"), "items", _AFTER)
    op.drop_constraint(op.f("ck_asks_state"), "asks", type_="check")
    op.create_check_constraint(op.f("ck_asks_state"), "asks", _ASKS_AFTER)
    op.create_table(
        "forgotten",
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("bundles", postgresql.ARRAY(sa.Integer(), dimensions=1), nullable=False),
        sa.Column("forgotten_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_forgotten_item_id_items")),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_forgotten")),
    )


def downgrade() -> None:
    op.drop_table("forgotten")
    op.execute("UPDATE asks SET state = 'withdrawn' WHERE state = 'forgotten'")
    op.drop_constraint(op.f("ck_asks_state"), "asks", type_="check")
    op.create_check_constraint(op.f("ck_asks_state"), "asks", _ASKS_BEFORE)
    op.drop_constraint(op.f("ck_items_state"), "items", type_="check")
    op.execute(
        "INSERT INTO dead_letters (classifier_id, item_id, reason, detail)"
        " SELECT classifier_id, id, 'forgotten', 'its text was forgotten' FROM items WHERE state = 'forgotten'"
    )
    op.execute("UPDATE items SET state = 'dead', source = NULL, done_at = NULL WHERE state = 'forgotten'")
    op.create_check_constraint(op.f("ck_items_state"), "items", _BEFORE)
