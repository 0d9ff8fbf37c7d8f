"""Uniform samples of finished items, drawn for people to label."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.store.tables.base import NOW, Base, row_id


class SampleRow(Base):
    """A draw: each of `population` outcomes that no person gave had the same chance, the `propensity`.

    `kept` of them were the small model's. `audit_rate` is the rate by which the audit draw sorts those, and `audited`
    is how many of them it picks. `up_to_outcome`: id of the newest outcome of the time of the draw.
    """

    __tablename__ = "samples"
    id: Mapped[int] = row_id()
    classifier_id: Mapped[int] = mapped_column(ForeignKey("classifiers.id"))
    seed: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int]
    population: Mapped[int]
    kept: Mapped[int]
    audit_rate: Mapped[float] = mapped_column(Double)
    audited: Mapped[int]
    propensity: Mapped[float] = mapped_column(Double)
    up_to_outcome: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    __table_args__ = (
        UniqueConstraint("classifier_id", "seed"),
        CheckConstraint("propensity > 0 AND propensity <= 1", name="propensity"),
    )


class SampledItem(Base):
    """An item of a sample, with the outcome that people judge: the one it had when it was drawn.

    `audited`: the audit draw picks it.
    """

    __tablename__ = "sampled_items"
    sample_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("samples.id", ondelete="CASCADE"), primary_key=True)
    item_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("items.id"), primary_key=True, index=True)
    outcome_id: Mapped[int] = mapped_column(BigInteger)
    audited: Mapped[bool]
