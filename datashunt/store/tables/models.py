"""Bundles, who served, distillations, certificates, and what they spent."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
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
    __table_args__ = (one_of("cause", ("distillation", "person", "rollback", "labels")),)


class Distillation(Base):
    """One run of two-stage confidence distillation: a lease with a heartbeat; one open run a classifier.

    `up_to_answer`, `up_to_score`: what it may see, fixed by its first attempt.
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
        one_of("state", ("due", "running", "promoted", "rejected", "overtaken", "failed")),
        Index("uq_distillations_open", "classifier_id", unique=True, postgresql_where=text(OPEN_DISTILLATION)),
        ForeignKeyConstraint(["classifier_id", "spec_version"], ["specs.classifier_id", "specs.version"]),
    )


class Certificate(Base):
    """At this threshold at most `alpha` of the kept disagree with the LLM, with probability 1 - delta."""

    __tablename__ = "certificates"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    bundle_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    threshold: Mapped[float]
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


class DeltaSpent(Base):
    """What each verdict and certificate spent of a classifier's error probability."""

    __tablename__ = "delta_ledger"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    kind: Mapped[str]
    delta: Mapped[float]
    bundle_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("bundles.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (one_of("kind", ("verdict", "certificate")),)
