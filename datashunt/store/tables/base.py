"""What all tables share: types, names of constraints, defaults."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    CheckConstraint,
    Identity,
    MetaData,
    Numeric,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NOW = text("now()")
XACT = text("(pg_current_xact_id()::text)::bigint")
LIVE_ASK = "state IN ('waiting', 'calling')"
BY_ITEM = {"postgresql_partition_by": "RANGE (item_id)"}
OPEN_DISTILLATION = "state IN ('due', 'running')"


class Base(DeclarativeBase):
    """Declarative base: names every constraint, so that a migration can name it too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        datetime: TIMESTAMP(timezone=True),
        str: Text(),
        Decimal: Numeric(18, 9),
        dict[str, Any]: JSONB(),
        list[float]: ARRAY(REAL(), dimensions=1),
        list[str]: ARRAY(Text(), dimensions=1),
        float: REAL(),
    }


def row_id() -> Mapped[int]:
    """A primary key that the database numbers."""
    return mapped_column(BigInteger, Identity(always=True), primary_key=True)


def one_of(column: str, values: type[Any] | tuple[str, ...]) -> CheckConstraint:
    """A column that holds one of these values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def of_item(*, index: bool = False) -> Mapped[int]:
    """The row of the item that a row of a partitioned table is about: part of its key, since it tells the partition."""
    return mapped_column(BigInteger, primary_key=True, autoincrement=False, index=index)
