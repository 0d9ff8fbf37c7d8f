"""Workers, as they report themselves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from datashunt.store.tables.base import Base


class WorkerRow(Base):
    """One worker process by its node name. It removes its row when it ends in good order.

    `taken`: messages that it took since it started. `worked_at`: when it last took one, or began a batch, call or
    training step.
    """

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    queues: Mapped[list[str]]
    taken: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    worked_at: Mapped[datetime]
