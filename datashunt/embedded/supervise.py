"""Runs the workers and beat as children, and starts again what dies. Imports errors and telemetry only."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datashunt.embedded import process
from datashunt.telemetry import event

FIRST_DELAY_S = 0.5
LARGEST_DELAY_S = 30.0
HEALTHY_S = 60.0
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Command:
    """A program to keep running. `name` is unique; its output goes to logs/NAME.log."""

    name: str
    argv: tuple[str, ...]


def worker_commands(data_dir: Path, *, llm_threads: int = 16) -> tuple[Command, ...]:
    """One worker for each lane, and beat: the commands that containers run, with names for this folder."""
    folder = data_dir.expanduser().resolve()
    # Two data folders on one host may share a broker: node names must differ there, and last over restarts.
    suffix = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    celery = (sys.executable, "-m", "celery", "-A", "workers")
    pools = {"score": ("solo",), "llm": ("threads", "-c", str(llm_threads)), "distil": ("solo",)}
    alone = ("--without-gossip", "--without-mingle")  # workers need nothing of each other
    workers = [
        Command(lane, (*celery, "worker", "-Q", lane, "-P", *pool, "-n", f"{lane}-{suffix}@%h", *alone))
        for lane, pool in pools.items()
    ]
    # Neither pid file nor schedule file: a killed beat would leave the one and damage the other (a pickle). It
    # has nothing to remember: due rows are in the database.
    beat = Command("beat", (*celery, "beat", "--scheduler", "celery.beat:Scheduler", "--pidfile="))
    return (*workers, beat)


def next_delay_s(previous_s: float, lived_s: float) -> float:
    """Seconds to wait before a dead child is started again.

    Args:
        previous_s: what was waited last time; 0 at first.
        lived_s: how long it lived. After a healthy minute it counts as never failed.
    """
    if previous_s == 0 or lived_s >= HEALTHY_S:
        return FIRST_DELAY_S
    return min(2 * previous_s, LARGEST_DELAY_S)


@dataclass
class _Child:
    """One command and its process; times are of the monotonic clock."""

    command: Command
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    delay_s: float = 0.0


class Supervisor:
    """Keeps commands running. On Linux they are killed when the thread in `run` ends, however it ends."""

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        logs: Path,
        env: Mapping[str, str],
        shutdown_timeout_s: float = 30.0,
    ) -> None:
        self._children = [_Child(command) for command in commands]
        self._logs = logs
        self._env = env
        self._shutdown_timeout_s = shutdown_timeout_s

    def run(self, stop: threading.Event, *, heal: Callable[[], object] = lambda: None) -> None:
        """Start all, start again what ends (0.5 s … 30 s later), until `stop` is set; then end all.

        Ending is SIGTERM, and SIGKILL for what is still there after the shutdown timeout.

        Args:
            stop: set by another thread or a signal handler.
            heal: called several times a second, before the children are looked at; what it raises ends all.
        """
        try:
            while not stop.is_set():
                heal()
                for child in self._children:
                    self._look(child, time.monotonic())
                stop.wait(LOOK_EVERY_S)
        finally:
            self._end()

    def _look(self, child: _Child, now: float) -> None:
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            child.delay_s = next_delay_s(child.delay_s, now - child.started_at)
            child.due_at = now + child.delay_s
            child.process = None
            event("child_ended", child=child.command.name, code=code, restart_in_s=child.delay_s)
        if now >= child.due_at:
            child.process = process.spawn(
                child.command.argv,
                log=self._logs / f"{child.command.name}.log",
                death_signal=signal.SIGKILL,
                env=self._env,
            )
            child.started_at = now
            event("child_started", child=child.command.name, pid=child.process.pid)

    def _end(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for one in running:
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        process.wait_until(lambda: all(one.poll() is not None for one in running), self._shutdown_timeout_s)
        for one in running:
            if one.poll() is None:
                process.kill_session(one)
            one.wait()
        for child in self._children:
            child.process = None
