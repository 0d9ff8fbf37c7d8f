"""Prompt pruning: which labels the LLM is offered, and what it is told. Pure; imports nothing of datashunt.

Hard pruning offers a split-conformal label set with the score 1 − p(label), which gives the smallest sets on
average at a given coverage (Sadinle, Lei & Wasserman, JASA 2019, "Least ambiguous set-valued classifiers").
Such a set is one number, the `cut`: every label that is at least so probable is offered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COVERAGE = 0.99
"""How often the label that the LLM would give among all labels must still be offered."""

_ROUNDING = 1e-9  # 1 / (1 - 0.9) is 10.000000000000002 in floating point, and must count as 10


def needed(coverage: float = COVERAGE) -> int:
    """How many calibration answers a cut takes: ⌈1 / (1 − coverage)⌉.

    Raises:
        ValueError: the coverage is not inside (0, 1).
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"expected a coverage inside (0, 1), found {coverage}")
    return math.ceil(1.0 / (1.0 - coverage) - _ROUNDING)


def calibrate(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], coverage: float = COVERAGE
) -> float | None:
    """The cut that offers the LLM's own label with probability ≥ coverage, or None with too few answers.

    The promise is marginal, for items exchangeable with the calibration ones (split conformal prediction:
    Vovk, Gammerman & Shafer 2005; Sadinle et al. 2019). So calibrate on what will be pruned: items that
    this bundle at this threshold escalates.

    Args:
        probabilities: (n, k) the small model's calibrated probabilities.
        labels: (n,) index of the label the LLM gave among all labels.
        coverage: inside (0, 1).
    """
    if len(labels) < needed(coverage):
        return None
    of_answers = np.sort(probabilities[np.arange(len(labels)), labels].astype(np.float64))
    missed = math.floor((len(labels) + 1) * (1.0 - coverage) + _ROUNDING)
    return float(of_answers[missed - 1])


def candidates(probabilities: NDArray[np.floating], cut: float | None) -> tuple[int, ...] | None:
    """The labels to offer, in the classifier's order; None: all of them.

    Never fewer than two, which only adds coverage: a question with one answer would be none.

    Args:
        probabilities: (k,) of one item.
        cut: what `calibrate` returned.
    """
    if cut is None:
        return None
    offered = set(np.flatnonzero(probabilities >= cut)) | set(np.argsort(-probabilities, kind="stable")[:2])
    if len(offered) == len(probabilities):
        return None
    return tuple(sorted(int(index) for index in offered))


def prior(probabilities: NDArray[np.floating], labels: Sequence[str]) -> dict[str, float]:
    """Soft pruning: what the LLM is told, label → probability with two decimals.

    Args:
        probabilities: (k,) of one item.
        labels: the k label names, in the classifier's order.
    """
    return {label: round(float(p), 2) for label, p in zip(labels, probabilities, strict=True)}
