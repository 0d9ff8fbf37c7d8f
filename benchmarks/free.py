"""The Celery app of a score worker whose model costs nothing: `celery -A benchmarks.free worker -Q score -P solo`.

All else is the product: the same tasks, lane, store and settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.app import app, runtime

__all__ = ["app"]

LABELS = ("negative", "neutral", "positive")


class FreeModel:
    """Says of every text the same, and looks at none."""

    labels = LABELS

    def probabilities(self, texts: Sequence[str], *, batch_tokens: int) -> NDArray[np.float32]:
        """(n, k) probabilities in label order."""
        del batch_tokens
        return np.tile(np.array([0.05, 0.15, 0.8], dtype=np.float32), (len(texts), 1))


class FreeModels:
    """Loads the same stand-in for every bundle."""

    def get(self, _: object) -> Any:
        """The model."""
        return FreeModel()


runtime().models = FreeModels()  # type: ignore[assignment]
