"""Confidence that means what it says: temperature scaling, and how far it is off. Numpy and scipy only.

Source: Guo, Pleiss, Sun, Weinberger, *On Calibration of Modern Neural Networks* (ICML 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of a fitted temperature."""

_PRIOR_SD = 0.3
_TINY = 1e-12
_BINS = 15

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram: `n` items with confidence in (low, high], and their means."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Class probabilities exp(z / T) / Σ exp(z / T).

    Args:
        logits: (n, k); -inf marks a class that cannot be.
        temperature: T > 0; above 1 flattens.

    Returns:
        (n, k) float32, rows sum to 1.

    Raises:
        ValueError: temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature must be positive, found {temperature}")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True), dtype=np.float32)


def negative_log_likelihood(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean -log p(target) in nats over (n, k) probabilities and (n,) class indices; nan for n = 0."""
    p, y = _checked(probabilities, targets)
    if not len(y):
        return float("nan")
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], _TINY)).mean())


def brier_score(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean squared distance of (n, k) probabilities to the one-hot targets, in [0, 2]; nan for n = 0."""
    p, y = _checked(probabilities, targets)
    if not len(y):
        return float("nan")
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean())


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The temperature under which held-out answers are most likely.

    Minimises Σ NLL(T) + (ln T)² / (2 · 0.3²): a log-normal prior around 1. With no answers the result
    is 1; with a few (below 20, say) it stays near 1 even when all are right and the likelihood alone would
    go to 0; with hundreds the prior no longer matters.

    Args:
        logits: (n, k).
        targets: (n,) class indices.

    Returns:
        T in [0.05, 20].
    """
    z, y = _checked(logits, targets)
    z = z - z.max(axis=1, keepdims=True) if len(y) else z
    rows = np.arange(len(y))

    def cost(log_t: float) -> float:
        scaled = z / np.exp(log_t)
        nll = (np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, y]).sum()
        return float(nll + log_t**2 / (2 * _PRIOR_SD**2))

    found = minimize_scalar(cost, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.clip(np.exp(found.x), LOWEST, HIGHEST))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Σ over 15 equal-width bins of share · |accuracy - mean confidence|; nan for no items.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) truth values.
    """
    bars = reliability(confidence, correct, _BINS)
    total = sum(bar.n for bar in bars)
    if not total:
        return float("nan")
    return sum(bar.n * abs(bar.accuracy - bar.confidence) for bar in bars) / total


def chance_calibration_error(confidence: ArrayLike) -> float:
    """What the expected calibration error would be, in the mean, of confidences that are exactly right.

    With few items the error is mostly chance: in each bin the accuracy strays from the mean confidence with
    σ² = Σ c (1 - c) / n², and E|N(0, σ)| = σ √(2 / π). nan for no items.

    Args:
        confidence: (n,) in [0, 1].
    """
    c = np.asarray(confidence, dtype=np.float64)
    if not c.size:
        return float("nan")
    place = np.clip(np.ceil(c * _BINS).astype(int) - 1, 0, _BINS - 1)
    variance = np.bincount(place, weights=c * (1.0 - c), minlength=_BINS)
    return float(np.sqrt(variance).sum() * np.sqrt(2.0 / np.pi) / c.size)


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> list[Bin]:
    """The bars of a reliability diagram, lowest confidence first; empty bins are left out.

    Raises:
        ValueError: the lengths differ, or a confidence is outside [0, 1].
    """
    c = np.asarray(confidence, dtype=np.float64)
    hit = np.asarray(correct, dtype=bool)
    if c.shape != hit.shape or c.ndim != 1:
        raise ValueError(f"expected one confidence for each item, found shapes {c.shape} and {hit.shape}")
    if c.size and not (c.min() >= 0 and c.max() <= 1 + 1e-6):
        raise ValueError(f"confidences must lie in [0, 1], found {c.min()} to {c.max()}")
    place = np.clip(np.ceil(c * bins).astype(int) - 1, 0, bins - 1)
    return [
        Bin(b / bins, (b + 1) / bins, int(inside.sum()), float(c[inside].mean()), float(hit[inside].mean()))
        for b in range(bins)
        if (inside := place == b).any()
    ]


def _checked(values: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    v, y = np.asarray(values, dtype=np.float64), np.asarray(targets, dtype=np.intp)
    if v.ndim != 2 or y.shape != (len(v),):
        raise ValueError(f"expected (n, k) values and (n,) targets, found shapes {v.shape} and {y.shape}")
    if len(y) and not (y.min() >= 0 and y.max() < v.shape[1]):
        raise ValueError(f"targets must be class indices below {v.shape[1]}, found {y.min()} to {y.max()}")
    return v, y
