"""scores that a distillation may see

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("distillations", sa.Column("up_to_score", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("distillations", "up_to_score")
