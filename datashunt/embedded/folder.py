"""The data folder of the embedded servers: what lies where, who owns it now, passwords and ports.

    run.json      who owns the folder now, and the ports (used again if they are still free)
    secrets.json  passwords           lock      held by the owner as long as it lives
    postgres/     valkey/     models/     logs/     each 0700

Imports errors and settings only. Modes of a folder that was there before are left alone.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from datashunt.embedded import process
from datashunt.errors import EmbeddedError

DATABASE = "datashunt"
ROLE = "app"


@dataclass(frozen=True)
class Urls:
    """Where the servers of one data folder listen; with passwords, never to be logged. `models`: a folder."""

    database: str = field(repr=False)
    broker: str = field(repr=False)
    models: str


@dataclass(frozen=True, slots=True)
class Secrets:
    """Passwords of the servers, made once for each data folder."""

    database: str = field(repr=False)
    broker: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Owner:
    """What run.json says.

    Attributes:
        pid, mark: the owning process and when it started; None after a clean stop.
        service: it is `up`, which `down` may end; else a program that holds a `Stack` for itself.
        ready: all that it starts runs.
        database_port, broker_port: ports of the servers; None before the first start.
    """

    pid: int | None = None
    mark: str | None = None
    service: bool = False
    ready: bool = False
    database_port: int | None = None
    broker_port: int | None = None

    @property
    def lives(self) -> bool:
        """Whether that very process still runs."""
        return self.pid is not None and process.start_mark(self.pid) == self.mark


class DataFolder:
    """One data folder. Reading changes nothing; `acquire` makes this process its owner."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.postgres = self.path / "postgres"
        self.valkey = self.path / "valkey"
        self.models = self.path / "models"
        self.logs = self.path / "logs"
        self._run = self.path / "run.json"
        self._secrets = self.path / "secrets.json"
        self._lock: FileLock | None = None

    @property
    def acquired(self) -> bool:
        """Whether this object holds the folder."""
        return self._lock is not None

    def acquire(self, *, service: bool) -> None:
        """Become the owner; made on first use.

        Raises:
            EmbeddedError: another process owns it.
        """
        self.make()
        # This object may be used from several threads; the lock is the process's.
        lock = FileLock(self.path / "lock", timeout=0, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise EmbeddedError(
                f"datashunt already runs in {self.path} (process {self.owner().pid}):"
                " `datashunt env` prints its URLs, `datashunt down` stops it"
            ) from None
        pid = os.getpid()
        mark = process.start_mark(pid)
        try:
            self.record(replace(self.owner(), pid=pid, mark=mark, service=service, ready=False))
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def release(self) -> None:
        """Own it no longer. The ports stay known."""
        if self._lock is not None:
            try:
                self.record(replace(self.owner(), pid=None, mark=None, service=False, ready=False))
            finally:
                self._lock.release()
                self._lock = None

    def owner(self) -> Owner:
        """What run.json says, whether true or not."""
        try:
            return Owner(**json.loads(self._run.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Owner()
        except (ValueError, TypeError):
            raise EmbeddedError(f"{self._run} is damaged: remove it when nothing runs there") from None

    def record(self, owner: Owner) -> None:
        """Write run.json; it is never seen half written."""
        _write(self._run, json.dumps(asdict(owner)))

    def secrets(self) -> Secrets:
        """The passwords; made on first use.

        Raises:
            EmbeddedError: they are lost, and the data is there.
        """
        try:
            return Secrets(**json.loads(self._secrets.read_text(encoding="utf-8")))
        except FileNotFoundError:
            if self.postgres.exists():
                raise EmbeddedError(
                    f"{self._secrets} is gone, and without its passwords nobody reaches the database: put it"
                    f" back, or remove {self.path} with all its data"
                ) from None
        except (ValueError, TypeError):
            raise EmbeddedError(f"{self._secrets} is damaged: put back a copy of it") from None
        made = Secrets(secrets.token_hex(16), secrets.token_hex(16))
        _write(self._secrets, json.dumps(asdict(made)))
        return made

    def urls(self) -> Urls | None:
        """The URLs that the recorded ports make, whether somebody listens there or not."""
        owner = self.owner()
        if owner.database_port is None or owner.broker_port is None:
            return None
        words = self.secrets()
        return Urls(
            database=f"postgresql://{ROLE}:{words.database}@127.0.0.1:{owner.database_port}/{DATABASE}",
            broker=f"redis://:{words.broker}@127.0.0.1:{owner.broker_port}/0",
            models=str(self.models),
        )

    def make(self) -> None:
        """Create the folders that are missing."""
        if not self.path.exists():
            # As root the servers run as `nobody`, who must be able to walk through, and sees nothing here.
            self.path.mkdir(parents=True, mode=0o700)
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for folder in (self.logs, self.models):
            folder.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)  # left by a process that was killed while writing
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
