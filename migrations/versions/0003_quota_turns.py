"""asks in the order in which they are asked: priority, escalations, age

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    op.add_column("asks", sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False))
    op.execute(
        "UPDATE asks SET priority = items.priority FROM items"
        " WHERE items.id = asks.item_id AND items.priority <> 0 AND asks.state <> 'answered'"
    )
    op.drop_index("ix_asks_waiting", table_name="asks")
    op.create_index(
        "ix_asks_waiting",
        "asks",
        ["classifier_id", "priority", sa.text("reason DESC"), "id"],
        postgresql_where=WAITING,
    )


def downgrade() -> None:
    op.drop_index("ix_asks_waiting", table_name="asks")
    op.create_index("ix_asks_waiting", "asks", ["classifier_id", "id"], postgresql_where=WAITING)
    op.drop_column("asks", "priority")
