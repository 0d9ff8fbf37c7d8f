"""`datashunt up` and `down`: the process that owns a data folder, its servers and its workers.

With DATASHUNT_DATABASE_URL and DATASHUNT_BROKER_URL set, those servers are used and none is started.
Imports errors, settings and telemetry only.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from datashunt.embedded import process
from datashunt.embedded.folder import DataFolder, Urls
from datashunt.embedded.postgres import Postgres
from datashunt.embedded.server import STOP_S
from datashunt.embedded.stack import Stack, sentences
from datashunt.embedded.supervise import Supervisor, worker_commands
from datashunt.embedded.valkey import Valkey
from datashunt.errors import EmbeddedError, SettingsError, UsageError
from datashunt.settings import PREFIX, Settings, load

DETACH_S = 180.0
AFTER_CALL_S = 15.0
"""A worker that is asked to end finishes its call, which is paid for, and has so long to store it."""
SPARE_S = 15.0
"""What `down` waits longer than an orderly end may take, before it reports that something does not end."""


class _Given:
    """Servers that somebody else runs; takes the place of a Stack."""

    def __init__(self, folder: DataFolder, urls: Urls) -> None:
        self._folder = folder
        self._urls = urls

    def start(self) -> Urls:
        if not self._folder.acquired:
            self._folder.acquire(service=True)
            self._folder.record(replace(self._folder.owner(), ready=True))
        return self._urls

    def stop(self) -> None:
        self._folder.release()


def up(data_dir: Path, *, workers: bool, detach: bool, ready: Callable[[Urls], object] = lambda _: None) -> Urls:
    """Run the servers of a data folder and, if asked for, one worker of each lane and beat.

    Args:
        data_dir: made if missing.
        workers: run and supervise workers too.
        detach: return when the servers take connections, and leave a process behind that owns them. Else
            stay until SIGINT, SIGTERM or SIGHUP, then stop all.
        ready: called once the servers take connections.

    Raises:
        EmbeddedError: it already runs there, or does not start.
        UsageError: there is nothing to start.
        SettingsError: a setting is wrong, or only one of the two server URLs is set.
    """
    folder = DataFolder(data_dir)
    if _given(load(), folder) is not None and not workers:
        raise UsageError(
            "DATASHUNT_DATABASE_URL and DATASHUNT_BROKER_URL name servers of your own, so there is nothing to"
            " start: add --workers, or unset both"
        )
    if not detach:
        return serve(data_dir, workers=workers, ready=ready)
    with sentences(folder):
        urls = _detach(folder, workers=workers)
    ready(urls)
    return urls


def serve(data_dir: Path, *, workers: bool, ready: Callable[[Urls], object] = lambda _: None) -> Urls:
    """Own the folder in this process until SIGINT, SIGTERM or SIGHUP. Call it from the main thread.

    Raises:
        EmbeddedError: it already runs there, does not start, or a server died and does not start again.
        SettingsError: as `up`.
    """
    settings, folder, stop = load(), DataFolder(data_dir), threading.Event()
    given = _given(settings, folder)
    servers = _Given(folder, given) if given is not None else Stack(data_dir, service=True)
    with sentences(folder), _until_signalled(stop):
        try:
            urls = servers.start()
            ready(urls)
            commands = worker_commands(folder.path) if workers else ()
            env = _child_environment(settings, folder, urls)
            supervisor = Supervisor(commands, logs=folder.logs, env=env, shutdown_timeout_s=_for_workers_s(settings))
            supervisor.run(stop, heal=servers.start)
        finally:
            servers.stop()
    return urls


def down(data_dir: Path) -> bool:
    """End what `up` runs in this folder, and wait until all of it is gone.

    Returns:
        Whether anything ran.

    Raises:
        EmbeddedError: the owner is not ours to end, or does not end.
        SettingsError: a setting is wrong; nothing was ended.
    """
    folder, wait_s = DataFolder(data_dir), _for_workers_s(load()) + 2 * STOP_S + SPARE_S
    with sentences(folder):
        owner = folder.owner()
        if owner.pid is None:
            return False
        if not owner.lives:
            return _end_orphans(folder)
        if not owner.service:
            raise EmbeddedError(
                f"the servers in {folder.path} belong to process {owner.pid}, which is no `datashunt up`:"
                " they stop when it ends"
            )
        os.kill(owner.pid, signal.SIGTERM)
        if not process.wait_until(lambda: not owner.lives, wait_s):
            raise EmbeddedError(f"process {owner.pid} did not end within {wait_s:.0f} s: see {folder.logs}")
        return True


def exports(urls: Urls) -> str:
    """The URLs as lines for a shell to evaluate."""
    words = {"DATABASE_URL": urls.database, "BROKER_URL": urls.broker, "MODELS_URL": urls.models}
    return "\n".join(f"export {PREFIX}{name}={shlex.quote(value)}" for name, value in words.items())


def _for_workers_s(settings: Settings) -> float:
    """How long workers that are asked to end may take."""
    return settings.llm_deadline_s + AFTER_CALL_S


def _given(settings: Settings, folder: DataFolder) -> Urls | None:
    """Servers that the environment names, or None to run our own."""
    database, broker = settings.database_url, settings.broker_url
    if database is None and broker is None:
        return None
    if database is None or broker is None:
        there, missing = ("BROKER", "DATABASE") if database is None else ("DATABASE", "BROKER")
        raise SettingsError(
            f"{PREFIX}{there}_URL is set and {PREFIX}{missing}_URL is not: set both to use servers of your"
            " own, or neither to have them started"
        )
    models = settings.models_url or str(folder.models)
    given = Urls(database.get_secret_value(), broker.get_secret_value(), models)
    own = folder.urls()
    # A shell that evaluated `datashunt env` still carries our own URLs when it calls `up` again.
    if own is not None and (own.database, own.broker) == (given.database, given.broker):
        return None
    return given


def _child_environment(settings: Settings, folder: DataFolder, urls: Urls) -> dict[str, str]:
    ours = {
        "DATABASE_URL": urls.database,
        "BROKER_URL": urls.broker,
        "MODELS_URL": settings.models_url or urls.models,
        "DATA_DIR": str(folder.path),
    }
    return {**os.environ, **{PREFIX + name: value for name, value in ours.items()}}


def _detach(folder: DataFolder, *, workers: bool) -> Urls:
    folder.make()
    log = folder.logs / "supervisor.log"
    process.open_log(log).close()
    since = log.stat().st_size
    command = [sys.executable, "-m", "datashunt.embedded", "--data-dir", str(folder.path)]
    # Not Popen: it complains when its child outlives it, which is the point here.
    pid = os.posix_spawn(
        sys.executable,
        [*command, "--workers"] if workers else command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_APPEND, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    process.wait_until(lambda: process.start_mark(pid) is None or _is_ready(folder, pid), DETACH_S)
    if not _is_ready(folder, pid):
        if process.start_mark(pid) is not None:
            os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise EmbeddedError(process.last_lines(log, since=since, lines=1))
    urls = _given(load(), folder) or folder.urls()
    if urls is None:
        raise EmbeddedError(f"{folder.path} was changed while it started: try again")
    return urls


def _is_ready(folder: DataFolder, pid: int) -> bool:
    owner = folder.owner()
    return owner.pid == pid and owner.ready


def _end_orphans(folder: DataFolder) -> bool:
    """End servers whose owner was killed; on Linux they are about to end by themselves."""
    folder.acquire(service=False)
    try:
        ended = [
            process.end_leftovers(folder.postgres, Postgres.program, Postgres.stop_signal),
            process.end_leftovers(folder.valkey, Valkey.program, Valkey.stop_signal),
        ]
    finally:
        folder.release()
    return any(ended)


@contextmanager
def _until_signalled(stop: threading.Event) -> Iterator[None]:
    """Signals that ask to end set the event instead, so that children end in order."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else nohup was asked to keep us
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
