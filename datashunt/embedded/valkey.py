"""An embedded Valkey: password, 127.0.0.1 only, append-only file synced every second. Imports errors only."""

from __future__ import annotations

import signal
from pathlib import Path

from datashunt.embedded import wheels
from datashunt.embedded.process import Identity
from datashunt.embedded.server import Server, give

CONFIG = """\
bind 127.0.0.1
protected-mode yes
dir ./
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
requirepass {password}
"""


class Valkey(Server):
    """Valkey, which speaks Redis' protocol."""

    program = "valkey-server"
    stop_signal = signal.SIGTERM

    def programs(self) -> list[Path]:
        """The server."""
        return [wheels.valkey_server()]

    def initialise(self, folder: Path, who: Identity) -> None:
        """Write its configuration: a password on a command line is seen by everybody."""
        config = folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(CONFIG.format(password=self.password), encoding="ascii")
        give(config, who)

    def argv(self, port: int) -> list[str]:
        """The server; it starts in its folder, so that no path needs quotes."""
        return [str(self.programs()[0]), "./valkey.conf", "--port", str(port)]

    def is_ready(self, pid: int, port: int) -> bool:
        """Whether this process answers; not while it loads its file."""
        import redis  # a tenth of a second that `datashunt env` need not spend

        client = redis.Redis(port=port, password=self.password, socket_timeout=5.0)
        try:
            return bool(client.info("server")["process_id"] == pid)
        except redis.RedisError:
            return False
        finally:
            client.close()
