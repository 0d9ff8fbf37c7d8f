"""Real servers for every tier: a database of its own for each test, copied from one that was migrated once.

DATASHUNT_TEST_DATABASE_URL and DATASHUNT_TEST_BROKER_URL name servers to use instead of the embedded ones; the
role must be allowed to create databases, and the broker must be a Redis or Valkey.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import psycopg
import pytest
import redis
from coverage import Coverage
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from datashunt.bootstrap import Runtime
from datashunt.embedded import Stack, postgres
from datashunt.errors import EmbeddedError
from datashunt.settings import Settings
from datashunt.store import Store, migrate, roles

GIVEN_DATABASE = os.environ.get("DATASHUNT_TEST_DATABASE_URL")
GIVEN_BROKER = os.environ.get("DATASHUNT_TEST_BROKER_URL")
BROKER_DATABASES = range(1, 16)
RESERVED_S = 600
MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
"""A file system in memory, and the bytes that must be free there: a database is made ten times as fast as on a disk."""


def pytest_configure() -> None:
    """No test sees the developer's servers, nor a key that costs money."""
    for name in list(os.environ):
        if name.startswith("DATASHUNT_") and not name.startswith("DATASHUNT_TEST_"):
            del os.environ[name]
    os.environ.pop("OPENAI_API_KEY", None)


def pytest_sessionfinish() -> None:
    """Write down what was covered now: pytest-xdist kills what needs more than ten seconds to end."""
    if (running := Coverage.current()) is not None:
        running.save()


def unavailable(why: str) -> NoReturn:
    """A missing service skips a test on a developer's machine; in CI it is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def _place_for_servers() -> Path:
    """A new folder, in memory where there is enough."""
    fits = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM
    # Not pytest's own folder: another user must reach it when root runs the tests.
    place = Path(tempfile.mkdtemp(prefix="datashunt-tests-", dir=MEMORY if fits else None))
    place.chmod(0o755)
    return place


@pytest.fixture(scope="session")
def server_urls() -> Iterator[tuple[str, str]]:
    """Superuser's database URL and broker URL: the given servers, or embedded ones of this test process."""
    if GIVEN_DATABASE and GIVEN_BROKER:
        yield GIVEN_DATABASE, GIVEN_BROKER
        return
    place = _place_for_servers()
    stack = Stack(place / "data")
    try:
        with pytest.MonkeyPatch.context() as patch:
            # What a test wrote need not survive a power cut, and making a database writes a thousand files.
            patch.setitem(postgres.SETTINGS, "fsync", "off")
            patch.setattr(postgres, "INITDB", (*postgres.INITDB, "--no-sync"))
            urls = stack.start()
    except EmbeddedError as error:
        shutil.rmtree(place)
        unavailable(f"no servers for the tests: {error}")
    yield GIVEN_DATABASE or urls.database, GIVEN_BROKER or urls.broker
    stack.stop()
    shutil.rmtree(place)


@contextmanager
def _database(server: str, template: str | None = None) -> Iterator[str]:
    """The URL of a new database, dropped at the end whoever is still connected."""
    name = f"datashunt_test_{uuid4().hex[:16]}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template is not None:
        create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(create)
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def template_database(server_urls: tuple[str, str]) -> Iterator[str]:
    """The name of a migrated database with its roles, to which nobody is connected."""
    with _database(server_urls[0]) as url:
        store = Store(SecretStr(url), pool_size=1)
        migrate.upgrade(store)
        with _one_at_a_time(server_urls[0]):
            roles.apply(store)
        store.close()
        yield str(make_url(url).database)


@contextmanager
def _one_at_a_time(server: str) -> Iterator[None]:
    """Roles belong to the whole server, which other test processes may share."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(hashtext('datashunt: roles of tests'))")
        yield


@contextmanager
def login_of(role: str, server: str) -> Iterator[Callable[[str], str]]:
    """A login that is a member of `datashunt_ROLE`; gives a database's URL as that login uses it."""
    name = f"t_{role}_{uuid4().hex[:12]}"
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'p' IN ROLE {}")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(create.format(sql.Identifier(name), sql.Identifier(f"datashunt_{role}")))
    try:
        yield lambda url: make_url(url).set(username=name, password="p").render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def logins(server_urls: tuple[str, str], template_database: str) -> Iterator[Mapping[str, Callable[[str], str]]]:
    """Role → (URL of a database → that URL for a login with the rights of this role, and no others)."""
    with ExitStack() as stack:
        yield {role: stack.enter_context(login_of(role, server_urls[0])) for role in ("producer", "worker", "reader")}


@pytest.fixture
def empty_database_url(server_urls: tuple[str, str]) -> Iterator[str]:
    """A database of this test's own that was never migrated."""
    with _database(server_urls[0]) as url:
        yield url


@pytest.fixture
def database_url(server_urls: tuple[str, str], template_database: str) -> Iterator[str]:
    """A migrated database of this test's own."""
    with _database(server_urls[0], template_database) as url:
        yield url


@pytest.fixture
def broker_url(server_urls: tuple[str, str]) -> Iterator[str]:
    """An empty database of the broker, reserved for this test."""
    with closing(redis.Redis.from_url(server_urls[1])) as keeper:
        number = next((n for n in BROKER_DATABASES if _reserve(keeper, server_urls[1], n)), None)
        if number is None:
            pytest.fail("every database of the test broker is in use: give the tests a broker of their own")
        with _numbered(server_urls[1], number) as broker:
            yield make_url(server_urls[1]).set(database=str(number)).render_as_string(hide_password=False)
            broker.flushdb()
        keeper.delete(f"datashunt:tests:{number}")


def _reserve(keeper: redis.Redis, url: str, number: int) -> bool:
    if not keeper.set(f"datashunt:tests:{number}", "taken", nx=True, ex=RESERVED_S):
        return False
    with _numbered(url, number) as broker:
        if broker.dbsize() == 0:
            return True
    keeper.delete(f"datashunt:tests:{number}")
    return False


def _numbered(url: str, number: int) -> redis.Redis:
    return redis.Redis.from_url(make_url(url).set(database=str(number)).render_as_string(hide_password=False))


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings of a process that uses this test's database and broker, and no real LLM."""
    return Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(broker_url),
        data_dir=tmp_path / "data",
        llm_base_url="http://127.0.0.1:9/v1",
        threads=1,
        device="cpu",
    )


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A process's runtime on this test's servers."""
    made = Runtime(settings)
    yield made
    made.close()


@pytest.fixture
def store(runtime: Runtime) -> Store:
    """The store of this test's database."""
    return runtime.store
