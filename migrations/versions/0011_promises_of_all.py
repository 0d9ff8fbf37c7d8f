"""promises of all items: cuts that were tried, answers of other models; views of the quality by label

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
_BY_LABEL = """
    CREATE VIEW live_quality_by_label AS
    SELECT classifiers.name AS classifier, (asks.created_at AT TIME ZONE 'UTC')::date AS day, scores.label,
           count(*) AS audits_of_kept,
           sum((scores.label = answers.label)::int / asks.propensity) / sum(1 / asks.propensity) AS kept_agreement
      FROM asks JOIN classifiers ON classifiers.id = asks.classifier_id
      JOIN answers ON answers.ask_id = asks.id
      JOIN scores ON scores.id = asks.score_id
     WHERE asks.role = 'judge' AND scores.kept
     GROUP BY 1, 2, 3
"""
_OF_PEOPLE = """
    CREATE VIEW people_quality AS
    SELECT classifiers.name AS classifier, samples.seed, samples.created_at AS drawn_at, drawn.label,
           count(*) AS labelled, avg((drawn.label = said.label)::int) AS agreement,
           count(*) FILTER (WHERE drawn.source = 'small') AS labelled_of_kept,
           avg((drawn.label = said.label)::int) FILTER (WHERE drawn.source = 'small') AS kept_agreement
      FROM samples JOIN classifiers ON classifiers.id = samples.classifier_id
      JOIN sampled_items ON sampled_items.sample_id = samples.id
      JOIN outcomes drawn ON drawn.id = sampled_items.outcome_id
      JOIN LATERAL (SELECT label FROM outcomes
                     WHERE item_id = sampled_items.item_id AND source = 'human' ORDER BY id DESC LIMIT 1) said ON true
     GROUP BY GROUPING SETS ((1, 2, 3), (1, 2, 3, 4))
"""


def upgrade() -> None:
    op.add_column("trials", sa.Column("cuts", postgresql.JSONB(), nullable=True))
    op.add_column("trials", sa.Column("asked", sa.Integer(), server_default="0", nullable=False))
    op.add_column("trials", sa.Column("stood_in", sa.Integer(), server_default="0", nullable=False))
    op.add_column("trials", sa.Column("asked_up_to", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("trial_answers", sa.Column("reach", sa.DOUBLE_PRECISION(), nullable=True))
    op.execute(_BY_LABEL)
    op.execute(_OF_PEOPLE)
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
    op.execute("DROP VIEW people_quality")
    op.execute("DROP VIEW live_quality_by_label")
    op.drop_column("trial_answers", "reach")
    for name in ("asked_up_to", "stood_in", "asked", "cuts"):
        op.drop_column("trials", name)
