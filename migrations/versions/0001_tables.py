"""tables

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "classifiers",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("draw_key", sa.LargeBinary(), nullable=False),
        sa.Column("incumbent_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_classifiers")),
        sa.UniqueConstraint("name", name=op.f("uq_classifiers_name")),
    )
    op.create_table(
        "due",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_due")),
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("classifier", sa.Text(), nullable=False),
        sa.Column("payload_hash", sa.LargeBinary(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("known", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submissions")),
    )
    op.create_table(
        "bundles",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("labels_hash", sa.Text(), nullable=False),
        sa.Column("labels", sa.ARRAY(sa.Text(), dimensions=1), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("prune_cut", sa.REAL(), nullable=True),
        sa.Column("evaluation", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('challenger', 'rejected', 'promoted', 'retired')", name=op.f("ck_bundles_state")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_bundles_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["bundles.id"], name=op.f("fk_bundles_parent_id_bundles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bundles")),
        sa.UniqueConstraint("classifier_id", "version", name=op.f("uq_bundles_classifier_id_version")),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("submission_id", sa.Text(), nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "announced_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("outcome_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("done_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'done') = (outcome_id IS NOT NULL AND label IS NOT NULL)", name=op.f("ck_items_outcome")
        ),
        sa.CheckConstraint("source IN ('small', 'llm', 'human')", name=op.f("ck_items_source")),
        sa.CheckConstraint(
            "state IN ('queued', 'scoring', 'asked', 'held', 'done', 'dead')", name=op.f("ck_items_state")
        ),
        sa.ForeignKeyConstraint(["classifier_id"], ["classifiers.id"], name=op.f("fk_items_classifier_id_classifiers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("classifier_id", "key", name=op.f("uq_items_classifier_id_key")),
    )
    op.create_index(
        "ix_items_open",
        "items",
        ["classifier_id", "state"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'scoring', 'asked', 'held')"),
    )
    op.create_index(
        "ix_items_queued",
        "items",
        ["classifier_id", "priority", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_items_scoring",
        "items",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'scoring'"),
    )
    op.create_table(
        "refusals",
        sa.Column("submission_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submissions.id"],
            name=op.f("fk_refusals_submission_id_submissions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("submission_id", "position", name=op.f("pk_refusals")),
    )
    op.create_table(
        "specs",
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("spec_hash", sa.Text(), nullable=False),
        sa.Column("labels_hash", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("labels", sa.ARRAY(sa.Text(), dimensions=1), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["classifier_id"], ["classifiers.id"], name=op.f("fk_specs_classifier_id_classifiers")),
        sa.PrimaryKeyConstraint("classifier_id", "version", name=op.f("pk_specs")),
    )
    op.create_table(
        "asks",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("score_id", sa.BigInteger(), nullable=True),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("propensity", sa.REAL(), nullable=True),
        sa.Column("offered", sa.ARRAY(sa.Text(), dimensions=1), nullable=True),
        sa.Column("prior", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("misses", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("not_before", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "announced_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(propensity IS NULL) = (role = 'train')", name=op.f("ck_asks_held_out")),
        sa.CheckConstraint("reason IN ('escalation', 'audit')", name=op.f("ck_asks_reason")),
        sa.CheckConstraint("role IN ('train', 'fit', 'judge')", name=op.f("ck_asks_role")),
        sa.CheckConstraint("state IN ('waiting', 'calling', 'answered', 'dead')", name=op.f("ck_asks_state")),
        sa.CheckConstraint("propensity IS NULL OR (offered IS NULL AND prior IS NULL)", name=op.f("ck_asks_reference")),
        sa.ForeignKeyConstraint(["classifier_id"], ["classifiers.id"], name=op.f("fk_asks_classifier_id_classifiers")),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_asks_item_id_items")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asks")),
    )
    op.create_index(
        "ix_asks_calling",
        "asks",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'calling'"),
    )
    op.create_index(op.f("ix_asks_item_id"), "asks", ["item_id"], unique=False)
    op.create_index(
        "ix_asks_waiting",
        "asks",
        ["classifier_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "uq_asks_open",
        "asks",
        ["item_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('waiting', 'calling')"),
    )
    op.create_table(
        "certificates",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("bundle_id", sa.BigInteger(), nullable=False),
        sa.Column("threshold", sa.REAL(), nullable=False),
        sa.Column("alpha", sa.REAL(), nullable=False),
        sa.Column("delta", sa.REAL(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("fingerprints", sa.ARRAY(sa.Text(), dimensions=1), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("labels_hash", sa.Text(), nullable=False),
        sa.Column("bundle_hash", sa.Text(), nullable=False),
        sa.Column("valid_from", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_why", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_certificates_bundle_id_bundles")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_certificates_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
    )
    op.create_index(op.f("ix_certificates_classifier_id"), "certificates", ["classifier_id"], unique=False)
    op.create_table(
        "delta_ledger",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("delta", sa.REAL(), nullable=False),
        sa.Column("bundle_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('verdict', 'certificate')", name=op.f("ck_delta_ledger_kind")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_delta_ledger_bundle_id_bundles")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_delta_ledger_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delta_ledger")),
    )
    op.create_index(op.f("ix_delta_ledger_classifier_id"), "delta_ledger", ["classifier_id"], unique=False)
    op.create_table(
        "distillations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "announced_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("progress", sa.REAL(), nullable=True),
        sa.Column("up_to_answer", sa.BigInteger(), nullable=True),
        sa.Column("n_train", sa.Integer(), nullable=True),
        sa.Column("n_fit", sa.Integer(), nullable=True),
        sa.Column("n_judge", sa.Integer(), nullable=True),
        sa.Column("incumbent_id", sa.BigInteger(), nullable=True),
        sa.Column("bundle_id", sa.BigInteger(), nullable=True),
        sa.Column("verdict", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('due', 'running', 'promoted', 'rejected', 'overtaken', 'failed')",
            name=op.f("ck_distillations_state"),
        ),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_distillations_bundle_id_bundles")),
        sa.ForeignKeyConstraint(
            ["classifier_id", "spec_version"],
            ["specs.classifier_id", "specs.version"],
            name=op.f("fk_distillations_classifier_id_specs"),
        ),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_distillations_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["incumbent_id"], ["bundles.id"], name=op.f("fk_distillations_incumbent_id_bundles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_distillations")),
    )
    op.create_index(
        "uq_distillations_open",
        "distillations",
        ["classifier_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('due', 'running')"),
    )
    op.create_table(
        "outcomes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "xact",
            sa.BigInteger(),
            server_default=sa.text("(pg_current_xact_id()::text)::bigint"),
            nullable=False,
        ),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("confidence", sa.REAL(), nullable=True),
        sa.Column("probabilities", sa.ARRAY(sa.REAL(), dimensions=1), nullable=True),
        sa.Column("bundle_id", sa.BigInteger(), nullable=True),
        sa.Column("threshold", sa.REAL(), nullable=True),
        sa.Column("score_id", sa.BigInteger(), nullable=True),
        sa.Column("answer_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("source IN ('small', 'llm', 'human')", name=op.f("ck_outcomes_source")),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_outcomes_bundle_id_bundles")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_outcomes_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_outcomes_item_id_items")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outcomes")),
    )
    op.create_index("ix_outcomes_cursor", "outcomes", ["classifier_id", "xact", "id"], unique=False)
    op.create_index(op.f("ix_outcomes_item_id"), "outcomes", ["item_id"], unique=False)
    op.create_table(
        "promotions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("bundle_id", sa.BigInteger(), nullable=True),
        sa.Column("previous_id", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "cause IN ('distillation', 'person', 'rollback', 'labels')", name=op.f("ck_promotions_cause")
        ),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_promotions_bundle_id_bundles")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_promotions_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["previous_id"], ["bundles.id"], name=op.f("fk_promotions_previous_id_bundles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.create_index(op.f("ix_promotions_classifier_id"), "promotions", ["classifier_id"], unique=False)
    op.create_table(
        "scores",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("bundle_id", sa.BigInteger(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("probabilities", sa.ARRAY(sa.REAL(), dimensions=1), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("confidence", sa.REAL(), nullable=False),
        sa.Column("threshold", sa.REAL(), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name=op.f("fk_scores_bundle_id_bundles")),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_scores_item_id_items")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scores")),
    )
    op.create_index(op.f("ix_scores_item_id"), "scores", ["item_id"], unique=False)
    op.create_table(
        "texts",
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_texts_item_id_items")),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_texts")),
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("ask_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="sent", nullable=False),
        sa.Column("reserved_tokens", sa.Integer(), nullable=False),
        sa.Column("reserved_usd", sa.Numeric(precision=18, scale=9), nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=18, scale=9), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("response_model", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_kind", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("latency_ms", sa.REAL(), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("settled_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'sent') = (settled_at IS NULL)", name=op.f("ck_calls_settled")),
        sa.CheckConstraint("state IN ('sent', 'answered', 'failed', 'unknown')", name=op.f("ck_calls_state")),
        sa.ForeignKeyConstraint(["ask_id"], ["asks.id"], name=op.f("fk_calls_ask_id_asks")),
        sa.ForeignKeyConstraint(["classifier_id"], ["classifiers.id"], name=op.f("fk_calls_classifier_id_classifiers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calls")),
    )
    op.create_index(op.f("ix_calls_ask_id"), "calls", ["ask_id"], unique=False)
    op.create_index(op.f("ix_calls_classifier_id"), "calls", ["classifier_id"], unique=False)
    op.create_index("ix_calls_sent", "calls", ["created_at"], unique=False, postgresql_where=sa.text("state = 'sent'"))
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("ask_id", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("replayed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["ask_id"], ["asks.id"], name=op.f("fk_dead_letters_ask_id_asks")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_dead_letters_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_dead_letters_item_id_items")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
    )
    op.create_index(
        "ix_dead_letters_open",
        "dead_letters",
        ["classifier_id", "id"],
        unique=False,
        postgresql_where=sa.text("replayed_at IS NULL"),
    )
    op.create_table(
        "answers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("ask_id", sa.BigInteger(), nullable=False),
        sa.Column("call_id", sa.BigInteger(), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("labels_hash", sa.Text(), nullable=False),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("probabilities", sa.ARRAY(sa.REAL(), dimensions=1), nullable=True),
        sa.Column("probability_source", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("propensity", sa.REAL(), nullable=True),
        sa.Column("had_prior", sa.Boolean(), nullable=False),
        sa.Column("requested_model", sa.Text(), nullable=False),
        sa.Column("llm_model", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('train', 'fit', 'judge')", name=op.f("ck_answers_role")),
        sa.ForeignKeyConstraint(["ask_id"], ["asks.id"], name=op.f("fk_answers_ask_id_asks")),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_answers_call_id_calls")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_answers_classifier_id_classifiers")
        ),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_answers_item_id_items")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
        sa.UniqueConstraint("ask_id", name=op.f("uq_answers_ask_id")),
    )
    op.create_index(op.f("ix_answers_item_id"), "answers", ["item_id"], unique=False)
    op.create_index("ix_answers_learning", "answers", ["classifier_id", "labels_hash", "role", "id"], unique=False)
    op.create_foreign_key("fk_classifiers_incumbent_id_bundles", "classifiers", "bundles", ["incumbent_id"], ["id"])


def downgrade() -> None:
    op.drop_constraint("fk_classifiers_incumbent_id_bundles", "classifiers", type_="foreignkey")
    op.drop_index("ix_answers_learning", table_name="answers")
    op.drop_index(op.f("ix_answers_item_id"), table_name="answers")
    op.drop_table("answers")
    op.drop_index("ix_dead_letters_open", table_name="dead_letters", postgresql_where=sa.text("replayed_at IS NULL"))
    op.drop_table("dead_letters")
    op.drop_index("ix_calls_sent", table_name="calls", postgresql_where=sa.text("state = 'sent'"))
    op.drop_index(op.f("ix_calls_classifier_id"), table_name="calls")
    op.drop_index(op.f("ix_calls_ask_id"), table_name="calls")
    op.drop_table("calls")
    op.drop_table("texts")
    op.drop_index(op.f("ix_scores_item_id"), table_name="scores")
    op.drop_table("scores")
    op.drop_index(op.f("ix_promotions_classifier_id"), table_name="promotions")
    op.drop_table("promotions")
    op.drop_index(op.f("ix_outcomes_item_id"), table_name="outcomes")
    op.drop_index("ix_outcomes_cursor", table_name="outcomes")
    op.drop_table("outcomes")
    op.drop_index(
        "uq_distillations_open",
        table_name="distillations",
        postgresql_where=sa.text("state IN ('due', 'running')"),
    )
    op.drop_table("distillations")
    op.drop_index(op.f("ix_delta_ledger_classifier_id"), table_name="delta_ledger")
    op.drop_table("delta_ledger")
    op.drop_index(op.f("ix_certificates_classifier_id"), table_name="certificates")
    op.drop_table("certificates")
    op.drop_index("uq_asks_open", table_name="asks", postgresql_where=sa.text("state IN ('waiting', 'calling')"))
    op.drop_index("ix_asks_waiting", table_name="asks", postgresql_where=sa.text("state = 'waiting'"))
    op.drop_index(op.f("ix_asks_item_id"), table_name="asks")
    op.drop_index("ix_asks_calling", table_name="asks", postgresql_where=sa.text("state = 'calling'"))
    op.drop_table("asks")
    op.drop_table("specs")
    op.drop_table("refusals")
    op.drop_index("ix_items_scoring", table_name="items", postgresql_where=sa.text("state = 'scoring'"))
    op.drop_index("ix_items_queued", table_name="items", postgresql_where=sa.text("state = 'queued'"))
    op.drop_index(
        "ix_items_open",
        table_name="items",
        postgresql_where=sa.text("state IN ('queued', 'scoring', 'asked', 'held')"),
    )
    op.drop_table("items")
    op.drop_table("bundles")
    op.drop_table("submissions")
    op.drop_table("due")
    op.drop_table("classifiers")
