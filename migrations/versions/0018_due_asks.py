"""asks by the time at which they are due

Revision ID: 0018
Revises: 0017

It may be made before, CONCURRENTLY, while workers run: see docs/scale.md.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    broken_off = "SELECT FROM pg_index WHERE indexrelid = to_regclass('ix_asks_due') AND NOT indisvalid"
    if op.get_bind().execute(sa.text(broken_off)).first() is not None:
        op.drop_index("ix_asks_due", table_name="asks")
    op.create_index(
        "ix_asks_due",
        "asks",
        ["classifier_id", "not_before"],
        postgresql_where=sa.text("state = 'waiting' AND not_before > '-infinity'"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("ix_asks_due", table_name="asks")
