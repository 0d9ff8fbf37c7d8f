"""All lanes need no session of their own: through PgBouncer in transaction mode, and with a new session each time.

The first needs a `pgbouncer` on the PATH (a package of Debian's); the second shows on every machine that nothing is
left in a session that another transaction could miss.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from lanes import LABELS, NAME, FakeLLM, World, reply
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, event
from sqlalchemy.engine import make_url

from datashunt import Client
from datashunt.bootstrap import Runtime
from datashunt.embedded.process import wait_until
from datashunt.items import Item
from datashunt.settings import Settings
from datashunt.store import invariants, migrate

CONFIG = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""
LEFT = """
    SELECT (SELECT count(*) FROM pg_prepared_statements) + (SELECT count(*) FROM pg_listening_channels())
         + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
         + (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relnamespace = pg_my_temp_schema())
"""


@pytest.fixture
def pooled_url(empty_database_url: str) -> Iterator[str]:
    """An empty database through a PgBouncer that has two connections to it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer: install the package of that name to run this test")
    url = make_url(empty_database_url)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        own = taken.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="datashunt-pgbouncer-"))  # another user must get there
    folder.chmod(0o755)
    config = folder / "pgbouncer.ini"
    config.write_text(
        CONFIG.format(host=url.host, port=url.port, user=url.username, password=url.password, own=own), encoding="utf-8"
    )
    other = {"user": "nobody"} if os.geteuid() == 0 else {}  # it refuses to be root
    config.chmod(0o644)
    server = subprocess.Popen(
        [program, str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **other
    )
    pooled = url.set(host="127.0.0.1", port=own).render_as_string(hide_password=False)
    try:
        assert wait_until(lambda: _answers(pooled), 20), f"pgbouncer ended with {server.poll()}"
        yield pooled
    finally:
        server.terminate()
        server.wait(timeout=10)
        shutil.rmtree(folder)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=1).close()
    except psycopg.OperationalError:
        return False
    return True


def test_all_lanes_work_through_pgbouncer_in_transaction_mode(pooled_url: str, settings: Settings) -> None:
    with closing(Runtime(settings.model_copy(update={"database_url": SecretStr(pooled_url)}))) as runtime:
        migrate.upgrade(runtime.store)
        live(runtime)


def test_all_lanes_work_with_a_new_session_for_each_transaction(runtime: Runtime) -> None:
    left: list[int] = []
    store = runtime.store
    store.close()
    store.engine = create_engine(store.engine.url, poolclass=NullPool, connect_args={"prepare_threshold": None})
    store._single = store.engine.execution_options(isolation_level="AUTOCOMMIT")

    @event.listens_for(store.engine, "checkin")
    def _(connection: Any, _record: Any) -> None:
        left.append(connection.execute(LEFT).fetchone()[0])
        connection.rollback()

    live(runtime)
    assert len(left) > 20
    assert set(left) == {0}


def live(runtime: Runtime) -> None:
    """Submit, score, ask, answer, tick; read outcomes; and all adds up."""
    world = World(runtime)
    world.apply(policy={"mode": "budget", "calls_per_day": 100, "audit_rate": 0.5})
    world.bundle()
    asks = world.score(*(f"positive 0.{99 - n} {n}" for n in range(30)))
    said = reply(probabilities={label: float(label == "positive") for label in LABELS})
    assert world.ask(FakeLLM([said]), asks) == len(asks) > 0
    runtime.ticker.run()
    assert world.states() == {"done": 30}
    with Client(runtime.settings) as client:
        assert len(list(client.results(NAME))) == 30
    receipt, _ = world.submit(Item("i0", "positive 0.99 0"))
    assert receipt.known == 1
    with world.store.begin() as tx:
        assert [one.name for one, broken in invariants.check(tx) if broken.count] == []
