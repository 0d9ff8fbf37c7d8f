"""What PostgreSQL ends or refuses becomes a StoreError, so that whoever holds a paid reply tries again."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from datashunt.errors import StoreError
from datashunt.store import Store


@pytest.mark.parametrize(
    ("setting", "statement", "said"),
    [
        ("transaction_timeout = '50ms'", "SELECT pg_sleep(60)", "transaction timeout"),
        ("statement_timeout = '50ms'", "SELECT pg_sleep(60)", "statement timeout"),
        ("transaction_read_only = on", "INSERT INTO due (name) VALUES ('x')", "read-only transaction"),
        ("lock_timeout = '50ms'", "LOCK TABLE items", "lock timeout"),
    ],
)
def test_what_the_server_ends_or_refuses_is_a_store_error(
    store: Store, setting: str, statement: str, said: str
) -> None:
    with store.begin() as other:
        other.execute(text("LOCK TABLE items IN SHARE MODE"))
        with pytest.raises(StoreError, match=said):
            _try(store, setting, statement)
    assert store.ping()


def _try(store: Store, setting: str, statement: str) -> None:
    with store.begin() as tx:
        tx.execute(text(f"SET LOCAL {setting}"))
        tx.execute(text(statement))
