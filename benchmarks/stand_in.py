"""A model that costs nothing. Imports numpy only: the rival's worker has a Celery of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    def serving(self, known: Any) -> Any:
        """The model, if a bundle serves."""
        return self.get(known.incumbent) if known.incumbent else None

    def alike(self, _: object) -> frozenset[str]:
        """Nothing is worth sharing."""
        return frozenset()

    def probabilities(self, parts: Any, *, batch_tokens: int) -> list[NDArray[np.float32]]:
        """Of each part."""
        return [model.probabilities(texts, batch_tokens=batch_tokens) for model, texts, _ in parts]
