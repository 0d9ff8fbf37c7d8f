"""Measures what bf16 changes of a bundle's decisions, when the bundle is made. Imports its own package only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datashunt.confidence import softmax
from datashunt.small import rounding
from datashunt.small.bundle import BundleInfo
from datashunt.small.model import SmallModel
from datashunt.small.network import Encoded, SequenceClassifier

MOST_TEXTS = 1_000
"""Texts that are scored both ways: seconds, and enough to see one decision in a thousand."""
_CHUNK = 100


def checked(
    network: SequenceClassifier,
    tokenizer: Any,
    info: BundleInfo,
    rows: Sequence[Encoded],
    progress: Callable[[str, float], None] = lambda *_: None,
) -> BundleInfo:
    """The description of a bundle with what bf16 changes of its decisions on a CPU.

    It is measured on a CPU, whatever the bundle was trained on: GPUs have a precision of their own.

    Args:
        network: stays as it is.
        tokenizer: its tokenizer.
        info: with the temperature that was fitted.
        rows: encoded texts, those first that nothing was learned from; the first `MOST_TEXTS` count.
        progress: called with stage and share done.
    """
    texts = [row for part in rows for row in part][:MOST_TEXTS]
    if not texts:
        return info
    copied = copy.deepcopy(network).to("cpu")
    found: dict[str, NDArray[np.float32]] = {}
    for precision in ("fp32", "bf16"):  # in this order: the encoder cannot go back
        model = SmallModel(copied, tokenizer, info, device="cpu", precision=precision)
        parts = []
        for start in range(0, len(texts), _CHUNK):
            progress(f"check {precision}", start / len(texts))
            parts.append(softmax(model.logits(texts[start : start + _CHUNK]), info.temperature))
        found[precision] = np.concatenate(parts)
    return replace(info, rounding=rounding.measure(found["fp32"], found["bf16"]))
