"""Roles of least privilege: each can do its work on a real database, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from uuid import uuid4

import psycopg
import pytest
from lanes import NAME, FakeLLM, World, reply
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from datashunt import Client
from datashunt.bootstrap import Runtime
from datashunt.errors import StoreError
from datashunt.items import Item
from datashunt.settings import Settings
from datashunt.store import Store, classifiers, migrate, results, roles
from datashunt.store.tables import Base

Login = Callable[[str], str]


@pytest.fixture
def login(world: World, database_url: str) -> Iterator[Login]:
    """Makes a login of a role on this test's database, and returns its URL."""
    roles.apply(world.store)
    made: list[str] = []

    def make(role: str) -> str:
        made.append(f"t_{uuid4().hex[:12]}")
        with psycopg.connect(database_url, autocommit=True) as admin:
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'p' IN ROLE {}")
            admin.execute(create.format(sql.Identifier(made[-1]), sql.Identifier(f"datashunt_{role}")))
        return make_url(database_url).set(username=made[-1], password="p").render_as_string(hide_password=False)

    with ExitStack() as after:
        yield make
        world.runtime.close()
        admin = after.enter_context(psycopg.connect(database_url, autocommit=True))
        for one in made:
            admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(one)))


def as_role(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(url)})


def refused(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)  # type: ignore[call-overload]


def test_a_producer_submits_and_reads_outcomes_and_no_more(world: World, settings: Settings, login: Login) -> None:
    url = login("producer")
    with Client(as_role(settings, url)) as client:
        receipt = client.submit(NAME, [Item("a", "positive 0.99"), Item("b", "")], submission_id="s1")
        assert (receipt.accepted, len(receipt.refused)) == (1, 1)
        assert client.submit(NAME, [Item("a", "positive 0.99"), Item("b", "")], submission_id="s1") == receipt
        assert client.submit(NAME, [Item("a", "other")]).refused[0].reason == "id_conflict"
        assert client.receipt("s1") == receipt
        assert client.result(NAME, "a") is None
        world.bundle()
        list(world.scorer().run(NAME, [world.one("SELECT id FROM items")]))
        assert client.wait(NAME, ["a"], 5) == {"a": "done"}
        assert [one.label for one in client.results(NAME)] == ["positive"]
        assert client.result(NAME, "a") is not None
    refused(
        url,
        "SELECT draw_key FROM classifiers",
        "SELECT text FROM texts",
        "UPDATE items SET label = 'negative', state = 'done'",
        "INSERT INTO items (classifier_id, key, text_hash, submission_id, state) VALUES (1, 'x', '', 's', 'done')",
        "INSERT INTO outcomes (item_id, classifier_id, spec_version, label, source) VALUES (1, 1, 1, 'x', 'llm')",
        "INSERT INTO answers (label) VALUES ('negative')",
        "DELETE FROM submissions",
        "UPDATE calls SET cost_usd = 0",
        "SELECT book_call(1, NULL, 1, 1, '', '', NULL, 1, 1, 1)",
        "CREATE TABLE mine (id int)",
    )


def test_a_producer_is_told_up_to_when_ids_went_once_it_may_know(
    world: World, settings: Settings, login: Login
) -> None:
    world.change("INSERT INTO removed_ids SELECT id, now() FROM classifiers")
    with Client(as_role(settings, login("producer"))) as client:
        assert client.submit(NAME, [Item("a", "text")]).ids_since == world.one("SELECT until FROM removed_ids")
        world.change("REVOKE SELECT ON removed_ids FROM datashunt_producer")  # as between a migration and the roles
        assert client.submit(NAME, [Item("b", "text")]).ids_since is None


def test_a_worker_scores_and_asks_and_changes_no_classifier(world: World, settings: Settings, login: Login) -> None:
    world.bundle()
    url = login("worker")
    with closing(Runtime(as_role(settings, url))) as limited:
        worker = World(limited)
        asks = worker.score("positive 0.99", "negative 0.4")
        assert worker.ask(FakeLLM([reply("negative")]), asks) == 1
        assert limited.ticker.run() is not None
        assert worker.states() == {"done": 2}
        assert worker.calls()[0].state == "answered"
    refused(
        url,
        "UPDATE classifiers SET spec_version = 2",
        "INSERT INTO classifiers (name, spec_version, draw_key) VALUES ('x', 1, '')",
        "UPDATE specs SET document = '{}'",
        "UPDATE texts SET text = 'other'",
        "UPDATE answers SET label = 'positive'",
        "UPDATE outcomes SET label = 'positive'",
        "UPDATE items SET text_hash = ''",
        "UPDATE items SET key = 'another'",
        "UPDATE bundles SET uri = 'file:///tmp/evil'",
        "UPDATE bundles SET content_hash = 'another'",
        "DELETE FROM items",
        "DELETE FROM outcomes",
        "DROP TABLE items",
        "CREATE TABLE mine (id int)",
    )


def test_a_reader_sees_all_but_texts_and_changes_nothing(world: World, settings: Settings, login: Login) -> None:
    world.bundle()
    world.score("positive 0.99")
    url = login("reader")
    with Client(as_role(settings, url)) as client:
        assert [one.label for one in client.results(NAME)] == ["positive"]
    with closing(Store(SecretStr(url))) as store, store.begin() as tx:
        known = classifiers.current(tx, NAME)
        assert results.status(tx, known.id)["states"] == {"done": 1}
        tx.exec_driver_sql("SELECT * FROM live_quality")
    with closing(Runtime(as_role(settings, url))) as limited, pytest.raises(StoreError, match="permission denied"):
        World(limited).submit("text")
    tables = Base.metadata.sorted_tables
    refused(url, "SELECT text FROM texts", *(f"DELETE FROM {table.name}" for table in tables))


def test_a_migrator_takes_the_schema_down_and_up_and_the_roles_are_made_again(world: World, login: Login) -> None:
    with closing(Store(SecretStr(login("migrator")))) as store:
        head = migrate.head()
        assert migrate.downgrade(store, "base")[1] is None
        assert migrate.upgrade(store)[1] == head
        roles.apply(store)
        roles.apply(store)
    assert world.one("SELECT has_table_privilege('datashunt_worker', 'items', 'INSERT')")
    assert world.one("SELECT tableowner FROM pg_tables WHERE tablename = 'items'") == "datashunt_migrator"


@pytest.mark.parametrize("role", ["producer", "worker", "reader"])
def test_no_other_role_can_make_the_roles_or_migrate(login: Login, role: str) -> None:
    with closing(Store(SecretStr(login(role)))) as store:
        with pytest.raises(StoreError, match=r"permission denied|must be owner|as the owner"):
            roles.apply(store)
        with pytest.raises(StoreError, match=r"permission denied|must be owner"):
            migrate.downgrade(store, "base")


@pytest.mark.usefixtures("login")
def test_every_table_that_the_lanes_write_is_a_workers(world: World) -> None:
    """A new table must be put into roles.sql, or among those that only the operator writes."""
    of_the_operator = {"specs", "classifiers", "samples", "sampled_items", "forgotten"} | {
        "removed_months",
        "past_calls",
        "past_items",
        "removed_ids",
    }
    writable = {row.table_name for row in world.rows(
        "SELECT table_name FROM information_schema.role_table_grants"
        " WHERE grantee = 'datashunt_worker' AND privilege_type = 'INSERT'"
    )}  # fmt: skip
    assert writable == {table.name for table in Base.metadata.sorted_tables} - of_the_operator
