"""The supervisor with real child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datashunt.embedded import Command, Supervisor, process

DEADLINE_S = 60.0
REPOSITORY = Path(__file__).parents[2]


def python(name: str, code: str, *arguments: object) -> Command:
    return Command(name, (sys.executable, "-c", code, *map(str, arguments)))


def eventually(condition: Callable[[], bool]) -> None:
    assert process.wait_until(condition, DEADLINE_S), "did not happen in time"


def lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


@contextmanager
def supervised(logs: Path, *commands: Command, timeout_s: float = DEADLINE_S) -> Iterator[None]:
    """Run a supervisor in a thread; leaving stops it and waits for it."""
    stop = threading.Event()
    supervisor = Supervisor(commands, logs=logs, env=os.environ, shutdown_timeout_s=timeout_s)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


TELL_PID = "import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
SLEEP = "import time; time.sleep(600)\n"
IGNORE_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def test_a_child_that_dies_is_started_again_and_the_others_are_left_alone(tmp_path: Path) -> None:
    dying, steady = tmp_path / "dying", tmp_path / "steady"
    commands = (python("dying", TELL_PID, dying), python("steady", TELL_PID + SLEEP, steady))
    with supervised(tmp_path, *commands):
        eventually(lambda: len(lines(dying)) >= 3)
        assert len(set(lines(dying))) == len(lines(dying))
        assert len(lines(steady)) == 1
    assert process.start_mark(int(lines(steady)[0])) is None


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with supervised(tmp_path, python("child", TELL_PID + SLEEP, pids)):
        eventually(lambda: len(lines(pids)) == 1)
        os.kill(int(lines(pids)[0]), signal.SIGKILL)
        eventually(lambda: len(lines(pids)) == 2)


def test_what_a_child_prints_is_in_its_own_log(tmp_path: Path) -> None:
    log = tmp_path / "talker.log"
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)\n"
    with supervised(tmp_path, python("talker", code + SLEEP)):
        eventually(lambda: "err" in lines(log))
    assert set(lines(log)) == {"out", "err"}
    assert log.stat().st_mode & 0o077 == 0


def test_a_large_log_is_put_aside_once(tmp_path: Path) -> None:
    log = tmp_path / "talker.log"
    log.touch()
    os.truncate(log, process.LOG_BYTES + 1)
    process.open_log(log).close()
    assert log.stat().st_size == 0
    assert (tmp_path / "talker.log.1").stat().st_size == process.LOG_BYTES + 1


def test_stopping_lets_a_child_finish(tmp_path: Path) -> None:
    pids, done = tmp_path / "pids", tmp_path / "done"
    finish = "import signal\ndef end(*_):\n    open(sys.argv[2], 'w').write('done')\n    sys.exit()\n"
    code = "import sys\n" + finish + "signal.signal(signal.SIGTERM, end)\n" + TELL_PID + SLEEP
    with supervised(tmp_path, python("child", code, pids, done)):
        eventually(lambda: len(lines(pids)) == 1)
    assert done.read_text() == "done"


def test_a_child_that_ignores_the_request_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    nested = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]])\n"
    code = IGNORE_TERM + nested + TELL_PID + SLEEP
    with supervised(tmp_path, python("stubborn", code, pids, IGNORE_TERM + TELL_PID + SLEEP), timeout_s=0.1):
        eventually(lambda: len(lines(pids)) == 2)
    eventually(lambda: [process.start_mark(int(pid)) for pid in lines(pids)] == [None, None])


def test_children_are_killed_with_their_supervisor(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import os, sys, threading\nfrom pathlib import Path\n"
        "from datashunt.embedded import Command, Supervisor\n"
        "child = Command('child', (sys.executable, '-c', sys.argv[2], sys.argv[3]))\n"
        "Supervisor([child], logs=Path(sys.argv[1]), env=os.environ).run(threading.Event())\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path), IGNORE_TERM + TELL_PID + SLEEP, str(pids)]
    with subprocess.Popen(argv, cwd=REPOSITORY) as supervisor:
        eventually(lambda: len(lines(pids)) == 1)
        supervisor.kill()
    eventually(lambda: process.start_mark(int(lines(pids)[0])) is None)


def test_what_cannot_be_healed_ends_all_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def heal() -> None:
        if lines(pids):
            raise RuntimeError("the server is gone")

    supervisor = Supervisor([python("child", TELL_PID + SLEEP, pids)], logs=tmp_path, env=os.environ)
    with pytest.raises(RuntimeError, match="the server is gone"):
        supervisor.run(threading.Event(), heal=heal)
    assert [process.start_mark(int(pid)) for pid in lines(pids)] == [None]


def test_a_program_that_is_not_there_is_reported_in_its_log_and_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "missing.log"
    with supervised(tmp_path, Command("missing", ("/no/such/program",))):
        eventually(lambda: log.exists() and log.read_text().count("cannot start /no/such/program") >= 2)
