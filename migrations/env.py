"""Runs migrations on the connection that the caller gives (see datashunt/store/migrate.py)."""

from __future__ import annotations

from alembic import context

from datashunt.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
