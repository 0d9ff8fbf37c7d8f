"""The Celery app of a score worker whose model costs nothing: `celery -A benchmarks.free worker -Q score -P solo`.

All else is the product: the same tasks, lane, store and settings.
"""

from __future__ import annotations

from benchmarks.stand_in import FreeModels
from workers.app import app, runtime

__all__ = ["app"]

runtime().models = FreeModels()  # type: ignore[assignment]
