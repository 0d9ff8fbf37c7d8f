"""`datashunt doctor` on real servers: everything right, then each thing broken in turn."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lanes import NAME, World
from pydantic import SecretStr
from sqlalchemy import text

from datashunt import doctor
from datashunt.items import Item
from datashunt.settings import Settings
from datashunt.store import bundles, migrate, schema

MODELS = json.dumps({"object": "list", "data": [{"id": "teacher-1", "object": "model", "created": 0, "owned_by": "x"}]})


@contextmanager
def endpoint(status: int = 200, body: str = MODELS, kind: str = "application/json") -> Iterator[str]:
    """An LLM endpoint that says one thing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def examine(world: World) -> Iterator[Callable[..., dict[str, str]]]:
    """What is bad, by what it is; with a healthy endpoint unless another is given."""
    with endpoint() as url:

        def look(**changes: Any) -> dict[str, str]:
            settings = world.settings.model_copy(update={"llm_base_url": url, **changes})
            return {found.what: found.detail for found in doctor.examine(settings) if not found.ok}

        yield look


Examine = Callable[..., dict[str, str]]


def test_nothing_is_wrong_with_a_healthy_installation(examine: Examine, world: World) -> None:
    assert examine() == {}


def test_everything_is_looked_at_in_the_order_of_its_dependencies(settings: Settings) -> None:
    assert [found.what for found in doctor.examine(settings)] == [
        *(
            "PostgreSQL",
            "migrations",
            "partitions",
            "broker",
            "quota",
            "bundles",
            "small models",
            "LLM endpoint",
            "LLM prices",
        )
    ]


@pytest.mark.parametrize(
    ("change", "what", "said"),
    [
        ({"database_url": None}, "PostgreSQL", "DATASHUNT_DATABASE_URL is not set"),
        (
            {"database_url": "postgresql://app@127.0.0.1:9/none"},
            "PostgreSQL",
            "check that it runs, and DATASHUNT_DATABASE_URL",
        ),
        ({"database_url": "mysql://app@127.0.0.1/x"}, "PostgreSQL", "DATASHUNT_DATABASE_URL: expected postgresql"),
        ({"database_url": "nonsense"}, "PostgreSQL", "DATASHUNT_DATABASE_URL is no URL"),
        ({"database_url": "postgresql://app@127.0.0.1:x/none"}, "PostgreSQL", "DATASHUNT_DATABASE_URL is no URL"),
        ({"broker_url": None}, "broker", "DATASHUNT_BROKER_URL is not set"),
        ({"broker_url": "redis://127.0.0.1:9/0"}, "broker", "check that it runs, and DATASHUNT_BROKER_URL"),
        ({"broker_url": "nonsense://127.0.0.1/0"}, "broker", "DATASHUNT_BROKER_URL: expected redis://"),
        ({"quota_url": "redis://127.0.0.1:9/0"}, "quota", "the quota store at 127.0.0.1 cannot be used"),
        ({"llm_base_url": "http://127.0.0.1:9/v1"}, "LLM endpoint", "check DATASHUNT_LLM_BASE_URL"),
        ({"llm_base_url": "127.0.0.1"}, "LLM endpoint", "DATASHUNT_LLM_BASE_URL: expected"),
        ({"llm_api_key": "two words"}, "LLM endpoint", "DATASHUNT_LLM_API_KEY: expected no white space"),
    ],
)
def test_a_wrong_setting_is_named(examine: Examine, change: dict[str, str | None], what: str, said: str) -> None:
    secret = {name for name in change if name != "llm_base_url"}
    found = examine(**{k: SecretStr(v) if k in secret and v is not None else v for k, v in change.items()})
    assert said in found[what]
    assert "password" not in found[what].replace("user:password@host", "")


def test_a_database_that_was_never_migrated_is_told_how(examine: Examine, empty_database_url: str) -> None:
    found = examine(database_url=SecretStr(empty_database_url))
    assert found["migrations"] == (
        f"the database is at nothing, this release needs {schema.OLDEST} or newer: run `datashunt db upgrade`"
    )


def test_a_database_that_lacks_a_migration_or_comes_from_a_newer_release_is_told(
    examine: Examine, world: World
) -> None:
    at(world, schema.OLDEST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "head", lambda: "8888")
        assert examine()["migrations"].startswith(f"the database is at {schema.OLDEST}, this release brings 8888")
    at(world, "9999")
    assert "migrations" not in examine()
    assert all(found.ok for found in doctor.examine_data(world.settings))
    at(world, "0013")
    expected = f"the database is at 0013, this release needs {schema.OLDEST} or newer: run `datashunt db upgrade`"
    assert examine()["migrations"] == expected
    assert [(one.what, one.detail) for one in doctor.examine_data(world.settings)] == [("migrations", expected)]


def at(world: World, revision: str) -> None:
    """Let the database say that it is at this revision."""
    with world.store.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_dump_of_another_server_is_named_before_a_consumer_misses_anything(world: World, examine: Examine) -> None:
    world.bundle()
    world.submit(Item("a", "positive 0.95"))
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    world.change("UPDATE outcomes SET xact = xact + 5000000")
    assert "a dump was restored" in examine()["migrations"]
    migrate.catch_up(world.admin)
    assert "migrations" not in examine()


def test_a_limit_without_a_place_for_the_allowance_is_told(examine: Examine, world: World) -> None:
    world.apply(llm={"rpm": 60})
    found = examine(broker_url=SecretStr("amqp://127.0.0.1:9//"))
    assert "sentiment set llm.rpm, llm.tpm or llm.concurrency" in found["quota"]
    assert "DATASHUNT_QUOTA_URL" in found["quota"]


def test_a_bundle_that_is_gone_is_told(examine: Examine, world: World) -> None:
    world.bundle()
    assert "memory://nowhere" in examine()["bundles"]


def test_an_altered_bundle_is_told(examine: Examine, world: World, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "weights").write_text("as published")
    uri, content_hash = world.runtime.registry.publish(tmp_path / "bundle", "sentiment/1")
    with world.store.begin() as tx:
        known = world.known()
        made = bundles.add(tx, known, uri=uri, content_hash=content_hash, recipe="head", prune_cut=None, evaluation={})
        bundles.promote_by_hand(tx, known, made.version)
    assert examine() == {}
    for path in world.settings.data_dir.rglob("weights"):
        path.write_text("altered")
    assert "is not the file that was published" in examine()["bundles"]


def test_a_model_without_a_price_is_told(examine: Examine, world: World) -> None:
    world.apply(llm={"model": "my-own-model", "input_price": None, "output_price": None})
    assert "no price is known for my-own-model" in examine()["LLM prices"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told(examine: Examine, status: int) -> None:
    with endpoint(status, '{"error": {"message": "no"}}') as url:
        assert "refuses DATASHUNT_LLM_API_KEY" in examine(llm_base_url=url)["LLM endpoint"]


def test_an_endpoint_without_a_list_of_models_is_no_fault(examine: Examine) -> None:
    with endpoint(404, "{}") as url:
        assert examine(llm_base_url=url) == {}


@pytest.mark.parametrize(
    ("body", "kind"), [("<html>Welcome</html>", "text/html"), ('{"ok": true}', "application/json")]
)
def test_something_else_at_the_address_is_told(examine: Examine, body: str, kind: str) -> None:
    with endpoint(200, body, kind) as url:
        assert "check DATASHUNT_LLM_BASE_URL" in examine(llm_base_url=url)["LLM endpoint"]
