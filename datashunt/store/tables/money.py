"""What may be spent on a day, what was, and how it was spread."""

from __future__ import annotations

import datetime
from decimal import Decimal

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.store.tables.base import NOW, Base, one_of, row_id

COUNTS = ARRAY(Integer(), dimensions=1)


class BudgetDay(Base):
    """The account of one classifier and day; `pacing.Account` says what its amounts are.

    `day` is the date in the policy's time zone. Asks and calls name the row that their money was reserved on, and
    settle on it whenever they end. `confidences` are of `bundle_id`. `past`: what calls cost that retention removed, a
    part of `spent`.
    """

    __tablename__ = "budget_days"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    day: Mapped[datetime.date]
    unit: Mapped[str]
    budget: Mapped[Decimal]
    spent: Mapped[Decimal] = mapped_column(server_default="0")
    reserved: Mapped[Decimal] = mapped_column(server_default="0")
    settled: Mapped[Decimal] = mapped_column(server_default="0")
    granted: Mapped[Decimal] = mapped_column(server_default="0")
    asked: Mapped[int] = mapped_column(server_default="0")
    arrivals: Mapped[list[int]] = mapped_column(COUNTS, server_default="{}")
    profile: Mapped[list[int]] = mapped_column(COUNTS, server_default="{}")
    confidences: Mapped[list[float]] = mapped_column(server_default="{}")
    bundle_id: Mapped[int | None] = mapped_column(BigInteger)
    carry: Mapped[float] = mapped_column(server_default="0")
    threshold: Mapped[float | None]
    created_at: Mapped[datetime.datetime] = mapped_column(server_default=NOW)
    past: Mapped[Decimal] = mapped_column(server_default="0")
    __table_args__ = (
        UniqueConstraint("classifier_id", "day", "unit"),
        one_of("unit", ("usd", "calls")),
        CheckConstraint("spent >= 0 AND reserved >= 0", name="amounts"),
    )
