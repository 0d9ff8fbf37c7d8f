"""What a promise of all items owes to answers that are not the LLM's own: of pruned prompts, and of fallback models.

What is asked counts as right, so that an item misses that is asked and gets another label than the LLM would give it.
Pruning is judged by the judge answers, over all labels, of items that escalate: one misses if its label would not have
been offered. For that each threshold on trial has the cut with which it would be served, calibrated before the trial
began. Answers of other models are counted, all of them, as misses. Theory: docs/certificates.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate
from datashunt.classifier import Spec
from datashunt.pipeline import promise, pruning
from datashunt.pipeline.pruning import Calibration
from datashunt.policy import TargetPolicy
from datashunt.store.classifiers import Registered
from datashunt.store.distillations import StoredAnswer
from datashunt.store.trials import Trial

PART = 0.1
"""Of what a trial may spend, where other models may answer: to bound how often they do. All items tell it, audited or
not, so that little is enough."""


def cuts(
    known: Registered, probabilities: NDArray[np.floating], fit: Sequence[StoredAnswer], thresholds: Sequence[float]
) -> dict[str, Any] | None:
    """How prompts are pruned at each threshold of a trial, as JSON values; None where that plays no part.

    Args:
        known: the classifier.
        probabilities: (n, k) that the bundle on trial gives the `fit` answers.
        fit: what it is calibrated on.
        thresholds: that are tried.
    """
    if not promise.fixes_cuts(known.spec):
        return None
    made = [pruning.calibrate_scored(known, probabilities, fit, one) for one in thresholds]
    return {
        "cuts": [one.cut for one in made],
        "answers": [one.answers for one in made],
        "missing": [one.missing for one in made],
        "up_to": max((one.id for one in fit), default=0),
    }


def cuts_of(trial: Trial) -> tuple[float, ...] | None:
    """The cut at each threshold of a trial, -inf where nothing is pruned; None where they play no part."""
    if trial.cuts is None:
        return None
    return tuple(-math.inf if one is None else one for one in trial.cuts["cuts"])


def calibration(known: Registered, trial: Trial, threshold: float) -> Calibration | None:
    """How prompts are pruned from now on at a threshold that this trial has proven; None where it does not say.

    Raises:
        ValueError: the threshold was not on trial.
    """
    if trial.cuts is None:
        return None
    place = trial.thresholds.index(threshold)
    return Calibration(
        cut=trial.cuts["cuts"][place],
        answers=trial.cuts["answers"][place],
        missing=trial.cuts["missing"][place],
        up_to=trial.cuts["up_to"],
        threshold=threshold,
        coverage=known.spec.prompt.coverage,
        prompt_hash=known.prompt_hash,
    )


def delta_of_test(spec: Spec, trial: Trial) -> float:
    """What the test of a trial may spend; the rest bounds how often other models answer."""
    return trial.delta * (1.0 - PART) if promise.others_stand_in(spec) else trial.delta


def share(spec: Spec, trial: Trial) -> float:
    """The share of all items that other models answer, at most: that of the items that escalate; 0 if nobody may."""
    return _bound(trial) if promise.others_stand_in(spec) else 0.0


def findings(spec: Spec, trial: Trial) -> list[dict[str, Any]]:
    """What was seen of other models, as JSON values beside the findings of the test; nothing where none may answer."""
    if not promise.others_stand_in(spec):
        return []
    bound = _bound(trial)
    what = f"at most {bound:.2g} of all are answered by another model"
    return [{"target": what, "label": None, "allowed": bound, "n": trial.asked, "k": trial.stood_in}]


def no_room(policy: TargetPolicy, trial: Trial) -> tuple[int, str]:
    """Why nothing can be proven where other models may answer as many as may miss.

    Returns:
        How many more items must escalate, all answered by the first model, until there is room; and the reason.
    """
    less, enough = 0, 1
    while _bound(trial, enough) >= policy.alpha:
        less, enough = enough, 2 * enough
    while enough - less > 1:
        middle = (less + enough) // 2
        less, enough = (middle, enough) if _bound(trial, middle) >= policy.alpha else (less, middle)
    return enough, (
        f"not yet: other models answered {trial.stood_in:,} of {trial.asked:,} items that escalated, which may"
        f" be {_bound(trial):.1%} of all, and alpha is {policy.alpha:g}: at least {enough:,} more answers of the first"
        " model"
    )


def _bound(trial: Trial, more: int = 0) -> float:
    return certificate.share_bound(trial.stood_in, trial.asked + more, PART * trial.delta)
