"""What retention leaves behind: which months went, and the sums of what they held."""

from __future__ import annotations

import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.store.tables.base import NOW, Base


class RemovedMonth(Base):
    """What was said of a classifier's items from `first_item` to before `end_item` was removed."""

    __tablename__ = "removed_months"
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), primary_key=True)
    first_item: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    end_item: Mapped[int] = mapped_column(BigInteger)
    removed_at: Mapped[datetime.datetime] = mapped_column(server_default=NOW)


class RemovedIds(Base):
    """Ids of a classifier's items were removed, none of an item that ended after `until`."""

    __tablename__ = "removed_ids"
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), primary_key=True)
    until: Mapped[datetime.datetime]


class PastCalls(Base):
    """Sums over removed calls of a day (UTC), and `reused`: over removed answers that cost nothing."""

    __tablename__ = "past_calls"
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), primary_key=True)
    day: Mapped[datetime.date] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger, server_default="0")
    tokens_in: Mapped[int] = mapped_column(BigInteger, server_default="0")
    tokens_cached: Mapped[int] = mapped_column(BigInteger, server_default="0")
    tokens_out: Mapped[int] = mapped_column(BigInteger, server_default="0")
    usd: Mapped[Decimal] = mapped_column(server_default="0")
    unknown: Mapped[int] = mapped_column(BigInteger, server_default="0")
    reused: Mapped[int] = mapped_column(BigInteger, server_default="0")


class PastItems(Base):
    """How many items were removed with their ids, in which state; `source` is empty where they had no outcome."""

    __tablename__ = "past_items"
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"), primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    items: Mapped[int] = mapped_column(BigInteger, server_default="0")
    asked: Mapped[int] = mapped_column(BigInteger, server_default="0")
    audited: Mapped[int] = mapped_column(BigInteger, server_default="0")
