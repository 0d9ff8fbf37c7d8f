"""fallback models, shortened items

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("asks", sa.Column("fallback", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("asks", sa.Column("keep_chars", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_asks_fallback"), "asks", "fallback = 0 OR role = 'train'")
    op.add_column("answers", sa.Column("fallback", sa.Boolean(), server_default="false", nullable=False))
    op.create_check_constraint(op.f("ck_answers_fallback"), "answers", "NOT fallback OR role = 'train'")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_answers_fallback"), "answers")
    op.drop_column("answers", "fallback")
    op.drop_constraint(op.f("ck_asks_fallback"), "asks")
    op.drop_column("asks", "keep_chars")
    op.drop_column("asks", "fallback")
