"""Batches: files of asks that the endpoint answers in its own time."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.items import BatchState
from datashunt.store.tables.base import NOW, Base, one_of, row_id


class BatchRow(Base):
    """One batch. Its requests are rows of `calls`.

    `key` names it at the endpoint, and is the token of the leases of its asks. `spec_version` is the one that its
    questions are put by. `remote_id`: the endpoint's id of it. `tries`: how often the present step was begun.
    `ended_as`: what the endpoint says it ended as, or `refused`, `lost`, `late` (never begun) or `empty`
    (nothing to ask).
    """

    __tablename__ = "batches"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), index=True)
    spec_version: Mapped[int]
    key: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"), unique=True)
    state: Mapped[str] = mapped_column(server_default=BatchState.BUILDING)
    tries: Mapped[int] = mapped_column(server_default="0")
    input_file_id: Mapped[str | None]
    remote_id: Mapped[str | None]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    ended_as: Mapped[str | None]
    error: Mapped[str | None]
    lease_token: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
    announced_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    submitted_at: Mapped[datetime | None]
    harvested_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(["classifier_id", "spec_version"], ["specs.classifier_id", "specs.version"]),
        one_of("state", BatchState),
        Index("uq_batches_building", "classifier_id", unique=True, postgresql_where=text("state = 'building'")),
        Index("ix_batches_open", "due_at", postgresql_where=text("state <> 'harvested'")),
    )
