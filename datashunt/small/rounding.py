"""What bf16 changes of a bundle's decisions, and which texts must not be decided in it. Pure; imports numpy only.

Rounded weights move a probability by little, but some texts lie close enough to the threshold, or between two labels,
to be decided otherwise. How close is measured when a bundle is made, and belongs to the bundle; how much faster bf16 is
belongs to the machine. A worker scores in bf16, and again in fp32 what lies that close.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.0, 0.99, 100)
"""Where decisions are compared: a threshold moves after the bundle was made."""
MOST_CHANGED = 0.001
"""Share of decisions that a faster format may change at any of them."""
MOST_AGAIN = 0.2
"""Share of texts beyond which scoring them again takes what bf16 gains."""
FEWEST = 100
"""Texts below which nothing is said about the others."""

Floats = NDArray[np.floating[Any]]


def measure(exact: Floats, rounded: Floats) -> dict[str, float]:
    """How bf16 moves the probabilities of n texts, for the bundle's card.

    Args:
        exact: (n, k) probabilities in fp32; n ≥ 1.
        rounded: (n, k) those in bf16.

    Returns:
        n; near: how close to a threshold a confidence is in doubt, so that beyond it at most one text in a thousand
        crosses any of the thresholds; apart: how close to each other the first two labels are, so that beyond it
        they never change places; changed: the share of decisions that differ, at the threshold where most do;
        changed_beyond: the same once doubtful texts are scored again; again: the share of those, where most are.
    """
    near, apart = _near(exact, rounded), _apart(exact, rounded)
    doubts = [doubtful(rounded, threshold, near, apart) for threshold in THRESHOLDS]
    changes = [_decided(exact, threshold) != _decided(rounded, threshold) for threshold in THRESHOLDS]
    return {
        "n": len(exact),
        "near": near,
        "apart": apart,
        "changed": max(float(change.mean()) for change in changes),
        "changed_beyond": max(float((change & ~doubt).mean()) for change, doubt in zip(changes, doubts, strict=True)),
        "again": max(float(doubt.mean()) for doubt in doubts),
    }


def _near(exact: Floats, rounded: Floats) -> float:
    before, after = exact.max(axis=1), rounded.max(axis=1)
    moved = np.sort(np.abs(before - after))
    if not np.isfinite(moved[-1]):
        return 1.0
    crossed = [((before >= threshold) != (after >= threshold), np.abs(after - threshold)) for threshold in THRESHOLDS]

    def is_enough(distance: float) -> bool:
        return all(float((crosses & (far > distance)).mean()) <= MOST_CHANGED for crosses, far in crossed)

    return float(moved[bisect_left(moved, True, key=is_enough)])


def _apart(exact: Floats, rounded: Floats) -> float:
    swapped = exact.argmax(axis=1) != rounded.argmax(axis=1)
    first, second = _first_two(rounded[swapped]) if swapped.any() else (np.zeros(1), np.zeros(1))
    return float(np.nan_to_num((first - second).max(), nan=1.0))


def passes(found: Mapping[str, float]) -> bool:
    """Whether a bundle with this measure may be served in bf16: few decisions change, few texts are scored again."""
    enough = found.get("n", 0) >= FEWEST
    return enough and found["changed_beyond"] <= MOST_CHANGED and found["again"] <= MOST_AGAIN


def doubtful(probabilities: Floats, threshold: float, near: float, apart: float) -> NDArray[np.bool_]:
    """Which of n texts (n, k) bf16 could have decided otherwise.

    Those whose confidence is no farther from the threshold than `near`; and of those that are kept, where the second
    label is no farther from the first than `apart`.
    """
    if not len(probabilities) or probabilities.shape[1] < 2:
        return np.zeros(len(probabilities), dtype=np.bool_)
    first, second = _first_two(probabilities)
    # not written as `not farther`: what is no number is in doubt as well
    decided = (first < threshold - near) | ((first > threshold + near) & (first - second > apart))
    return np.asarray(~decided)


def _first_two(probabilities: Floats) -> tuple[Floats, Floats]:
    ordered = np.partition(probabilities, -2, axis=1)
    return ordered[:, -1], ordered[:, -2]


def _decided(probabilities: Floats, threshold: float) -> NDArray[np.intp]:
    """The label that is kept, or −1."""
    return np.where(probabilities.max(axis=1) >= threshold, probabilities.argmax(axis=1), -1)
