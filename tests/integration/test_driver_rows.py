"""`engine.row`: one row past SQLAlchemy, with the same errors and the same pool."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from datashunt.errors import StoreError
from datashunt.store import Store
from datashunt.store.engine import row

Way = Callable[[Store], AbstractContextManager[Connection]]
WAYS = [Store.single, Store.begin]


def test_a_row_has_names_and_none_stands_for_no_row(store: Store) -> None:
    statement = text("SELECT key, CAST(:factor AS int) * 2 AS twice FROM unnest(CAST(:keys AS text[])) AS key")
    with store.single() as tx:
        found = row(tx, statement, {"keys": ["50 %", "b"], "factor": 3})
        assert (found.key, found.twice) == ("50 %", 6)
        assert row(tx, statement, {"keys": [], "factor": 3}) is None


def test_it_is_part_of_the_transaction_that_it_is_in(store: Store) -> None:
    lock, is_free = text("SELECT pg_advisory_xact_lock(7) IS NULL"), text("SELECT pg_try_advisory_xact_lock(7) AS free")
    with store.begin() as tx:
        row(tx, lock, {})
        with store.single() as other:
            assert not row(other, is_free, {}).free
    with store.single() as other:
        row(other, lock, {})
        with store.begin() as tx:
            assert row(tx, is_free, {}).free


@pytest.mark.parametrize("way", WAYS)
def test_a_function_of_a_newer_schema_asks_for_the_upgrade(store: Store, way: Way) -> None:
    with pytest.raises(StoreError, match="datashunt db upgrade"), way(store) as tx:
        row(tx, text("SELECT a_function_to_come(:value)"), {"value": uuid4()})


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_the_server_ends_is_replaced(store: Store, way: Way) -> None:
    with pytest.raises(StoreError, match="cannot be used"), way(store) as tx:
        row(tx, text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    with way(store) as tx:
        assert row(tx, text("SELECT 1 AS one"), {}).one == 1
