"""reuse of answers

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("reuse_key", sa.LargeBinary(), nullable=True))
    op.add_column("calls", sa.Column("votes", sa.ARRAY(sa.Text(), dimensions=1), nullable=True))
    op.create_index(
        "ix_calls_in_flight",
        "calls",
        ["classifier_id", "reuse_key"],
        unique=False,
        postgresql_where=sa.text("state = 'sent'"),
    )
    op.add_column("answers", sa.Column("reuse_key", sa.LargeBinary(), nullable=True))
    op.add_column("answers", sa.Column("reused_from", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_answers_reused_from_answers"), "answers", "answers", ["reused_from"], ["id"])
    op.create_check_constraint(op.f("ck_answers_reused"), "answers", "reused_from IS NULL OR role = 'train'")
    op.create_check_constraint(
        op.f("ck_answers_probability_source"),
        "answers",
        "probability_source IN ('decision', 'logprobs', 'samples', 'none')",
    )
    op.create_index(
        "ix_answers_reuse",
        "answers",
        ["classifier_id", "reuse_key"],
        unique=False,
        postgresql_where=sa.text("reused_from IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_answers_reuse", table_name="answers", postgresql_where=sa.text("reused_from IS NULL"))
    op.drop_constraint(op.f("ck_answers_probability_source"), "answers")
    op.drop_constraint(op.f("ck_answers_reused"), "answers")
    op.drop_constraint(op.f("fk_answers_reused_from_answers"), "answers", type_="foreignkey")
    op.drop_column("answers", "reused_from")
    op.drop_column("answers", "reuse_key")
    op.drop_index("ix_calls_in_flight", table_name="calls", postgresql_where=sa.text("state = 'sent'"))
    op.drop_column("calls", "votes")
    op.drop_column("calls", "reuse_key")
