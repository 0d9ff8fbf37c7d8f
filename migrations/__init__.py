"""Alembic migrations; `datashunt db upgrade` runs them."""
