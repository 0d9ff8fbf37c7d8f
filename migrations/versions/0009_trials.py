"""proofs of promises: trials, their answers, guards, events

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
_LIVE_QUALITY = """
    CREATE VIEW live_quality AS
    SELECT classifiers.name AS classifier, (asks.created_at AT TIME ZONE 'UTC')::date AS day,
           count(*) AS audits,
           count(*) FILTER (WHERE scores.kept) AS audits_of_kept,
           sum((scores.label = answers.label)::int / asks.propensity) FILTER (WHERE scores.kept)
             / sum(1 / asks.propensity) FILTER (WHERE scores.kept) AS kept_agreement,
           sum(CASE WHEN scores.kept THEN (scores.label = answers.label)::int ELSE 1 END / asks.propensity)
             / sum(1 / asks.propensity) AS agreement
      FROM asks JOIN classifiers ON classifiers.id = asks.classifier_id
      JOIN answers ON answers.ask_id = asks.id
      LEFT JOIN scores ON scores.id = asks.score_id
     WHERE asks.role = 'judge'
     GROUP BY 1, 2
"""
_STATES = "'due', 'running', 'promoted', 'rejected', 'overtaken', 'failed'"
_CAUSES = "'distillation', 'person', 'rollback', 'labels'"


def upgrade() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("bundle_id", sa.BigInteger(), nullable=False),
        sa.Column("promise", postgresql.JSONB(), nullable=False),
        sa.Column("delta", sa.DOUBLE_PRECISION(), nullable=False),
        sa.Column("thresholds", postgresql.ARRAY(sa.DOUBLE_PRECISION(), dimensions=1), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("after_ask", sa.BigInteger(), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), server_default="0", nullable=False),
        sa.Column("missing", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_why", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_trials_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_trials_bundle_id_bundles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
    )
    still_open = sa.text("ended_at IS NULL")
    op.create_index(op.f("ix_trials_classifier_id"), "trials", ["classifier_id"])
    op.create_index("uq_trials_open", "trials", ["bundle_id"], unique=True, postgresql_where=still_open)
    op.create_index("ix_trials_open", "trials", ["classifier_id"], postgresql_where=still_open)
    op.create_table(
        "trial_answers",
        sa.Column("trial_id", sa.BigInteger(), nullable=False),
        sa.Column("ask_id", sa.BigInteger(), nullable=False),
        sa.Column("confidence", sa.DOUBLE_PRECISION(), nullable=False),
        sa.Column("said", sa.SmallInteger(), nullable=False),
        sa.Column("truth", sa.SmallInteger(), nullable=False),
        sa.Column("weight", sa.REAL(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("llm", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_trial_answers_trial_id_trials")),
        sa.ForeignKeyConstraint(["ask_id"], ["asks.id"], name=op.f("fk_trial_answers_ask_id_asks")),
        sa.PrimaryKeyConstraint("trial_id", "ask_id", name=op.f("pk_trial_answers")),
    )
    op.create_table(
        "guards",
        sa.Column("trial_id", sa.BigInteger(), nullable=False),
        sa.Column("rung", sa.Text(), server_default="calm", nullable=False),
        sa.Column("scores", postgresql.JSONB(), nullable=False),
        sa.Column("audits", postgresql.JSONB(), nullable=False),
        sa.Column("last_score", sa.BigInteger(), nullable=False),
        sa.Column("last_ask", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("rung IN ('calm', 'watching', 'suspended')", name=op.f("ck_guards_rung")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_guards_trial_id_trials")),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("pk_guards")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_events_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_classifier", "events", ["classifier_id", "id"])
    op.add_column("classifiers", sa.Column("audit_rate", sa.REAL(), nullable=True))
    op.add_column("certificates", sa.Column("trial_id", sa.BigInteger(), nullable=True))
    op.add_column("certificates", sa.Column("findings", postgresql.JSONB(), nullable=True))
    op.add_column(
        "certificates",
        sa.Column("granted_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    # by way of its decimal digits: 0.9 as `real` is 0.8999999761581421
    op.alter_column(
        "certificates", "threshold", type_=sa.DOUBLE_PRECISION(), postgresql_using="threshold::text::double precision"
    )
    op.drop_constraint(op.f("ck_distillations_state"), "distillations")
    op.create_check_constraint(op.f("ck_distillations_state"), "distillations", f"state IN ({_STATES}, 'uncertified')")
    op.drop_constraint(op.f("ck_promotions_cause"), "promotions")
    op.create_check_constraint(op.f("ck_promotions_cause"), "promotions", f"cause IN ({_CAUSES}, 'certificate')")
    op.create_foreign_key(op.f("fk_certificates_trial_id_trials"), "certificates", "trials", ["trial_id"], ["id"])
    op.create_index(
        "ix_certificates_standing", "certificates", ["bundle_id"], postgresql_where=sa.text("revoked_at IS NULL")
    )
    # Judge answers are read in the order of their asks, beside millions that train.
    op.create_index("ix_asks_judge", "asks", ["classifier_id", "id"], postgresql_where=sa.text("role = 'judge'"))
    op.execute(_LIVE_QUALITY)


def downgrade() -> None:
    op.execute("DROP VIEW live_quality")
    op.drop_index("ix_asks_judge", "asks")
    op.drop_index("ix_certificates_standing", "certificates")
    op.drop_constraint(op.f("fk_certificates_trial_id_trials"), "certificates", type_="foreignkey")
    op.execute("DELETE FROM certificates WHERE trial_id IS NOT NULL")
    op.drop_column("certificates", "granted_at")
    op.drop_column("certificates", "findings")
    op.drop_column("certificates", "trial_id")
    op.alter_column("certificates", "threshold", type_=sa.REAL())
    op.execute("UPDATE promotions SET cause = 'distillation' WHERE cause = 'certificate'")
    op.drop_constraint(op.f("ck_promotions_cause"), "promotions")
    op.create_check_constraint(op.f("ck_promotions_cause"), "promotions", f"cause IN ({_CAUSES})")
    op.execute("UPDATE distillations SET state = 'rejected' WHERE state = 'uncertified'")
    op.drop_constraint(op.f("ck_distillations_state"), "distillations")
    op.create_check_constraint(op.f("ck_distillations_state"), "distillations", f"state IN ({_STATES})")
    op.drop_column("classifiers", "audit_rate")
    op.drop_table("events")
    op.drop_table("guards")
    op.drop_table("trial_answers")
    op.drop_table("trials")
