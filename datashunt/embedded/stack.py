"""The two servers of one data folder, as children of this process. Imports errors only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from datashunt.embedded.folder import DataFolder, Urls
from datashunt.embedded.postgres import Postgres
from datashunt.embedded.server import Server, free_port, is_free, listens
from datashunt.embedded.valkey import Valkey
from datashunt.errors import EmbeddedError

PORT_TRIES = 3


class Stack:
    """PostgreSQL and Valkey of one data folder; they end with this process, however it ends (Linux).

    A folder has one owner at a time. Data is kept across restarts and kill -9. `service` marks the owner as
    one that `datashunt down` may end.
    """

    def __init__(self, data_dir: Path, *, service: bool = False) -> None:
        self.folder = DataFolder(data_dir)
        self._service = service
        self._servers: tuple[Server, Server] | None = None

    def start(self) -> Urls:
        """Start both and wait until they take connections; both are made on first use.

        Started already, it starts again only what died, on the port that it had. Call it from the main
        thread: servers end with the thread that started them.

        Raises:
            EmbeddedError: the folder has another owner or cannot be used, a package is missing, or a
                server does not come up (with its last log lines).
        """
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedError("servers end with the thread that starts them: call start() in the main thread")
        with sentences(self.folder):
            if self._servers is None:
                self._start_all()
            else:
                self._restart_dead(self._servers)
            urls = self.folder.urls()
        if urls is None:
            raise EmbeddedError(f"{self.folder.path}/run.json was removed while servers run: stop them first")
        return urls

    def stop(self) -> None:
        """Stop both in good order and give the folder free. Does nothing if they were not started here."""
        with sentences(self.folder):
            for server in self._servers or ():
                server.stop()
            self._servers = None
            self.folder.release()

    def running(self) -> Urls | None:
        """Where the folder's servers listen now, whoever owns them; None if they do not."""
        return running(self.folder.path)

    def _start_all(self) -> None:
        self.folder.acquire(service=self._service)
        started: list[Server] = []
        try:
            words, owner = self.folder.secrets(), self.folder.owner()
            postgres = Postgres(self.folder.postgres, self.folder.logs / "postgres.log", words.database)
            valkey = Valkey(self.folder.valkey, self.folder.logs / "valkey.log", words.broker)
            started.append(postgres)
            database_port = _start(postgres, owner.database_port)
            started.append(valkey)
            broker_port = _start(valkey, owner.broker_port)
            self.folder.record(replace(owner, ready=True, database_port=database_port, broker_port=broker_port))
            self._servers = (postgres, valkey)
        finally:
            if self._servers is None:
                for server in started:
                    server.stop()
                self.folder.release()

    def _restart_dead(self, servers: tuple[Server, Server]) -> None:
        owner = self.folder.owner()
        for server, port in zip(servers, (owner.database_port, owner.broker_port), strict=True):
            if not server.alive and port is not None:
                server.stop()
                server.start(port)  # clients have the URL: another port would not help them


def running(data_dir: Path) -> Urls | None:
    """Where the servers of this folder listen now; None if they do not, or not yet.

    Raises:
        EmbeddedError: the folder belongs to another user, or is damaged.
    """
    folder = DataFolder(data_dir)
    with sentences(folder):
        owner = folder.owner()
        if not (owner.ready and owner.lives):
            return None
        ports = (owner.database_port, owner.broker_port)
        return folder.urls() if all(port is not None and listens(port) for port in ports) else None


def _start(server: Server, last_port: int | None) -> int:
    """Start on the last port if it is free, else on another. Between choosing and using, it can be lost."""
    port = last_port if last_port is not None and is_free(last_port) else free_port()
    for left in reversed(range(PORT_TRIES)):
        try:
            server.start(port)
        except EmbeddedError:
            if left == 0 or is_free(port):
                raise
            port = free_port()
        else:
            break
    return port


@contextmanager
def sentences(folder: DataFolder) -> Iterator[None]:
    """Errors of the operating system inside become EmbeddedErrors that name the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = error.filename or folder.path
        raise EmbeddedError(
            f"the data folder {folder.path} cannot be used: {where}: {reason}; choose another with --data-dir"
        ) from None
