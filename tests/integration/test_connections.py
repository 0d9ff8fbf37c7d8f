"""Connections of the pool: what PostgreSQL keeps for each grows, so they are renewed."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from datashunt.bootstrap import Runtime
from datashunt.errors import StoreError
from datashunt.store import Store, engine


def test_a_connection_is_kept_for_a_while_and_then_renewed(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.settings.database_url is not None
    store = Store(runtime.settings.database_url, idle_in_transaction_s=7)
    opened = time.time()
    first = _backend(store)
    assert _backend(store) == first
    monkeypatch.setattr("sqlalchemy.pool.base.time.time", lambda: opened + engine.RENEWED_S + 60)
    second = _backend(store)
    store.close()
    assert second[0] != first[0]
    assert second[1] == "7s"


def test_a_connection_that_ends_twice_as_it_begins_is_an_error_of_ours(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime.settings.database_url is not None
    store = Store(runtime.settings.database_url)
    ended = SimpleNamespace(register=lambda *_: None, poll=lambda _: [1])
    monkeypatch.setattr("datashunt.store.engine.select.poll", lambda: ended)
    with pytest.raises(StoreError, match="ended a connection twice"):
        _backend(store)
    monkeypatch.undo()
    assert _backend(store)
    store.close()


def _backend(store: Store) -> tuple[int, str]:
    """The server's process, and after how long it ends a transaction that says nothing."""
    with store.begin() as tx:
        row = tx.execute(text("SELECT pg_backend_pid(), current_setting('idle_in_transaction_session_timeout')")).one()
    return row[0], row[1]
