"""Classifiers, submissions, items, and all that happens to an item.

What is written for every item in bulk (items, texts, scores, outcomes) has no foreign keys: PostgreSQL would look each
parent up row by row, a third of its work, and every batch would lock the row of its classifier. The statements that
write them have the parent in hand, and parents are never deleted.

What is said of an item (texts, scores, calls, answers, outcomes) is partitioned by the item's row, whose numbers begin
anew with each month (`store.partitions`): whoever names the item looks into one partition, and a month goes as a whole.
That is why calls and answers have no foreign keys either, and why primary keys of all five end with the item.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.items import AskState, ItemState, ProbabilitySource, Reason, Role, Source
from datashunt.store.tables.base import BY_ITEM, LIVE_ASK, NOW, XACT, Base, of_item, one_of, row_id


class Classifier(Base):
    """A declared problem. `draw_key` keys the audit and role draws; producers never see it.

    `audit_rate`: what is audited at present under a certificate; NULL while there is none.
    """

    __tablename__ = "classifiers"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    spec_version: Mapped[int]
    draw_key: Mapped[bytes]
    incumbent_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("bundles.id", use_alter=True, name="fk_classifiers_incumbent_id_bundles")
    )
    audit_rate: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SpecVersion(Base):
    """One version of a classifier file."""

    __tablename__ = "specs"
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    spec_hash: Mapped[str]
    labels_hash: Mapped[str]
    prompt_hash: Mapped[str]
    labels: Mapped[list[str]]
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Submission(Base):
    """One call of a producer, with what became of it. `payload_hash` tells a resend from another call.

    `removed`: of the accepted, how many retention has removed since.
    """

    __tablename__ = "submissions"
    id: Mapped[str] = mapped_column(primary_key=True)
    classifier: Mapped[str]
    payload_hash: Mapped[bytes]
    accepted: Mapped[int]
    known: Mapped[int]
    refused: Mapped[int]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    removed: Mapped[int] = mapped_column(server_default="0")


class RefusedEntry(Base):
    """One entry of a submission that was not taken. Its text is not kept."""

    __tablename__ = "refusals"
    submission_id: Mapped[str] = mapped_column(ForeignKey("submissions.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str | None]
    reason: Mapped[str]
    detail: Mapped[str]


class ItemRow(Base):
    """One item: its key, its state, its lease and its current outcome. The text lies in `texts`.

    `announced_at`: when a message for it was last published; tick compares it with what passed it by.
    """

    __tablename__ = "items"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int]
    key: Mapped[str]
    text_hash: Mapped[bytes]
    state: Mapped[str] = mapped_column(server_default=ItemState.QUEUED)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    submission_id: Mapped[str]
    lease_token: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    announced_at: Mapped[datetime] = mapped_column(server_default=NOW)
    label: Mapped[str | None]
    source: Mapped[str | None]
    outcome_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    done_at: Mapped[datetime | None]
    deadline: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("classifier_id", "key"),
        one_of("state", ItemState),
        one_of("source", Source),
        CheckConstraint("(state = 'done') = (outcome_id IS NOT NULL AND label IS NOT NULL)", name="outcome"),
        Index("ix_items_queued", "classifier_id", "priority", "id", postgresql_where=text("state = 'queued'")),
        Index("ix_items_scoring", "lease_until", postgresql_where=text("state = 'scoring'")),
        Index(
            "ix_items_open",
            "classifier_id",
            "state",
            postgresql_where=text("state IN ('queued', 'scoring', 'asked', 'held')"),
        ),
    )


class TextRow(Base):
    """The text of an item, apart from the narrow row that changes state."""

    __tablename__ = "texts"
    item_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    text: Mapped[str]
    meta: Mapped[dict[str, Any] | None]
    __table_args__ = BY_ITEM


class ForgottenItem(Base):
    """An item that was forgotten, and the versions of the bundles that may have learnt from it."""

    __tablename__ = "forgotten"
    item_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("items.id"), primary_key=True)
    bundles: Mapped[list[int]] = mapped_column(ARRAY(Integer(), dimensions=1))
    forgotten_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ScoreRow(Base):
    """What one bundle said of one item, and what was decided at which threshold."""

    __tablename__ = "scores"
    id: Mapped[int] = row_id()
    item_id: Mapped[int] = of_item(index=True)
    bundle_id: Mapped[int] = mapped_column(BigInteger)
    spec_version: Mapped[int]
    probabilities: Mapped[list[float]]
    label: Mapped[str]
    confidence: Mapped[float]
    threshold: Mapped[float]
    kept: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = BY_ITEM


class AskRow(Base):
    """A question to the LLM about one item. `priority` is the item's.

    `propensity` is set iff the item was drawn for the audit; such an ask is a reference ask: all labels, no
    prior. `offered` NULL means all labels. `attempts` counts failed calls, `misses` paid replies that named
    no offered label. `fallback`: which of the classifier's models is asked, 0 the first. `keep_chars`: how many
    characters of the text the LLM is shown, NULL for all. `reserved`: what its next call may cost, on that day's
    budget; NULL: nothing is reserved. `deadline` is its item's. `batchable`: false once a batch with it failed as a
    whole. While a batch has it, the batch's key is the lease's token, and `lease_until` is NULL: the batch has a lease
    of its own.
    """

    __tablename__ = "asks"
    id: Mapped[int] = row_id()
    item_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("items.id"), index=True)
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    score_id: Mapped[int | None] = mapped_column(BigInteger)
    spec_version: Mapped[int]
    reason: Mapped[str]
    role: Mapped[str]
    propensity: Mapped[float | None]
    budget_day_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("budget_days.id"))
    reserved: Mapped[Decimal | None]
    offered: Mapped[list[str] | None]
    prior: Mapped[dict[str, Any] | None]
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    state: Mapped[str] = mapped_column(server_default=AskState.WAITING)
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    misses: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    not_before: Mapped[datetime] = mapped_column(server_default=NOW)
    announced_at: Mapped[datetime] = mapped_column(server_default=NOW)
    lease_token: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    fallback: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    keep_chars: Mapped[int | None]
    deadline: Mapped[datetime | None]
    batchable: Mapped[bool] = mapped_column(server_default=text("true"))
    __table_args__ = (
        one_of("state", AskState),
        one_of("reason", Reason),
        one_of("role", Role),
        CheckConstraint("(propensity IS NULL) = (role = 'train')", name="held_out"),
        CheckConstraint("propensity IS NULL OR (offered IS NULL AND prior IS NULL)", name="reference"),
        CheckConstraint("fallback = 0 OR role = 'train'", name="fallback"),
        CheckConstraint("(budget_day_id IS NULL) = (reserved IS NULL)", name="budget"),
        Index("uq_asks_open", "item_id", unique=True, postgresql_where=text(LIVE_ASK)),
        Index(
            "ix_asks_waiting",
            "classifier_id",
            "priority",
            text("reason DESC"),  # escalations before audits
            "deadline",
            "id",
            postgresql_where=text("state = 'waiting'"),
        ),
        Index(
            "ix_asks_due",
            "classifier_id",
            "not_before",
            postgresql_where=text("state = 'waiting' AND not_before > '-infinity'"),  # see `claims.BY_TIME`
        ),
        Index("ix_asks_calling", "lease_until", postgresql_where=text("state = 'calling'")),
        Index("ix_asks_judge", "classifier_id", "id", postgresql_where=text("role = 'judge'")),
        Index("ix_asks_in_batch", "lease_token", postgresql_where=text("state = 'calling' AND lease_until IS NULL")),
    )


class CallRow(Base):
    """One HTTP request, written before it is sent and settled after it, whatever happened to the lease.

    `budget_reserved`: what was reserved for it on that day's budget, in the budget's unit. `batch_id`: it is a line of
    that batch's file instead.
    """

    __tablename__ = "calls"
    id: Mapped[int] = row_id()
    ask_id: Mapped[int] = mapped_column(BigInteger, index=True)
    item_id: Mapped[int] = of_item()
    classifier_id: Mapped[int] = mapped_column(index=True)
    attempt: Mapped[int] = mapped_column(SmallInteger)
    model: Mapped[str]
    prompt_hash: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="sent")
    reserved_tokens: Mapped[int]
    reserved_usd: Mapped[Decimal]
    budget_day_id: Mapped[int | None] = mapped_column(BigInteger)
    budget_reserved: Mapped[Decimal | None]
    cost_usd: Mapped[Decimal | None]
    prompt_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    response_model: Mapped[str | None]
    fingerprint: Mapped[str | None]
    http_status: Mapped[int | None]
    error_kind: Mapped[str | None]
    error: Mapped[str | None]
    latency_ms: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    settled_at: Mapped[datetime | None]
    reuse_key: Mapped[bytes | None]
    votes: Mapped[list[str] | None]
    batch_id: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (
        one_of("state", ("sent", "answered", "failed", "unknown")),
        CheckConstraint("(state = 'sent') = (settled_at IS NULL)", name="settled"),
        CheckConstraint("(budget_day_id IS NULL) = (budget_reserved IS NULL)", name="budget"),
        Index("ix_calls_sent", "created_at", postgresql_where=text("state = 'sent'")),
        Index(
            "uq_calls_batch",
            "batch_id",
            "ask_id",
            "item_id",
            unique=True,
            postgresql_where=text("batch_id IS NOT NULL"),
        ),
        Index("ix_calls_in_flight", "classifier_id", "reuse_key", postgresql_where=text("state = 'sent'")),
        BY_ITEM,
    )


class AnswerRow(Base):
    """What the LLM said about one item: at most one for each ask.

    `reused_from`: said before, and not paid again. `fallback`: another model than the first said it.
    """

    __tablename__ = "answers"
    id: Mapped[int] = row_id()
    ask_id: Mapped[int] = mapped_column(BigInteger)
    call_id: Mapped[int] = mapped_column(BigInteger)
    item_id: Mapped[int] = of_item(index=True)
    classifier_id: Mapped[int]
    spec_version: Mapped[int]
    labels_hash: Mapped[str]
    prompt_hash: Mapped[str]
    label: Mapped[str]
    probabilities: Mapped[list[float] | None]
    probability_source: Mapped[str]
    role: Mapped[str]
    propensity: Mapped[float | None]
    had_prior: Mapped[bool]
    requested_model: Mapped[str]
    llm_model: Mapped[str]
    fingerprint: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    reuse_key: Mapped[bytes | None]
    reused_from: Mapped[int | None] = mapped_column(BigInteger)
    fallback: Mapped[bool] = mapped_column(server_default="false")
    __table_args__ = (
        UniqueConstraint("ask_id", "item_id"),
        one_of("role", Role),
        one_of("probability_source", ProbabilitySource),
        CheckConstraint("reused_from IS NULL OR role = 'train'", name="reused"),
        CheckConstraint("NOT fallback OR role = 'train'", name="fallback"),
        Index("ix_answers_learning", "classifier_id", "labels_hash", "role", "id"),
        Index("ix_answers_reuse", "classifier_id", "reuse_key", postgresql_where=text("reused_from IS NULL")),
        BY_ITEM,
    )


class OutcomeRow(Base):
    """History of outcomes. `xact` with `id` is the cursor of `results`: no committed row is ever skipped.

    `labelled_by`: the person whose label it is, if it is one.
    """

    __tablename__ = "outcomes"
    id: Mapped[int] = row_id()
    xact: Mapped[int] = mapped_column(BigInteger, server_default=XACT)
    item_id: Mapped[int] = of_item(index=True)
    classifier_id: Mapped[int]
    spec_version: Mapped[int]
    label: Mapped[str]
    source: Mapped[str]
    confidence: Mapped[float | None]
    probabilities: Mapped[list[float] | None]
    bundle_id: Mapped[int | None] = mapped_column(BigInteger)
    threshold: Mapped[float | None]
    score_id: Mapped[int | None] = mapped_column(BigInteger)
    answer_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    labelled_by: Mapped[str | None]
    __table_args__ = (
        one_of("source", Source),
        CheckConstraint("labelled_by IS NULL OR source = 'human'", name="labelled_by"),
        Index("ix_outcomes_cursor", "classifier_id", "xact", "id"),
        BY_ITEM,
    )


class DeadLetter(Base):
    """An item or ask that could not be finished, with its reason."""

    __tablename__ = "dead_letters"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    item_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("items.id"), index=True)
    ask_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("asks.id"), index=True)
    reason: Mapped[str]
    detail: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    replayed_at: Mapped[datetime | None]
    __table_args__ = (
        Index("ix_dead_letters_open", "classifier_id", "id", postgresql_where=text("replayed_at IS NULL")),
    )


class DueRow(Base):
    """Periodic work: who moves `due_at` forward does it, so ten clocks do no more than one."""

    __tablename__ = "due"
    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
