"""One pass of an encoder for the texts of several bundles. Imports its own package only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from datashunt.confidence import softmax
from datashunt.small import rounding
from datashunt.small.model import BATCH_TOKENS, SmallModel

Part = tuple[SmallModel, Sequence[str], float | None]
"""A model, its texts, and the threshold that they will be decided by; None: nothing is scored again for it."""


def together(parts: Sequence[Part], *, batch_tokens: int = BATCH_TOKENS) -> list[NDArray[np.float32]]:
    """Calibrated class probabilities (n, k) of the n texts of each part, in their order.

    All texts are tokenised and go through the encoder as one; then each head sees its own. In bf16 on a CPU, texts that
    it may decide otherwise are scored again in fp32.

    Args:
        parts: one at least; their models have the same `shares`.
        batch_tokens: padded tokens of one forward pass; bounds the memory.
    """
    shared = parts[0][0]
    encoded = shared.encode([text for _, texts, _ in parts for text in texts])
    pooled = shared.pooled(encoded, batch_tokens=batch_tokens)
    found = list(_headed(parts, pooled))
    if shared.exact is not None:
        again = np.flatnonzero(np.concatenate([_doubtful(part, p) for part, p in zip(parts, found, strict=True)]))
        if len(again):
            pooled[again] = shared.pooled([encoded[i] for i in again], batch_tokens=batch_tokens, exact=True)
            found = list(_headed(parts, pooled))
    return found


def _headed(parts: Sequence[Part], pooled: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    start = 0
    for model, texts, _ in parts:
        own = pooled[start : start + len(texts)]
        yield softmax(model.head(own), model.temperature)
        start += len(texts)


def _doubtful(part: Part, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    model, texts, threshold = part
    if threshold is None or model.exact is None:
        return np.zeros(len(texts), dtype=np.bool_)
    found = model.info.rounding
    return rounding.doubtful(probabilities, threshold, found["near"], found["apart"])
