"""Real PostgreSQL and Valkey from the wheels: who they run as, what they keep, and what kill -9 leaves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from datashunt.embedded import Stack, Urls, process, running
from datashunt.embedded.postgres import Postgres
from datashunt.errors import EmbeddedError

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 60.0
HOLD = """
import sys, time
from pathlib import Path
from datashunt.embedded import Stack
stack = Stack(Path(sys.argv[1]))
print(stack.start().database, flush=True)
sys.stdin.read()
stack.stop()
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed to others."""
    place = Path(tempfile.mkdtemp(prefix="embedded servers "))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data as a first start leaves it: a copy is made quicker."""
    made = Stack(tmp_path_factory.mktemp("template") / "data")
    made.start()
    made.stop()
    (made.folder.path / "run.json").unlink()
    return made.folder.path


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "data folder")
    yield made
    made.stop()


@pytest.fixture
def stack(new_stack: Stack, template: Path) -> Stack:
    subprocess.run(["cp", "-a", str(template), str(new_stack.folder.path)], check=True)
    return new_stack


def sql(urls: Urls, statement: str) -> Any:
    with psycopg.connect(urls.database, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone() if cursor.description else None


def valkey(urls: Urls) -> redis.Redis:
    return redis.Redis.from_url(urls.broker, single_connection_client=True)


def store_something(urls: Urls) -> None:
    sql(urls, "CREATE TABLE kept AS SELECT 'yes' AS word")
    with valkey(urls) as client:
        client.set("kept", "yes")


def assert_kept(urls: Urls) -> None:
    assert sql(urls, "SELECT word FROM kept") == ("yes",)
    with valkey(urls) as client:
        assert client.get("kept") == b"yes"


def servers_of(folder: Path) -> list[psutil.Process]:
    postgres = process.found_in(folder / "postgres", "postgres")
    return postgres + process.found_in(folder / "valkey", "valkey-server")


def hold(folder: Path, *before: str) -> subprocess.Popen[str]:
    """Another process that owns the folder; it stops in order when its stdin closes."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def assert_started(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    assert holder.stderr is not None
    if not holder.stdout.readline().startswith("postgresql://app:"):
        pytest.fail(holder.stderr.read())


def close(holder: subprocess.Popen[str]) -> int:
    holder.communicate(timeout=DEADLINE_S)
    return holder.returncode


def test_the_database_is_utf8_with_one_order_everywhere_and_asks_for_its_password(stack: Stack) -> None:
    urls = stack.start()
    row = sql(
        urls,
        "SELECT current_user, current_database(), pg_encoding_to_char(encoding), datlocprovider, datlocale"
        " FROM pg_database WHERE datname = current_database()",
    )
    assert row == ("app", "datashunt", "UTF8", "b", "C.UTF-8")
    assert sql(urls, "SHOW fsync") == ("on",)
    assert sql(urls, "SHOW unix_socket_directories") == ("",)
    assert sql(urls, "SHOW listen_addresses") == ("127.0.0.1",)
    assert sql(urls, "SHOW password_encryption") == ("scram-sha-256",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(urls.database.replace("app:", "app:x"), connect_timeout=10)


def test_the_broker_keeps_a_log_drops_nothing_and_asks_for_its_password(stack: Stack) -> None:
    urls = stack.start()
    with valkey(urls) as client:
        assert client.config_get("append*")["appendonly"] == "yes"
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
    stranger = redis.Redis(port=int(urls.broker.rpartition(":")[2].removesuffix("/0")))
    with pytest.raises(redis.AuthenticationError):
        stranger.ping()
    stranger.close()


def test_starting_again_keeps_data_and_ports(stack: Stack) -> None:
    urls = stack.start()
    store_something(urls)
    assert stack.start() == urls
    assert stack.running() == urls
    stack.stop()
    assert stack.running() is None
    assert servers_of(stack.folder.path) == []
    assert stack.start() == urls
    assert_kept(urls)


def test_a_port_that_was_taken_meanwhile_is_replaced(stack: Stack) -> None:
    before = stack.start()
    stack.stop()
    with socket.create_server(("127.0.0.1", stack.folder.owner().database_port or 0)):
        after = stack.start()
    assert after.database != before.database
    assert after.broker == before.broker
    assert sql(after, "SELECT 1") == (1,)


def test_nobody_else_can_read_anything_and_nothing_lies_beside_the_folder(new_stack: Stack, tmp_path: Path) -> None:
    store_something(new_stack.start())
    folder = new_stack.folder.path
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert stat.S_IMODE(folder.stat().st_mode) == (0o711 if ROOT else 0o700)
    everything = [path for path in folder.rglob("*") if not path.name.startswith("pgsql_tmp")]
    assert len(everything) > 100
    assert [path for path in everything if path.lstat().st_mode & 0o077] == []


def test_a_folder_that_was_there_before_keeps_its_mode(new_stack: Stack) -> None:
    folder = new_stack.folder.path
    folder.mkdir()
    folder.chmod(0o755)
    new_stack.folder.make()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o700}


@pytest.mark.skipif(not ROOT, reason="only root runs servers as somebody else")
def test_root_runs_the_servers_as_nobody_where_nobody_can_reach_the_folder(open_place: Path) -> None:
    stack = Stack(open_place / "data")
    try:
        store_something(stack.start())
        assert {one.username() for one in servers_of(stack.folder.path)} == {"nobody"}
        stack.stop()
        assert_kept(stack.start())
    finally:
        stack.stop()


@pytest.mark.skipif(not ROOT, reason="only root needs a way around PostgreSQL's refusal")
def test_root_runs_the_servers_below_a_closed_home(open_place: Path) -> None:
    home = open_place / "home"
    home.mkdir(mode=0o700)
    stack = Stack(home / "project" / "data")
    try:
        store_something(stack.start())
        assert len(servers_of(stack.folder.path)) > 1
        assert {path.stat().st_uid for path in stack.folder.path.rglob("*")} == {0}
        stack.stop()
        assert_kept(stack.start())
    finally:
        stack.stop()


def as_nobody() -> list[str]:
    """A command prefix that becomes an ordinary user; it may still read where Python itself is installed."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing: cannot become an ordinary user")
    user = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    return ["setpriv", *user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.mark.skipif(not ROOT, reason="the other tests here already run as an ordinary user")
def test_an_ordinary_user_runs_the_servers_itself(open_place: Path) -> None:
    place = open_place / "theirs"
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    with hold(place / "data", *as_nobody()) as holder:
        assert_started(holder)
        assert {one.uids().real for one in servers_of(place / "data")} == {65534}
        assert stat.S_IMODE((place / "data").stat().st_mode) == 0o700
        assert close(holder) == 0
    assert servers_of(place / "data") == []


@pytest.mark.skipif(not ROOT, reason="needs two users")
def test_data_of_another_user_is_refused_with_its_name(open_place: Path) -> None:
    stack = Stack(open_place / "data")
    stack.start()
    stack.stop()
    with hold(stack.folder.path, *as_nobody()) as holder:
        _, said = holder.communicate(timeout=DEADLINE_S)
    assert "EmbeddedError" in said
    assert str(stack.folder.path) in said


def test_servers_end_in_order_when_their_owner_is_killed(stack: Stack) -> None:
    folder = stack.folder.path
    with hold(folder) as holder:
        assert_started(holder)
        urls = running(folder)
        assert urls is not None
        store_something(urls)
        assert len(servers_of(folder)) > 1
        holder.kill()
    assert process.wait_until(lambda: not servers_of(folder), DEADLINE_S)
    assert "database system is shut down" in (folder / "logs" / "postgres.log").read_text()
    assert running(folder) is None
    assert_kept(stack.start())


def test_start_brings_back_killed_servers_with_their_data_and_ports(stack: Stack) -> None:
    urls = stack.start()
    store_something(urls)
    with valkey(urls) as client:
        client.execute_command("WAITAOF", 1, 0, 10_000)  # everysec: the last second may be lost
    for server in servers_of(stack.folder.path):
        if server.ppid() == os.getpid():
            server.kill()
            server.wait(DEADLINE_S)
    assert stack.running() is None
    assert stack.start() == urls
    assert_kept(urls)


def test_everything_killed_at_once_is_recovered_by_the_next_start(stack: Stack) -> None:
    folder = stack.folder.path
    with hold(folder) as holder:
        assert_started(holder)
        urls = running(folder)
        assert urls is not None
        store_something(urls)
        with valkey(urls) as client:
            client.execute_command("WAITAOF", 1, 0, 10_000)
        for victim in [*servers_of(folder), holder]:
            victim.send_signal(signal.SIGSTOP)  # so that none sees another one die
        for victim in [*servers_of(folder), holder]:
            victim.kill()
    assert (folder / "postgres" / "postmaster.pid").exists()
    assert_kept(stack.start())


def test_servers_that_outlived_their_owner_are_ended_before_others_start(stack: Stack) -> None:
    stack.start()
    stack.stop()
    orphan = Postgres(stack.folder.postgres, stack.folder.logs / "orphan.log", "")
    orphan.start(stack.folder.owner().database_port or 0)
    try:
        assert sql(stack.start(), "SELECT 1") == (1,)
        assert not orphan.alive
    finally:
        orphan.stop()


def test_a_lock_file_whose_pid_now_is_another_program_does_not_stop_the_start(stack: Stack) -> None:
    stack.start()
    lock = stack.folder.postgres / "postmaster.pid"
    lines = lock.read_text().splitlines()
    stack.stop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        owner = stack.folder.postgres.stat()
        lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        os.chown(lock, owner.st_uid, owner.st_gid)
        assert sql(stack.start(), "SELECT 1") == (1,)
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_first_start_that_was_killed_half_way_is_done_again(new_stack: Stack) -> None:
    folder = new_stack.folder.path
    (folder / "postgres.new").mkdir(parents=True)
    (folder / "postgres.new" / "PG_VERSION").write_text("18\n")
    (folder / "postgres.password").write_text("old")
    assert sql(new_stack.start(), "SELECT 1") == (1,)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("lock", "logs", "models", "postgres", "run.json", "secrets.json", "valkey")
    ]


def test_a_folder_has_one_owner_and_the_second_is_told_which(stack: Stack) -> None:
    stack.start()
    with hold(stack.folder.path) as second:
        _, said = second.communicate(timeout=DEADLINE_S)
    assert f"already runs in {stack.folder.path} (process {os.getpid()})" in said
    with pytest.raises(EmbeddedError, match="already runs"):
        Stack(stack.folder.path).start()
    assert stack.running() is not None


def test_run_json_of_a_reused_pid_counts_as_stale(stack: Stack) -> None:
    urls = stack.start()
    stack.folder.record(_other_start(stack))
    assert running(stack.folder.path) is None
    assert sql(urls, "SELECT 1") == (1,)


def _other_start(stack: Stack) -> Any:
    owner = stack.folder.owner()
    return type(owner)(**{name: getattr(owner, name) for name in owner.__slots__} | {"mark": "1"})


def test_a_server_that_does_not_start_is_explained_by_its_last_log_lines(stack: Stack) -> None:
    stack.start()
    stack.stop()
    (stack.folder.postgres / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match=r"postgres ended with code 1: .*database files are incompatible"):
        stack.start()
    assert servers_of(stack.folder.path) == []
    (stack.folder.postgres / "PG_VERSION").write_text("18\n")
    assert sql(stack.start(), "SELECT 1") == (1,)


def test_lost_passwords_are_reported_before_anything_starts(stack: Stack) -> None:
    stack.start()
    stack.stop()
    (stack.folder.path / "secrets.json").unlink()
    with pytest.raises(EmbeddedError, match=r"secrets\.json is gone"):
        stack.start()


@pytest.mark.parametrize("name", ["run.json", "secrets.json"])
def test_a_damaged_file_is_named_and_the_folder_left_free(new_stack: Stack, name: str) -> None:
    new_stack.folder.make()
    damaged = new_stack.folder.path / name
    damaged.write_text("{")
    with pytest.raises(EmbeddedError, match=rf"{name} is damaged"):
        new_stack.start()
    damaged.unlink()
    new_stack.folder.acquire(service=False)
    new_stack.folder.release()


def test_a_data_folder_that_is_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=rf"the data folder {tmp_path}/file cannot be used"):
        Stack(tmp_path / "file").start()
    assert running(tmp_path / "missing") is None
