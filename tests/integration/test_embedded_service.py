"""`up`, `down` and the process that `up --detach` leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from datashunt.embedded import Stack, Urls, down, process, running, service, up
from datashunt.embedded.folder import DataFolder
from datashunt.embedded.server import STOP_S
from datashunt.errors import EmbeddedError, SettingsError, UsageError

DEADLINE_S = 60.0
REPOSITORY = Path(__file__).parents[2]
SERVE = """
import sys
from pathlib import Path
from datashunt.embedded import Command, service
code = "import json, os, sys, time; json.dump(dict(os.environ), open(sys.argv[1], 'w')); time.sleep(600)"
command = Command("child", (sys.executable, "-c", code, sys.argv[2]))
service.worker_commands = lambda folder: (command,)
service.serve(Path(sys.argv[1]), workers=True)
"""


@pytest.fixture(autouse=True)
def _no_servers_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "MODELS_URL", "DATA_DIR"):
        monkeypatch.delenv(f"DATASHUNT_{name}", raising=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Stack(tmp_path_factory.mktemp("template") / "data")
    made.start()
    made.stop()
    (made.folder.path / "run.json").unlink()
    return made.folder.path


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Iterator[Path]:
    path = tmp_path / "data folder"
    subprocess.run(["cp", "-a", str(template), str(path)], check=True)
    yield path
    down(path)


def one(urls: Urls, statement: str) -> Any:
    with psycopg.connect(urls.database, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone() if cursor.description else None


def servers_of(path: Path) -> list[int]:
    found = process.found_in(path / "postgres", "postgres") + process.found_in(path / "valkey", "valkey-server")
    return [server.pid for server in found]


def owner_pid(path: Path) -> int:
    pid = DataFolder(path).owner().pid
    assert pid is not None
    return pid


def test_up_leaves_servers_behind_and_down_ends_them_all(folder: Path) -> None:
    urls = up(folder, workers=False, detach=True)
    one(urls, "CREATE TABLE kept AS SELECT 1 AS n")
    assert running(folder) == urls
    assert owner_pid(folder) != os.getpid()
    assert os.getsid(owner_pid(folder)) == owner_pid(folder)
    assert down(folder) is True
    assert servers_of(folder) == []
    assert running(folder) is None
    assert down(folder) is False
    again = up(folder, workers=False, detach=True)
    assert again == urls
    assert one(again, "SELECT n FROM kept") == (1,)


def test_down_waits_for_as_long_as_an_orderly_end_may_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_LLM_DEADLINE_S", "600")
    up(folder, workers=False, detach=True)
    waits: list[float] = []
    really = process.wait_until

    def noted(condition: Callable[[], bool], timeout_s: float) -> bool:
        waits.append(timeout_s)
        return really(condition, timeout_s)

    monkeypatch.setattr(process, "wait_until", noted)
    assert down(folder)
    assert waits[0] > 600 + service.AFTER_CALL_S + 2 * STOP_S


def test_a_first_up_makes_the_data(tmp_path: Path) -> None:
    path = tmp_path / "new"
    try:
        assert one(up(path, workers=False, detach=True), "SELECT current_database()") == ("datashunt",)
    finally:
        assert down(path)


@pytest.mark.parametrize("detach", [True, False])
def test_a_second_up_says_that_it_already_runs(folder: Path, detach: bool) -> None:
    urls = up(folder, workers=False, detach=True)
    with pytest.raises(EmbeddedError, match=rf"already runs in {folder} \(process {owner_pid(folder)}\)"):
        up(folder, workers=False, detach=detach)
    assert running(folder) == urls


def test_servers_end_with_a_killed_supervisor_and_the_next_up_recovers(folder: Path) -> None:
    urls = up(folder, workers=False, detach=True)
    one(urls, "CREATE TABLE kept AS SELECT 1 AS n")
    os.kill(owner_pid(folder), signal.SIGKILL)
    assert process.wait_until(lambda: not servers_of(folder), DEADLINE_S)
    assert running(folder) is None
    assert one(up(folder, workers=False, detach=True), "SELECT n FROM kept") == (1,)


def test_down_right_after_a_killed_supervisor_waits_until_all_is_gone(folder: Path) -> None:
    up(folder, workers=False, detach=True)
    supervisor = owner_pid(folder)
    os.kill(supervisor, signal.SIGKILL)
    assert process.wait_until(lambda: process.start_mark(supervisor) is None, DEADLINE_S)
    down(folder)
    assert servers_of(folder) == []


def test_the_supervisor_starts_a_killed_server_again_where_it_was(folder: Path) -> None:
    urls = up(folder, workers=False, detach=True)
    postmaster = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGKILL)
    lock = folder / "postgres" / "postmaster.pid"

    def back() -> bool:
        lines = lock.read_text().splitlines() if lock.exists() else []
        return len(lines) >= 8 and lines[0] != str(postmaster) and lines[7].strip() == "ready"

    assert process.wait_until(back, DEADLINE_S)
    assert running(folder) == urls
    assert one(urls, "SELECT 1") == (1,)


def test_a_failed_start_in_the_background_is_reported_in_the_foreground(folder: Path) -> None:
    (folder / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match=r"postgres ended with code 1: .*database files are incompatible"):
        up(folder, workers=False, detach=True)
    assert servers_of(folder) == []


def default(number: signal.Signals) -> str:
    """What a program at a terminal does with a signal before it says otherwise."""
    return "default_int_handler" if number == signal.SIGINT else "SIG_DFL"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_the_foreground_a_signal_ends_all_in_order(folder: Path, number: signal.Signals) -> None:
    # as at a terminal: what is started under `nohup` ignores a SIGHUP, rightly
    start = f"import runpy, signal; signal.signal({int(number)}, signal.{default(number)})"
    module = "runpy.run_module('datashunt.embedded', run_name='__main__', alter_sys=True)"
    argv = [sys.executable, "-c", f"{start}; {module}", "--data-dir", str(folder)]
    with subprocess.Popen(argv, cwd=REPOSITORY) as foreground:
        assert process.wait_until(lambda: running(folder) is not None, DEADLINE_S)
        foreground.send_signal(number)
        assert foreground.wait(DEADLINE_S) == 0
    assert servers_of(folder) == []
    assert "database system is shut down" in (folder / "logs" / "postgres.log").read_text().splitlines()[-1]


def test_down_does_not_end_a_program_that_holds_servers_for_itself(folder: Path) -> None:
    stack = Stack(folder)
    stack.start()
    try:
        with pytest.raises(EmbeddedError, match=f"belong to process {os.getpid()}"):
            down(folder)
    finally:
        stack.stop()


def test_down_in_a_folder_that_was_never_up_touches_nothing(tmp_path: Path) -> None:
    assert down(tmp_path) is False
    assert down(tmp_path / "missing") is False
    assert list(tmp_path.iterdir()) == []


def serve_and_read_environment(folder: Path) -> dict[str, str]:
    """What a child of `up --workers` sees; the owner is stopped with `down`."""
    seen = folder.with_name("environment.json")
    with subprocess.Popen([sys.executable, "-c", SERVE, str(folder), str(seen)], cwd=REPOSITORY) as owner:
        assert process.wait_until(lambda: seen.exists() and seen.read_text().endswith("}"), DEADLINE_S)
        assert down(folder)
        assert owner.wait(DEADLINE_S) == 0
    environment: dict[str, str] = json.loads(seen.read_text())
    return environment


def test_workers_get_the_urls_of_the_embedded_servers(folder: Path) -> None:
    environment = serve_and_read_environment(folder)
    urls = DataFolder(folder).urls()
    assert urls is not None
    assert environment["DATASHUNT_DATABASE_URL"] == urls.database
    assert environment["DATASHUNT_BROKER_URL"] == urls.broker
    assert environment["DATASHUNT_MODELS_URL"] == urls.models
    assert environment["DATASHUNT_DATA_DIR"] == str(folder)
    assert environment["PATH"] == os.environ["PATH"]


def test_given_servers_are_used_and_none_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", "postgresql://elsewhere/database")
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "redis://elsewhere:6379/0")
    monkeypatch.setenv("DATASHUNT_MODELS_URL", "s3://bucket/models")
    environment = serve_and_read_environment(tmp_path / "data")
    assert environment["DATASHUNT_DATABASE_URL"] == "postgresql://elsewhere/database"
    assert environment["DATASHUNT_BROKER_URL"] == "redis://elsewhere:6379/0"
    assert environment["DATASHUNT_MODELS_URL"] == "s3://bucket/models"
    assert not (tmp_path / "data" / "postgres").exists()


def test_given_servers_and_no_workers_leave_nothing_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", "postgresql://elsewhere/database")
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "redis://elsewhere:6379/0")
    with pytest.raises(UsageError, match="nothing to start"):
        up(tmp_path / "data", workers=False, detach=True)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("there", "missing"), [("DATABASE", "BROKER"), ("BROKER", "DATABASE")])
def test_one_given_server_alone_is_a_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, missing: str
) -> None:
    monkeypatch.setenv(f"DATASHUNT_{there}_URL", "redis://elsewhere/0")
    with pytest.raises(SettingsError, match=f"DATASHUNT_{there}_URL is set and DATASHUNT_{missing}_URL is not"):
        up(tmp_path / "data", workers=False, detach=False)


def test_a_shell_that_still_has_our_own_urls_can_start_them_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = up(folder, workers=False, detach=True)
    down(folder)
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", urls.database)
    monkeypatch.setenv("DATASHUNT_BROKER_URL", urls.broker)
    assert one(up(folder, workers=False, detach=True), "SELECT 1") == (1,)


def test_the_command_line_is_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "datashunt.embedded"], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"--data-dir" in done.stderr
