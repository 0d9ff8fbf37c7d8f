"""The schema's version: upgrade, downgrade, and what is missing."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from datashunt.errors import UsageError
from datashunt.store.engine import Store

LOCK = 0x5D17A5


def upgrade(store: Store, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the schema to a revision; returns the revisions before and after. Two at a time wait in line.

    Raises:
        UsageError: there is no such revision here, or the database is at one of a newer release.
    """
    return _run(store, command.upgrade, revision)


def downgrade(store: Store, revision: str) -> tuple[str | None, str | None]:
    """Take the schema back to a revision (`base`: to nothing, all data lost).

    Raises:
        UsageError: as `upgrade`.
    """
    return _run(store, command.downgrade, revision)


def _run(store: Store, step: object, revision: str) -> tuple[str | None, str | None]:
    with store.begin() as tx:
        tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
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
