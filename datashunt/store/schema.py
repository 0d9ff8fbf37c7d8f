"""Which schemas this release works on, asked without the machinery of migrations.

Migrations expand first and contract later: the workers of a release run on the schema of the release before and on
newer ones. What no release needs any more is taken away by the release after next at the earliest.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

OLDEST = "0014"
"""The schema of the previous release; revisions are numbers of four digits, so that they compare as text."""


def revision(tx: Connection) -> str | None:
    """The revision that the database is at, or None if it was never migrated."""
    if tx.execute(text("SELECT to_regclass('alembic_version') IS NULL")).scalar_one():
        return None
    found = tx.execute(text("SELECT max(version_num) FROM alembic_version")).scalar_one()
    return None if found is None else str(found)


def unfit(found: str | None) -> str | None:
    """Why this release cannot work on a schema of that revision, and what to do; None if it can."""
    if found is not None and found >= OLDEST:
        return None
    return f"the database is at {found or 'nothing'}, this release needs {OLDEST} or newer: run `datashunt db upgrade`"
