"""What both servers have in common: a child process, a folder, a port, a log. Imports errors only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from datashunt.embedded import identity, process
from datashunt.embedded.process import Identity
from datashunt.errors import EmbeddedError

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
"""Servers see nothing of ours: PGPORT, PGOPTIONS, TZ and the like would change them."""
START_S = 60.0
STOP_S = 30.0


class Server(ABC):
    """One server on 127.0.0.1, child of this process. `folder` is absolute and inside the data folder.

    Attributes:
        program: name of the process. stop_signal: what makes it end in good order.
    """

    program: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, folder: Path, log: Path, password: str) -> None:
        self.folder = folder
        self.log = log
        self.password = password
        self._child: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def programs(self) -> list[Path]:
        """The programs that it needs; the first is the server."""

    @abstractmethod
    def initialise(self, folder: Path, who: Identity) -> None:
        """Fill a new, empty folder that already belongs to `who`."""

    @abstractmethod
    def argv(self, port: int) -> list[str]:
        """The command that serves this folder on this port."""

    @abstractmethod
    def is_ready(self, pid: int, port: int) -> bool:
        """Whether this very process takes connections."""

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.poll() is None

    def start(self, port: int) -> None:
        """Start on this port, and wait until it takes connections; data is made on first use.

        Raises:
            EmbeddedError: it does not come up; the message ends with its last log lines.
        """
        process.end_leftovers(self.folder, self.program, self.stop_signal)
        who = self._prepare()
        since = self.log.stat().st_size if self.log.exists() else 0
        child = process.spawn(
            self.argv(port),
            log=self.log,
            death_signal=self.stop_signal,
            identity=who,
            folder=self.folder,
            env=ENVIRONMENT,
        )
        self._child = child
        process.wait_until(lambda: child.poll() is not None or self.is_ready(child.pid, port), START_S)
        if child.poll() is None and self.is_ready(child.pid, port):
            return
        code = child.poll()
        self.stop()
        ended = f"is not ready after {START_S:.0f} s" if code is None else f"ended with code {code}"
        said = process.last_lines(self.log, since=since)
        raise EmbeddedError(f"{self.program} {ended}: {said} (log: {self.log})")

    def stop(self) -> None:
        """End it in good order, or after 30 s by force. Does nothing if it does not run."""
        if self._child is not None:
            process.end(self._child, self.stop_signal, STOP_S)
            self._child = None

    def _prepare(self) -> Identity:
        if self.folder.exists():
            return identity.of_data(self.folder)
        # Made under another name: a start that is killed half-way leaves nothing that looks like data.
        draft = self.folder.with_name(self.folder.name + ".new")
        process.end_leftovers(draft, self.program, signal.SIGKILL)
        if draft.exists():
            shutil.rmtree(draft)
        who = identity.for_new(draft.parent, self.programs())
        draft.mkdir(mode=0o700)
        give(draft, who)
        self.initialise(draft, who)
        draft.rename(self.folder)
        return who


def give(path: Path, who: Identity) -> None:
    """Make a file or folder belong to the identity."""
    if who.owner is not None:
        os.chown(path, *who.owner)


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        # Without it a port of a server that has just ended counts as taken for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody takes connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
