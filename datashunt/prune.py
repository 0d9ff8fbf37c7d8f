"""Prompt pruning: which labels the LLM is offered, and what it is told. Pure; imports nothing of datashunt.

Hard pruning offers a split-conformal label set with the score 1 − p(label) (Sadinle, Lei & Wasserman, JASA 2019, "Least
ambiguous set-valued classifiers"). It adapts to each item: few labels where the small model is nearly sure, many where
it is not; and it is one number, the `cut`: every label that is at least so probable is offered, and two in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ALWAYS = 2.0  # above every probability: a label that is offered whatever the cut
_ROUNDING = 1e-9  # 1 / (1 - 0.9) is 10.000000000000002 in floating point, and must count as 10


def needed(coverage: float) -> int:
    """How many calibration answers a cut takes: ⌈1 / (1 − coverage)⌉.

    Raises:
        ValueError: the coverage is not inside (0, 1).
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"expected a coverage inside (0, 1), found {coverage}")
    return math.ceil(1.0 / (1.0 - coverage) - _ROUNDING)


def missed(n: int, coverage: float) -> int:
    """How many of n calibration answers a set may miss so that a fresh one is covered as promised; 0: n is too few."""
    return math.floor((n + 1) * (1.0 - coverage) + _ROUNDING)


def worth(weights: NDArray[np.floating]) -> float:
    """As how many calibration answers these count that were not drawn with the same chance: Σ w / max w."""
    return float(weights.sum() / weights.max()) if len(weights) else 0.0


def calibrate(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    coverage: float,
    weights: NDArray[np.floating] | None = None,
) -> float | None:
    """The cut that offers the LLM's own label with probability ≥ coverage, or None with too few answers.

    The promise is marginal, for items exchangeable with the calibration ones (split conformal prediction:
    Vovk, Gammerman & Shafer 2005; Sadinle et al. 2019). So calibrate on what will be pruned: items that
    this bundle at this threshold escalates. The score of an answer is the largest cut at which it is offered (nested
    sets: Gupta, Kuchibhotla & Ramdas 2022), which for the two most probable labels is any: the cut pays for the rest
    alone, and lies above 1 where two labels are enough.

    Where answers were not drawn with the same chance each weighs 1 / chance, and the fresh one as much as the heaviest
    of them (weighted conformal prediction: Tibshirani, Barber, Candès & Ramdas, NeurIPS 2019).

    Args:
        probabilities: (n, k) the small model's calibrated probabilities.
        labels: (n,) index of the label the LLM gave among all labels.
        coverage: inside (0, 1).
        weights: (n,) above 0, or None: all the same.

    Raises:
        ValueError: the coverage is not inside (0, 1).
    """
    shares = np.ones(len(labels)) if weights is None else weights / weights.max(initial=0.0)
    if worth(shares) + _ROUNDING < needed(coverage):
        return None
    reached = reach(probabilities, labels)
    order = np.argsort(reached, kind="stable")
    spared = (shares.sum() + 1.0) * (1.0 - coverage) - 1.0  # so much of the weight may be missed
    before = np.concatenate([[0.0], shares[order].cumsum()])[:-1]  # what is missed at the cut of each
    return float(reached[order][np.flatnonzero(before <= spared + _ROUNDING)[-1]])


def reach(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n,) the largest cut at which each label is offered; above 1 for the two most probable, which always are.

    Args:
        probabilities: (n, k).
        labels: (n,) index of one label each.
    """
    rows = np.arange(len(labels))
    always = offered(probabilities, np.inf)[rows, labels]
    return np.where(always, _ALWAYS, probabilities[rows, labels].astype(np.float64))


def offered(probabilities: NDArray[np.floating], cut: float) -> NDArray[np.bool_]:
    """Which labels the LLM is offered: (n, k), True where it is.

    Never fewer than two, the most probable ones: a question with one answer would be none, and a label that nobody was
    asked about must not stand in for an answer.

    Args:
        probabilities: (n, k).
        cut: what `calibrate` returned.
    """
    rows = np.arange(len(probabilities))
    chosen = probabilities >= cut
    first = probabilities.argmax(axis=1)
    others = probabilities.copy()
    others[rows, first] = -np.inf
    chosen[rows, first] = chosen[rows, others.argmax(axis=1)] = True
    return np.asarray(chosen)


def priors(probabilities: NDArray[np.floating], labels: Sequence[str]) -> list[dict[str, float]]:
    """Soft pruning: what the LLM is told of each of n items, label → probability with two decimals.

    Args:
        probabilities: (n, k).
        labels: the k label names, in the classifier's order.
    """
    rounded = np.round(probabilities.astype(np.float64), 2).tolist()
    return [dict(zip(labels, row, strict=True)) for row in rounded]
