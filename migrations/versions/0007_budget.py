"""a day's budget

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

RESERVATIONS = {"asks": "reserved", "calls": "budget_reserved"}


def upgrade() -> None:
    op.create_table(
        "budget_days",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("budget", sa.Numeric(precision=18, scale=9), nullable=False),
        sa.Column("spent", sa.Numeric(precision=18, scale=9), server_default="0", nullable=False),
        sa.Column("reserved", sa.Numeric(precision=18, scale=9), server_default="0", nullable=False),
        sa.Column("settled", sa.Numeric(precision=18, scale=9), server_default="0", nullable=False),
        sa.Column("granted", sa.Numeric(precision=18, scale=9), server_default="0", nullable=False),
        sa.Column("asked", sa.Integer(), server_default="0", nullable=False),
        sa.Column("arrivals", sa.ARRAY(sa.Integer(), dimensions=1), server_default="{}", nullable=False),
        sa.Column("profile", sa.ARRAY(sa.Integer(), dimensions=1), server_default="{}", nullable=False),
        sa.Column("confidences", sa.ARRAY(sa.REAL(), dimensions=1), server_default="{}", nullable=False),
        sa.Column("bundle_id", sa.BigInteger(), nullable=True),
        sa.Column("carry", sa.REAL(), server_default="0", nullable=False),
        sa.Column("threshold", sa.REAL(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("spent >= 0 AND reserved >= 0", name=op.f("ck_budget_days_amounts")),
        sa.CheckConstraint("unit IN ('usd', 'calls')", name=op.f("ck_budget_days_unit")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_budget_days_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budget_days")),
        sa.UniqueConstraint("classifier_id", "day", "unit", name=op.f("uq_budget_days_classifier_id_day_unit")),
    )
    for table, reserved in RESERVATIONS.items():
        op.add_column(table, sa.Column("budget_day_id", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column(reserved, sa.Numeric(precision=18, scale=9), nullable=True))
        op.create_foreign_key(
            op.f(f"fk_{table}_budget_day_id_budget_days"), table, "budget_days", ["budget_day_id"], ["id"]
        )
        op.create_check_constraint(op.f(f"ck_{table}_budget"), table, f"(budget_day_id IS NULL) = ({reserved} IS NULL)")


def downgrade() -> None:
    for table, reserved in RESERVATIONS.items():
        op.drop_constraint(op.f(f"ck_{table}_budget"), table, type_="check")
        op.drop_constraint(op.f(f"fk_{table}_budget_day_id_budget_days"), table, type_="foreignkey")
        op.drop_column(table, reserved)
        op.drop_column(table, "budget_day_id")
    op.drop_table("budget_days")
