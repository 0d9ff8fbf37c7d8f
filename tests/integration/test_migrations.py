"""The schema: what migrations make is what the tables declare, and every step has a way back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import CheckConstraint, inspect, text

from datashunt.errors import StoreError
from datashunt.store import Store, migrate
from datashunt.store.migrate import _config
from datashunt.store.tables import Base


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Store]:
    store = Store(SecretStr(empty_database_url), pool_size=2)
    yield store
    store.close()


def revisions() -> list[str]:
    """All revisions, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def tables(store: Store) -> set[str]:
    return set(inspect(store.engine).get_table_names())


def test_migrations_and_models_agree(store: Store) -> None:
    with store.begin() as tx:
        context = MigrationContext.configure(tx, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_checks_and_partial_indexes_of_the_models_are_in_the_database(store: Store) -> None:
    """Autogenerate compares neither."""
    checks = {
        check.name
        for table in Base.metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }
    partial = {
        index.name
        for table in Base.metadata.tables.values()
        for index in table.indexes
        if index.dialect_options["postgresql"]["where"] is not None
    }
    with store.begin() as tx:
        there = set(tx.execute(text("SELECT conname FROM pg_constraint WHERE contype = 'c'")).scalars())
        where = set(tx.execute(text("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '% WHERE %'")).scalars())
    assert len(checks) > 5
    assert len(partial) > 5
    assert checks <= there
    assert partial <= where


def test_every_downgrade_works_and_leads_back_up(empty: Store) -> None:
    migrate.upgrade(empty)
    whole = tables(empty)
    steps = revisions()
    for revision, below in zip(reversed(steps), [*reversed(steps[:-1]), None], strict=True):
        assert migrate.downgrade(empty, below or "base") == (revision, below)
        assert migrate.upgrade(empty, revision) == (below, revision)
        migrate.downgrade(empty, below or "base")
    assert tables(empty) <= {"alembic_version"}
    migrate.upgrade(empty)
    assert tables(empty) == whole


def test_a_second_upgrade_changes_nothing(empty: Store) -> None:
    assert migrate.upgrade(empty) == (None, migrate.head())
    assert migrate.upgrade(empty) == (migrate.head(), migrate.head())


def test_two_upgrades_at_the_same_time_wait_in_line(empty: Store) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = sorted(pool.map(lambda _: migrate.upgrade(empty), range(2)), key=str)
    assert set(done) == {(None, migrate.head()), (migrate.head(), migrate.head())}


def test_a_failed_migration_leaves_nothing_behind(empty: Store) -> None:
    with empty.begin() as tx:
        tx.execute(text("CREATE TABLE dead_letters (id int)"))
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(empty)
    assert tables(empty) == {"dead_letters"}


def test_a_database_without_tables_is_told_what_to_do(empty: Store) -> None:
    with pytest.raises(StoreError, match="datashunt db upgrade"), empty.begin() as tx:
        tx.execute(text("SELECT * FROM items"))
