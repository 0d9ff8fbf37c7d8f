"""PostgreSQL: the one truth. Everything that knows SQL is in here.

Functions take an open `Connection` first and never commit: the caller's `with store.begin() as tx` does. The
words of the design are one module each. Guarded transitions (`WHERE lease_token = …`) return what they changed.
"""

from sqlalchemy import Connection

from datashunt.store.engine import Store

__all__ = ["Connection", "Store"]
