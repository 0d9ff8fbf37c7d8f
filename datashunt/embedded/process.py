"""Processes that end with us, and finding again those of a life before. Imports errors only.

Who a process is, is never a pid alone: pids are used again. A server is ours if its working folder is its
folder inside our data folder; an owner is the one recorded if it started at the recorded moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datashunt.embedded import launch, wheels
from datashunt.errors import EmbeddedError

POLL_S = 0.01
RUN_S = 120.0
LOG_BYTES = 10_000_000
"""A log that is larger when its process starts is moved to NAME.log.1, over an older one."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server runs as.

    Attributes:
        token: `same`, `namespace` or `UID:GID` (see launch.py).
        owner: user and group that its files must belong to, or None: ours.
    """

    token: str
    owner: tuple[int, int] | None = None


SAME = Identity("same")
NAMESPACE = Identity("namespace")


def user(uid: int, gid: int) -> Identity:
    """Another user; only root may become one."""
    return Identity(f"{uid}:{gid}", (uid, gid))


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    death_signal: signal.Signals,
    identity: Identity = SAME,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its own session, so that Ctrl-C reaches us alone; output is appended to `log`.

    It gets `death_signal` when the calling *thread* ends (Linux): call this from one that lives long enough.
    """
    with open_log(log) as output:
        return subprocess.Popen(
            launch_line(argv, death_signal, identity, folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
        )


def run(
    argv: Sequence[str], *, identity: Identity, folder: Path, env: Mapping[str, str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, `text` as its input; stdout and stderr are joined.

    Raises:
        EmbeddedError: it takes longer than `RUN_S`.
    """
    try:
        return subprocess.run(
            launch_line(argv, signal.SIGKILL, identity, folder),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=RUN_S,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise EmbeddedError(f"{argv[0]} did not end within {RUN_S:.0f} s: is the disk of {folder} well?") from None


def launch_line(
    argv: Sequence[str], death_signal: signal.Signals, identity: Identity, folder: Path | None
) -> list[str]:
    """The command that becomes `argv`."""
    shim = [sys.executable, "-I", "-S", launch.__file__, str(int(death_signal)), str(os.getpid())]
    return [*shim, identity.token, str(folder or ""), *argv]


def open_log(path: Path) -> Any:
    """Open a log to append to, readable by its owner only; a large one starts again."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def last_lines(log: Path, *, since: int = 0, lines: int = 8) -> str:
    """The last lines of a log, joined by ` | `; only what stands after byte `since`."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"(its log cannot be read: {error})"
    return " | ".join(text.strip().splitlines()[-lines:]) or "(its log is empty)"


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true within the time, in seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def end(process: subprocess.Popen[bytes], first: signal.Signals, timeout_s: float) -> None:
    """Ask a child of ours to end; after `timeout_s` seconds its whole session is killed. Reaps it."""
    if process.poll() is None:
        process.send_signal(first)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_session(process)
    process.wait()


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a child of ours that has its own session, and what it started there."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has just ended by itself


def start_mark(pid: int) -> str | None:
    """When a process started, in a form that no other process of this pid ever has; None if it does not live.

    Not psutil's time of day: that moves when somebody sets the clock.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if sys.platform == "linux" else _start_mark_elsewhere(pid)
    fields = line.rpartition(")")[2].split()  # what stands before is the program's name, with any characters
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _start_mark_elsewhere(pid: int) -> str | None:
    psutil = wheels.psutil()
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def found_in(folder: Path, program: str) -> list[Any]:
    """Living processes (psutil's) of this program whose working folder is `folder`."""
    psutil = wheels.psutil()
    found = []
    for process in psutil.process_iter():
        try:
            if process.name().startswith(program) and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone meanwhile, or another user's: not one that we started
    return found


def end_leftovers(folder: Path, program: str, first: signal.Signals, timeout_s: float = 15.0) -> bool:
    """End what a killed owner left behind in a folder, and wait until it is gone; whether there was anything.

    Raises:
        EmbeddedError: something survives even SIGKILL.
    """
    found = found_in(folder, program)
    members = {process.pid for process in found}
    for process in found:
        # the head alone: its children follow it, and take the signal for something else
        if _parent(process) not in members:
            _signal(process, first)
    if not found:
        return False
    if wait_until(lambda: not found_in(folder, program), timeout_s):
        return True
    for process in found_in(folder, program):
        _signal(process, signal.SIGKILL)
    if not wait_until(lambda: not found_in(folder, program), timeout_s):
        pids = ", ".join(str(process.pid) for process in found_in(folder, program))
        raise EmbeddedError(f"an old {program} still runs in {folder} (process {pids}): end it and start again")
    return True


def _parent(process: Any) -> int | None:
    try:
        return int(process.ppid())
    except wheels.psutil().NoSuchProcess:
        return None


def _signal(process: Any, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except wheels.psutil().NoSuchProcess:
        return  # it has just ended by itself
