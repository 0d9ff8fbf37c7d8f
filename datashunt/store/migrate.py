"""The schema's version: upgrade, downgrade, and what is missing."""

from __future__ import annotations

import time
from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from datashunt.errors import StoreError, UsageError
from datashunt.store import cursors
from datashunt.store.engine import Store, is_locked

Moved = tuple[str | None, str | None]
"""The revisions before and after."""
LOCK = 0x5D17A5
PATIENCE_S = 90.0
"""How long a migration is begun again while others hold locks that it needs; a stopped worker loses its after 60 s."""
LOCK_TIMEOUT = "500ms"
"""Workers wait behind a migration that waits; shorter than PostgreSQL's `deadlock_timeout`, so that none fails."""
PAUSE_S = 0.2


def upgrade(store: Store, revision: str = "head") -> Moved:
    """Bring the schema to a revision; returns the revisions before and after. Two at a time wait in line.

    On a server where a dump was restored, outcomes go on after those of the dump (see `cursors`).

    Raises:
        UsageError: there is no such revision here, or the database is at one of a newer release.
        StoreError: PostgreSQL cannot be used, or others held locks all the time; nothing is changed.
    """
    return _run(store, command.upgrade, revision)


def catch_up(store: Store) -> None:
    """Bring the schema up to this release's; a newer one is left alone, since every release works on those.

    Raises:
        StoreError: as `upgrade`.
    """
    with store.begin() as tx:
        found, restored = current(tx), cursors.foreign(tx) is not None
    if found is None or found < (head() or ""):
        upgrade(store)
    elif restored:
        _run(store, _stay, found)


def downgrade(store: Store, revision: str) -> Moved:
    """Take the schema back to a revision (`base`: to nothing, all data lost).

    Raises:
        UsageError, StoreError: as `upgrade`.
    """
    return _run(store, command.downgrade, revision)


def _stay(_config: Config, _revision: str) -> None:
    """No migration."""


def _run(store: Store, step: object, revision: str) -> Moved:
    """Begun again while others hold locks that it needs."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _attempt(store, step, revision)
        except StoreError as error:
            if not is_locked(error):
                raise
            if time.monotonic() > until:
                raise StoreError(
                    f"for {PATIENCE_S:.0f} s there was no moment in which nobody held any of the locks that the"
                    " migration needs; nothing was changed: run it again, or stop the workers"
                ) from error
        time.sleep(PAUSE_S)


def _attempt(store: Store, step: object, revision: str) -> Moved:
    with store.begin() as tx:
        tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        tx.execute(text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": LOCK_TIMEOUT})
        before = current(tx)
        config = _config()
        config.attributes["connection"] = tx
        try:
            step(config, revision)  # type: ignore[operator]  # alembic's commands share this shape
        except CommandError as error:
            raise UsageError(
                f"the database, at {before or 'nothing'}, cannot be brought to {revision!r}: {error};"
                f" this release goes up to {head()}"
            ) from None
        cursors.go_on(tx)
        return before, current(tx)


def current(tx: Connection) -> str | None:
    """The revision that the database is at, or None if it was never migrated."""
    return MigrationContext.configure(tx).get_current_revision()


def head() -> str | None:
    """The revision that this release expects."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")).replace("%", "%%"))
    return config
