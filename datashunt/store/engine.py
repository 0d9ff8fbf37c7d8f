"""The connection to PostgreSQL: pools, transactions, and its errors as ours."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, TextClause, create_engine, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    InvalidRequestError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from datashunt.errors import SettingsError, StoreError

UNDEFINED = {"42P01", "42703", "42883"}  # undefined_table, undefined_column, undefined_function
FORBIDDEN = "42501"  # insufficient_privilege
LOCKED = {"55P03", "40P01"}  # lock_not_available, deadlock_detected
ENDED = {"25P03", "25P04", "25006"}  # idle in a transaction for too long, a transaction for too long, read only

_ENDED_TWICE = "This connection is closed"
"""What SQLAlchemy says when the connection that took an ended one's place had ended, too."""
RENEWED_S = 600
"""Seconds after which a connection is replaced by a new one: what PostgreSQL keeps for each grows with its age."""


class Store:
    """A pool of connections. Safe to share between threads; after a fork, make another one."""

    def __init__(self, url: SecretStr, *, pool_size: int = 8, idle_in_transaction_s: float = 60.0) -> None:
        """Connects lazily.

        Args:
            url: postgresql://user:password@host:port/database.
            pool_size: connections kept open; twice as many at most.
            idle_in_transaction_s: PostgreSQL ends a transaction whose client says nothing for so long: a
                process that was stopped in mid-transaction must not hold its row locks for ever.

        Raises:
            SettingsError: the URL is none, or not of PostgreSQL.
        """
        self.engine = _engine(url, pool_size)
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        _limit_idle(self.engine, idle_in_transaction_s)
        _pass_over_ended(self.engine)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        Raises:
            StoreError: PostgreSQL cannot be reached, or its schema is not the one of this release.
        """
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """Each statement is a transaction of its own: a third of the round trips for work that is one statement.

        Raises:
            StoreError: as `begin`.
        """
        with _translated(), self._single.connect() as connection:
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    def ping(self) -> str:
        """The server's version, for people."""
        with self.begin() as connection:
            return str(connection.execute(text("SHOW server_version")).scalar_one())


def row(tx: Connection, statement: TextClause, values: Mapping[str, object]) -> Any:
    """The one row that a statement brings, a named tuple, or None.

    It passes SQLAlchemy by, whose share of a short statement is larger than the driver's: for what the LLM lane does
    at each call (see docs/benchmarks.md).
    """
    connection: psycopg.Connection[Any] = tx.connection.driver_connection  # type: ignore[assignment]
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(_of_the_driver(statement), values).fetchone()


@cache
def _of_the_driver(statement: TextClause) -> bytes:
    """A statement with its parameters as the driver writes them."""
    return str(statement.compile(dialect=postgresql.psycopg.dialect())).encode()  # type: ignore[no-untyped-call]


def is_locked(error: StoreError) -> bool:
    """Whether it came of a lock that others held: the same may be tried again."""
    return error.__cause__ is not None and getattr(_origin(error.__cause__), "sqlstate", None) in LOCKED


def is_unreachable(error: Exception) -> bool:
    """Whether no server answered, so that it is the same for whatever else would be asked now."""
    return isinstance(error, StoreError) and getattr(_origin(error.__cause__ or error), "sqlstate", None) is None


@contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors as ours."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StoreError(f"PostgreSQL cannot be used: {_reason(error)}{_hint(error)}") from error
    except InvalidRequestError as error:
        if str(error) != _ENDED_TWICE:
            raise
        raise StoreError("PostgreSQL cannot be used: it ended a connection twice as it began") from error
    except (DBAPIError, psycopg.Error) as error:
        state = getattr(_origin(error), "sqlstate", None) or ""
        if state in UNDEFINED:
            raise StoreError(
                "the database has not the tables of this release: run `datashunt db upgrade`, or upgrade datashunt here"
                " if `datashunt db current` shows a newer one there"
            ) from error
        if state in ENDED:
            raise StoreError(f"PostgreSQL cannot be used: {_reason(error)}") from error
        if state == FORBIDDEN:
            raise StoreError(
                f"{_reason(error)}: give DATASHUNT_DATABASE_URL a login of another role (see datashunt db roles)"
            ) from error
        raise


def _engine(url: SecretStr, pool_size: int) -> Engine:
    try:
        parsed = make_url(url.get_secret_value())
    except (ArgumentError, ValueError):
        raise SettingsError(
            "DATASHUNT_DATABASE_URL is no URL: expected postgresql://user:password@host:port/database"
        ) from None
    if parsed.get_backend_name() != "postgresql":
        raise SettingsError(f"DATASHUNT_DATABASE_URL: expected postgresql://…, found {parsed.get_backend_name()}://…")
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_recycle=RENEWED_S,
        hide_parameters=True,  # errors and logs must not hold item texts
        connect_args={
            "prepare_threshold": None,  # PgBouncer in transaction mode knows no prepared statements
            "connect_timeout": 10,
            "application_name": "datashunt",
        },
    )


def _limit_idle(engine: Engine, seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [str(round(seconds * 1000))]
        )
        connection.commit()


def _pass_over_ended(engine: Engine) -> None:
    """No transaction begins on a connection that the server has ended, and that without a round trip.

    On a connection that nobody uses there is nothing to read, unless it has ended: then all of that age are suspect.
    """

    @event.listens_for(engine, "checkout")
    def _(connection: Any, _record: Any, _proxy: Any) -> None:
        poll = select.poll()
        if not connection.closed:
            poll.register(connection.fileno(), select.POLLIN)
        if connection.closed or poll.poll(0):
            raise InvalidatePoolError("PostgreSQL has ended this connection")


def _hint(error: Exception) -> str:
    """Where to look when no server answered; what a server itself refuses has an SQLSTATE."""
    answered = isinstance(error, PoolTimeout) or getattr(_origin(error), "sqlstate", None)
    if not answered and re.search(r"\bSSL\b|certificate", _reason(error)):
        return ": check sslmode and sslrootcert in DATASHUNT_DATABASE_URL"
    return "" if answered else ": check that it runs, and DATASHUNT_DATABASE_URL"


def _reason(error: Exception) -> str:
    lines = str(_origin(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _origin(error: BaseException) -> BaseException | None:
    """The driver's error, which SQLAlchemy wraps."""
    return error.orig if isinstance(error, DBAPIError) else error
