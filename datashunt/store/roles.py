"""Roles of least privilege: the script that makes them, and its application."""

from __future__ import annotations

from importlib import resources

from sqlalchemy.exc import ProgrammingError

from datashunt.errors import StoreError
from datashunt.store.engine import Store

ROLES = ("datashunt_producer", "datashunt_worker", "datashunt_reader", "datashunt_migrator")


def script() -> str:
    """The SQL; it can be run again at any time."""
    return resources.files("datashunt.store").joinpath("roles.sql").read_text(encoding="utf-8")


def apply(store: Store) -> None:
    """Run the script.

    Raises:
        StoreError: PostgreSQL cannot be reached, or this role may not do it; nothing was changed.
    """
    with store.begin() as tx:
        try:
            tx.exec_driver_sql(script())
        except ProgrammingError as error:
            why = str(error.orig).splitlines()[0]
            raise StoreError(
                f"the roles were not made: {why}; run it as the owner of the tables, who may create roles"
                " (datashunt db roles prints the script)"
            ) from error
