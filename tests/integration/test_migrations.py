"""The schema: what migrations make is what the tables declare, and every step has a way back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import inspect, text

from datashunt.errors import StoreError, UsageError
from datashunt.store import Store, migrate
from datashunt.store.migrate import _config
from datashunt.store.tables import Base

WAITING = """
    SELECT count(*) FROM pg_locks
     WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


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


def no_partition(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions come and go; no model declares them."""
    return kind != "table" or re.search(r"_(before|default|\d{4}_\d{2})$", name or "") is None


def test_migrations_and_models_agree(store: Store) -> None:
    with store.begin() as tx:
        options = {"compare_type": True, "compare_server_default": True, "include_name": no_partition}
        context = MigrationContext.configure(tx, opts=options)
        assert compare_metadata(context, Base.metadata) == []


PARTS = {
    "constraints": "SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace AND NOT EXISTS (SELECT FROM pg_class"
    "   WHERE pg_class.oid = conrelid AND relispartition)",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    " AND indexname NOT IN (SELECT relname FROM pg_class WHERE relispartition)",
    "columns": "SELECT table_name || '.' || column_name, concat_ws(' ', udt_name, numeric_precision, numeric_scale,"
    " is_nullable, column_default, identity_generation) FROM information_schema.columns WHERE table_schema = 'public'"
    " AND table_name NOT IN (SELECT viewname FROM pg_views WHERE schemaname = 'public')"
    "   AND table_name NOT IN (SELECT relname FROM pg_class WHERE relispartition)",
}


@pytest.mark.parametrize("part", PARTS)
def test_what_migrations_make_is_to_the_letter_what_the_models_declare(store: Store, empty: Store, part: str) -> None:
    """Autogenerate compares neither checks, nor the conditions of indexes, nor every default."""
    with empty.begin() as tx:
        Base.metadata.create_all(tx)
        declared = dict(tx.execute(text(PARTS[part])).all())  # type: ignore[arg-type]
    with store.begin() as tx:
        made = dict(tx.execute(text(PARTS[part])).all())  # type: ignore[arg-type]
    assert len(declared) > 20
    assert {name: one for name, one in made.items() if "alembic_version" not in f"{name} {one}"} == declared


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


def test_catching_up_brings_an_old_schema_up_and_leaves_a_newer_one_alone(empty: Store) -> None:
    migrate.catch_up(empty)
    migrate.downgrade(empty, revisions()[-2])
    migrate.catch_up(empty)
    with empty.begin() as tx:
        assert migrate.current(tx) == migrate.head()
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate.catch_up(empty)
    with empty.begin() as tx:
        assert migrate.current(tx) == "9999"
    with pytest.raises(UsageError, match="cannot be brought to 'head'"):
        migrate.upgrade(empty)


def test_two_upgrades_at_the_same_time_wait_in_line(empty: Store) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = sorted(pool.map(lambda _: migrate.upgrade(empty), range(2)), key=str)
    assert set(done) == {(None, migrate.head()), (migrate.head(), migrate.head())}


def test_a_migration_waits_for_a_lock_that_a_worker_holds(empty: Store) -> None:
    migrate.upgrade(empty)
    with ThreadPoolExecutor(1) as pool, empty.begin() as worker:
        worker.execute(text("LOCK TABLE removed_ids IN ROW EXCLUSIVE MODE"))
        below = pool.submit(migrate.downgrade, empty, "0016")
        end = time.monotonic() + 60
        while not worker.execute(text(WAITING)).scalar_one():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not below.done()
        worker.rollback()
        assert below.result() == ("0018", "0016")


def test_a_migration_gives_up_where_a_lock_is_held_for_long_and_changes_nothing(
    empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(empty)
    whole = tables(empty)
    monkeypatch.setattr(migrate, "PATIENCE_S", 0.5)
    with empty.begin() as worker:
        worker.execute(text("LOCK TABLE removed_ids IN ROW EXCLUSIVE MODE"))
        with pytest.raises(StoreError, match="nothing was changed: run it again, or stop the workers"):
            migrate.downgrade(empty, "0016")
    assert tables(empty) == whole
    assert migrate.upgrade(empty) == ("0018", "0018")


def test_a_failed_migration_leaves_nothing_behind(empty: Store) -> None:
    with empty.begin() as tx:
        tx.execute(text("CREATE TABLE dead_letters (id int)"))
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(empty)
    assert tables(empty) == {"dead_letters"}


def test_an_index_whose_making_beforehand_was_broken_off_is_made_anew(empty: Store) -> None:
    migrate.upgrade(empty, "0017")
    with empty.begin() as tx:
        tx.execute(
            text(
                "CREATE INDEX ix_asks_due ON asks (classifier_id, not_before)"
                " WHERE state = 'waiting' AND not_before > '-infinity'"
            )
        )
        tx.execute(text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_asks_due'::regclass"))
    migrate.upgrade(empty)
    with empty.begin() as tx:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_asks_due'::regclass"
        assert tx.execute(text(valid)).scalar_one()


def test_a_database_without_tables_is_told_what_to_do(empty: Store) -> None:
    with pytest.raises(StoreError, match="datashunt db upgrade"), empty.begin() as tx:
        tx.execute(text("SELECT * FROM items"))
