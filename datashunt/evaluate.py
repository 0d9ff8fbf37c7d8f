"""How good a bundle is, and whether a challenger may take over. Pure; imports confidence, certificate and items.

The gate is a paired non-inferiority test on `judge` answers. Its lower limit inverts an exact unconditional
test ordered by the score statistic: Tango, *Equivalence test and confidence interval for the difference in
proportions for the paired-sample design* (Statistics in Medicine 17, 1998); Sidik, *Exact unconditional tests
for testing non-inferiority in matched-pairs design* (ibid. 22, 2003). Tango's own interval promises 10 % and
errs in up to 19 % of cases when the two models differ in few items; the exact one does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from datashunt.certificate import upper_bound
from datashunt.confidence import (
    brier_score,
    chance_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from datashunt.items import FEWEST_JUDGES

_TINY = 1e-12
_NUISANCE = 48
_PRECISION = 1e-4
_LUCK = 0.5
"""Over √n: how much better a bundle that serves may look on n answers than it is, for most of them promoted it."""

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class LabelVerdict:
    """One label: `n` judge answers name it; the shares of them that each model got right (nan for n = 0)."""

    n: int
    challenger: float
    incumbent: float
    judged: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger may serve, and why. Shares are fractions of 1.

    Attributes:
        promote: True iff nothing speaks against it.
        reason: one sentence.
        n: judge answers.
        difference_lower: with probability ≥ 1 - delta, challenger minus incumbent agreement is at least this.
    """

    promote: bool
    reason: str
    n: int
    agreement_challenger: float
    agreement_incumbent: float
    difference_lower: float
    margin: float
    delta: float
    labels: dict[str, LabelVerdict]

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON values; nan, which JSON lacks, becomes None."""
        return _finite(asdict(self))


def judge(
    challenger: ArrayLike,
    incumbent: ArrayLike | None,
    answers: ArrayLike,
    labels: Sequence[str],
    *,
    majority: int = 0,
    margin: float = 0.01,
    delta: float = 0.10,
) -> Verdict:
    """Compare two models on the same judge answers.

    Overall, the challenger must be *proven* no more than a tolerated loss worse, with error ≤ delta, and the answers
    must not be less likely under it by more than two standard errors. What is tolerated is `tolerated_loss`: `margin`
    with many answers, more with few, where nobody could prove a loss below `margin`, and a better challenger would
    wait for ever. A label with at least 30 answers vetoes when the challenger is *proven* to lose more on them than
    `margin` and more than the incumbent may owe to luck, with error ≤ delta over all such labels together: proving each
    label non-inferior would take thousands of answers of each.

    Args:
        challenger: (n, k) probabilities.
        incumbent: (n, k) probabilities of the bundle that serves. None for the first bundle: it is measured
            against always answering `majority`, and no label vetoes, since that rule is always right on one.
        answers: (n,) indices of the LLM's labels.
        labels: k names.
        majority: index of the most frequent label of the *training* answers.
        margin: largest loss of agreement that is tolerated with many answers.
        delta: largest chance of promoting a challenger that is worse by more than is tolerated.

    Raises:
        ValueError: shapes differ.
    """
    y = np.asarray(answers, dtype=np.intp)
    ours = _right(challenger, y, len(labels))
    theirs = y == majority if incumbent is None else _right(incumbent, y, len(labels))
    per_label = {name: _label(ours, theirs, y == i) for i, name in enumerate(labels)}
    lower = difference_lower(*_discordant(ours, theirs), len(y), delta) if len(y) else -1.0
    tolerated = tolerated_loss(len(y), margin, served=incumbent is not None)
    losses = {} if incumbent is None else _losses(ours, theirs, y, per_label, delta)
    worse = [name for name, loss in losses.items() if loss > max(margin, _LUCK / math.sqrt(per_label[name].n))]
    less_likely = incumbent is not None and _less_likely(challenger, incumbent, y)
    promote, reason = _decide(len(y), lower, worse, less_likely, tolerated, delta)
    return Verdict(
        promote=promote,
        reason=reason,
        n=len(y),
        agreement_challenger=_mean(ours),
        agreement_incumbent=_mean(theirs),
        difference_lower=lower,
        margin=tolerated,
        delta=delta,
        labels=per_label,
    )


def tolerated_loss(n: int, margin: float, *, served: bool = True) -> float:
    """The loss of agreement that a verdict over n answers tolerates, never less than `margin`.

    A confidence limit over n answers is a multiple of 1 / √n wide. That much is tolerated against the majority label,
    and `_LUCK` besides against a bundle that served. Two equal models that differ in a third of the items then pass
    nine times in ten.
    """
    return max(margin, (1.0 + _LUCK * served) / math.sqrt(n)) if n else margin


def difference_lower(better: int, worse: int, n: int, delta: float) -> float:
    """The lower limit of P(only ours right) - P(only theirs right), one-sided with error ≤ delta.

    Args:
        better: items that only the first model got right, of n.
        worse: items that only the second got right.
        n: items, > 0.
        delta: in (0, 1).

    Returns:
        A value in [-1, 1], at most 10⁻⁴ below the exact limit.
    """
    low, high = -1.0, (better - worse) / n
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if _p_value(better, worse, n, middle) <= delta else (low, middle)
    return low


def evaluation(
    probabilities: ArrayLike,
    answers: ArrayLike,
    labels: Sequence[str],
    threshold: float,
    *,
    delta: float = 0.10,
) -> dict[str, Any]:
    """What a model card says of (n, k) calibrated probabilities against (n,) answers, as JSON values.

    Returns:
        n, agreement, nll (nats), ece, ece_by_chance (what so few answers would show of a perfect calibration),
        brier; threshold, coverage (share with confidence ≥ threshold), kept, kept_disagreement and its upper bound
        at 1 - delta; reliability bars; labels → n, recall, precision, and ece of the items where it was the first
        choice. A figure that needs items and has none, or an ece over fewer than 30, is None.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(answers, dtype=np.intp)
    right = _right(p, y, len(labels))
    confidence = p.max(axis=1, initial=0.0)
    kept = confidence >= threshold
    errors, n_kept = int((~right & kept).sum()), int(kept.sum())
    chosen = p.argmax(axis=1)
    return _finite(
        {
            "n": len(y),
            "agreement": _mean(right),
            "nll": negative_log_likelihood(p, y),
            "ece": expected_calibration_error(confidence, right),
            "ece_by_chance": chance_calibration_error(confidence),
            "brier": brier_score(p, y),
            "threshold": threshold,
            "coverage": _mean(kept),
            "kept": n_kept,
            "kept_disagreement": errors / n_kept if n_kept else float("nan"),
            "kept_disagreement_upper": upper_bound(errors, n_kept, delta),
            "delta": delta,
            "reliability": [asdict(bar) for bar in reliability(confidence, right)],
            "labels": {
                name: {
                    "n": int((y == i).sum()),
                    "recall": _mean(right[y == i]),
                    "precision": _mean(right[chosen == i]),
                    "ece": _ece(confidence[chosen == i], right[chosen == i]),
                }
                for i, name in enumerate(labels)
            },
        }
    )


def _p_value(better: int, worse: int, n: int, difference: float) -> float:
    """P(score ≥ the one seen) under a true `difference`, maximised over the share of discordant items.

    For each count c of items that only the second model got right, the score rises with b, so {score ≥ seen}
    is {b ≥ edge(c)}, and the probability is a sum over c of binomial tails: n terms instead of n².
    """
    seen = _score(np.array(better), np.array(worse), n, difference)
    c = np.arange(n + 1)
    edge = _edge(seen, c, n, difference)
    # P(only ours) = difference + q and P(only theirs) = q, both within the simplex; finer near the corner.
    least, most = max(0.0, -difference), (1 - difference) / 2
    grid = least + (most - least) * (np.arange(_NUISANCE) / (_NUISANCE - 1))[:, None] ** 3
    gain = np.clip(grid + difference, 0.0, 1.0)
    rest = np.where(grid < 1, np.clip(gain / np.maximum(1 - grid, 1e-300), 0.0, 1.0), 0.0)
    tail = binom.sf(edge - 1, np.maximum(n - c, 0), rest)
    return float((binom.pmf(c, n, grid) * tail).sum(axis=1).max())


def _edge(seen: NDArray[np.float64], c: Indices, n: int, difference: float) -> Indices:
    """The least b in [0, n - c + 1] for each c whose score reaches `seen` (n - c + 1: none does)."""
    low, high = np.zeros_like(c), n - c + 1
    while (low < high).any():
        middle = (low + high) // 2
        reached = (_score(middle, c, n, difference) >= seen - 1e-9) | (middle >= high)
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return low


def _score(b: Indices, c: Indices, n: int, difference: float) -> NDArray[np.float64]:
    """Tango's score statistic of counts b, c; its variance is fitted under the true difference."""
    linear = (2 * n - b + c) * difference - b - c
    square = np.maximum(linear**2 + 8.0 * n * c * difference * (1 - difference), 0.0)
    q = (np.sqrt(square) - linear) / (4.0 * n)
    variance = n * (2 * q + difference * (1 - difference))
    return np.asarray((b - c - n * difference) / np.sqrt(np.maximum(variance, 1e-12)))


def _losses(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], y: Indices, labels: dict[str, LabelVerdict], delta: float
) -> dict[str, float]:
    judged = sum(label.judged for label in labels.values())
    return {
        name: difference_lower(*_discordant(theirs[y == i], ours[y == i]), label.n, delta / judged)
        for i, (name, label) in enumerate(labels.items())
        if label.judged
    }


def _decide(
    n: int, lower: float, worse: list[str], less_likely: bool, tolerated: float, delta: float
) -> tuple[bool, str]:
    if n < FEWEST_JUDGES:
        return False, f"only {n} judge answers: {FEWEST_JUDGES - n} more are needed for a verdict"
    sure = f"with {1 - delta:.0%} confidence over {n} judge answers"
    if lower < -tolerated:
        return False, f"may lose up to {-lower:.3f} of agreement, {sure}; tolerated: {tolerated:.3f}"
    if worse:
        return False, f"loses more agreement than is tolerated, {sure}, on {', '.join(map(repr, worse))}"
    if less_likely:
        return False, f"the {n} judge answers are less likely under it than under the incumbent"
    return True, f"loses at most {max(-lower, 0.0):.3f} of agreement, {sure}"


def _less_likely(challenger: ArrayLike, incumbent: ArrayLike, y: Indices) -> bool:
    """Whether the answers are less likely under the challenger, by more than two standard errors of the difference."""
    rows = np.arange(len(y))
    ours, theirs = (np.log(np.maximum(np.asarray(p)[rows, y], _TINY)) for p in (challenger, incumbent))
    lost = theirs - ours
    return len(y) > 1 and bool(lost.mean() > 2 * lost.std(ddof=1) / math.sqrt(len(y)))


def _label(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], of_label: NDArray[np.bool_]) -> LabelVerdict:
    n = int(of_label.sum())
    return LabelVerdict(n, _mean(ours[of_label]), _mean(theirs[of_label]), n >= FEWEST_JUDGES)


def _ece(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    return expected_calibration_error(confidence, right) if len(right) >= FEWEST_JUDGES else float("nan")


def _right(probabilities: ArrayLike, answers: Indices, k: int) -> NDArray[np.bool_]:
    p = np.asarray(probabilities)
    if p.shape != (len(answers), k):
        raise ValueError(f"expected probabilities of shape {(len(answers), k)}, found {p.shape}")
    return np.asarray(p.argmax(axis=1) == answers)


def _discordant(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[int, int]:
    return int((ours & ~theirs).sum()), int((theirs & ~ours).sum())


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    return {key: _finite_value(value) for key, value in document.items()}


def _finite_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _finite(value)
    if isinstance(value, list):
        return [_finite_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
