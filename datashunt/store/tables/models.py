"""Bundles, who served, distillations, certificates, and what they spent."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.store.tables.base import NOW, OPEN_DISTILLATION, Base, one_of, row_id


class BundleRow(Base):
    """One version of the small model. `version` counts within the classifier and is what people see."""

    __tablename__ = "bundles"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    version: Mapped[int]
    spec_version: Mapped[int]
    labels_hash: Mapped[str]
    labels: Mapped[list[str]]
    state: Mapped[str]
    uri: Mapped[str]
    content_hash: Mapped[str]
    recipe: Mapped[str]
    prune_cut: Mapped[float | None]
    evaluation: Mapped[dict[str, Any]]
    parent_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        UniqueConstraint("classifier_id", "version"),
        one_of("state", ("challenger", "rejected", "promoted", "retired")),
    )


class Promotion(Base):
    """History of who served. `bundle_id` NULL: the labels changed, and nobody serves."""

    __tablename__ = "promotions"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    bundle_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    previous_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    cause: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (one_of("cause", ("distillation", "person", "rollback", "labels", "certificate")),)


class Distillation(Base):
    """One run of two-stage confidence distillation: a lease with a heartbeat; one open run a classifier.

    `up_to_answer`, `up_to_score`: what it may see, fixed by its first attempt. `uncertified`: its bundle won, and waits
    for a certificate, since the one that serves has one.
    """

    __tablename__ = "distillations"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    spec_version: Mapped[int]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    announced_at: Mapped[datetime] = mapped_column(server_default=NOW)
    lease_token: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    stage: Mapped[str | None]
    progress: Mapped[float | None]
    up_to_answer: Mapped[int | None] = mapped_column(BigInteger)
    up_to_score: Mapped[int | None] = mapped_column(BigInteger)
    n_train: Mapped[int | None]
    n_fit: Mapped[int | None]
    n_judge: Mapped[int | None]
    incumbent_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    bundle_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    verdict: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        one_of("state", ("due", "running", "promoted", "rejected", "overtaken", "failed", "uncertified")),
        Index("uq_distillations_open", "classifier_id", unique=True, postgresql_where=text(OPEN_DISTILLATION)),
        ForeignKeyConstraint(["classifier_id", "spec_version"], ["specs.classifier_id", "specs.version"]),
    )


class Trial(Base):
    """One attempt to prove a promise of one bundle: the thresholds that are tried, fixed before the first answer.

    `promise` is `Spec.promise`. `after_ask`: only later asks count. `planned`: judge answers that it is given.
    `n`, `missing`: judge answers so far, and how many more there must be at least. `note`: what lacks most.
    Of a promise of all items: `cuts`: how prompts are pruned at each threshold (`pipeline.substitutes`), null where
    they are not. `asked`, `stood_in`: items that escalated, of asks up to `asked_up_to`, and those of them that another
    model answered.
    """

    __tablename__ = "trials"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    bundle_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    promise: Mapped[dict[str, Any]]
    delta: Mapped[float] = mapped_column(DOUBLE_PRECISION)
    thresholds: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION, dimensions=1))
    llm_model: Mapped[str]
    prompt_hash: Mapped[str]
    after_ask: Mapped[int] = mapped_column(BigInteger)
    planned: Mapped[int]
    n: Mapped[int] = mapped_column(server_default="0")
    missing: Mapped[int | None]
    note: Mapped[str | None]
    cuts: Mapped[dict[str, Any] | None]
    asked: Mapped[int] = mapped_column(server_default="0")
    stood_in: Mapped[int] = mapped_column(server_default="0")
    asked_up_to: Mapped[int] = mapped_column(BigInteger, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]
    ended_why: Mapped[str | None]
    __table_args__ = (
        Index("uq_trials_open", "bundle_id", unique=True, postgresql_where=text("ended_at IS NULL")),
        Index("ix_trials_open", "classifier_id", postgresql_where=text("ended_at IS NULL")),
    )


class TrialAnswer(Base):
    """What one judge answer is to one trial. `said`, `truth`: indices of labels; -1: the LLM never answered.

    `weight`: the least propensity of that time over that of this item. `kept`: the bundle that served kept the item.
    `llm`: model and fingerprint of the response. `reach`: the largest cut at which the LLM's label is offered; -inf
    where it gave none.
    """

    __tablename__ = "trial_answers"
    trial_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("trials.id"), primary_key=True)
    ask_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("asks.id"), primary_key=True, index=True)
    confidence: Mapped[float] = mapped_column(DOUBLE_PRECISION)
    said: Mapped[int] = mapped_column(SmallInteger)
    truth: Mapped[int] = mapped_column(SmallInteger)
    weight: Mapped[float]
    kept: Mapped[bool]
    llm: Mapped[str]
    reach: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)


class Guard(Base):
    """What the drift guard of a proven bundle has seen: the states of `drift.ScoreGuard` and `drift.AuditGuard`.

    `last_score`, `last_ask`: rows up to which it has read.
    """

    __tablename__ = "guards"
    trial_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("trials.id"), primary_key=True)
    rung: Mapped[str] = mapped_column(server_default="calm")
    scores: Mapped[dict[str, Any]]
    audits: Mapped[dict[str, Any]]
    last_score: Mapped[int] = mapped_column(BigInteger)
    last_ask: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (one_of("rung", ("calm", "watching", "suspended")),)


class Event(Base):
    """What happened to a classifier's promise, for people to read."""

    __tablename__ = "events"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    kind: Mapped[str]
    detail: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (Index("ix_events_classifier", "classifier_id", "id"),)


class Certificate(Base):
    """At this threshold at most `alpha` of the kept disagree with the LLM, with probability 1 - delta.

    `trial_id`: that proved it; then alpha and delta are the promise's, n and k of its first target, and `findings` of
    all. Without one it only says how a bundle stood when it was promoted.
    """

    __tablename__ = "certificates"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    bundle_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    threshold: Mapped[float] = mapped_column(DOUBLE_PRECISION)
    alpha: Mapped[float]
    delta: Mapped[float]
    n: Mapped[int]
    k: Mapped[int]
    method: Mapped[str]
    llm_model: Mapped[str]
    fingerprints: Mapped[list[str]]
    prompt_hash: Mapped[str]
    labels_hash: Mapped[str]
    bundle_hash: Mapped[str]
    valid_from: Mapped[datetime] = mapped_column(server_default=NOW)
    revoked_at: Mapped[datetime | None]
    revoked_why: Mapped[str | None]
    trial_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("trials.id"))
    findings: Mapped[list[Any] | None] = mapped_column(JSONB)
    granted_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (Index("ix_certificates_standing", "bundle_id", postgresql_where=text("revoked_at IS NULL")),)


class DeltaSpent(Base):
    """What each verdict and certificate spent of a classifier's error probability, for people to read.

    What the next trial may spend follows from the number of trials (`trials.renewals`).
    """

    __tablename__ = "delta_ledger"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    kind: Mapped[str]
    delta: Mapped[float]
    bundle_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (one_of("kind", ("verdict", "certificate")),)
