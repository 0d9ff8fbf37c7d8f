"""An embedded PostgreSQL: scram-sha-256, UTF-8, 127.0.0.1 only, no socket files. Imports errors only."""

from __future__ import annotations

import signal
from pathlib import Path

from datashunt.embedded import process, wheels
from datashunt.embedded.folder import DATABASE, ROLE
from datashunt.embedded.process import Identity
from datashunt.embedded.server import ENVIRONMENT, Server, give
from datashunt.errors import EmbeddedError

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # inside the data folder, not in /dev/shm, which containers keep small
    "dynamic_shared_memory_type": "mmap",
    # texts of items stand in statements and in details of errors
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
INITDB = (
    *("-U", ROLE, "-A", "scram-sha-256", "-E", "UTF8"),
    # the same order on every machine, whatever its C library
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)


class Postgres(Server):
    """PostgreSQL, with the database `datashunt` and the role `app`."""

    program = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: open transactions are rolled back

    def programs(self) -> list[Path]:
        """The server, and what makes its data."""
        folder = wheels.postgres_programs()
        return [folder / "postgres", folder / "initdb"]

    def initialise(self, folder: Path, who: Identity) -> None:
        """Make the cluster and the database; nothing listens meanwhile.

        Raises:
            EmbeddedError: that fails; the message says what was printed last.
        """
        postgres, initdb = self.programs()
        word = folder.with_name("postgres.password")
        word.unlink(missing_ok=True)
        word.touch(mode=0o600)
        word.write_text(self.password, encoding="ascii")
        give(word, who)
        try:
            self._run([str(initdb), "-D", str(folder), f"--pwfile={word}", *INITDB], folder, who)
        finally:
            word.unlink()
        # A single-user server: the folder gets its name only when all of it is there.
        single = [str(postgres), "--single", "-D", str(folder), "-c", "exit_on_error=true", "template1"]
        self._run(single, folder, who, f"CREATE DATABASE {DATABASE} OWNER {ROLE};\n")

    def argv(self, port: int) -> list[str]:
        """The server, with all settings on its command line: a newer release brings its own."""
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self._drop_false_lock()
        return [str(self.programs()[0]), "-D", str(self.folder), "-p", str(port), *settings]

    def is_ready(self, pid: int, port: int) -> bool:  # noqa: ARG002 - the pid tells enough
        """As its lock file says (line 1: pid, line 8: state)."""
        lines = self._lock_lines()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _drop_false_lock(self) -> None:
        """Remove a lock file whose pid is a zombie or another program: PostgreSQL would refuse to start.

        Nothing of this folder runs when this is called. A pid that is gone is left to PostgreSQL, which also
        looks for shared memory still in use.
        """
        lines = self._lock_lines()
        if lines and lines[0].isdigit() and wheels.psutil().pid_exists(int(lines[0])):
            (self.folder / "postmaster.pid").unlink()

    def _lock_lines(self) -> list[str]:
        try:
            return (self.folder / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    @staticmethod
    def _run(argv: list[str], folder: Path, who: Identity, text: str = "") -> None:
        done = process.run(argv, identity=who, folder=folder, env=ENVIRONMENT, text=text)
        if done.returncode != 0:
            lines = " | ".join(done.stdout.strip().splitlines()[-8:])
            raise EmbeddedError(f"{Path(argv[0]).name} ended with code {done.returncode}: {lines}")
