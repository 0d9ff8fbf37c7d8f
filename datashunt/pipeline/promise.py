"""What a policy says of the next batch: the threshold, who is audited how often, and what is never kept.

With `mode: target` that depends on what is proven at the moment; the other modes say it themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt import certificate, shunt
from datashunt.certificate import LabelAlpha, MinRecall, OfAll, OfKept, Target
from datashunt.classifier import Spec
from datashunt.errors import SpecError
from datashunt.policy import TargetPolicy
from datashunt.store.classifiers import Registered


@dataclass(frozen=True, slots=True)
class Stand:
    """How a classifier decides at present.

    Attributes:
        threshold: the least confidence that is kept; above 1: nothing is.
        rate: share of all items that is audited.
        holds: what is not kept is held for people instead of asked.
        never: indices of labels that are never kept. watched: of those audited more often.
    """

    threshold: float
    rate: float
    holds: bool = False
    never: Sequence[int] = ()
    watched: Sequence[int] = ()

    def rates(self, probabilities: NDArray[np.floating]) -> list[float]:
        """How often each of n items (n, k) is audited."""
        if not self.watched:
            return [self.rate] * len(probabilities)
        return [float(rate) for rate in shunt.rates(probabilities, self.rate, self.watched)]

    @property
    def shown(self) -> float | None:
        """The threshold for people; None where nothing is kept."""
        return self.threshold if self.threshold <= 1.0 else None


def stand(known: Registered) -> Stand:
    """How this classifier decides, as it stands now."""
    spec, policy = known.spec, known.spec.policy
    if not isinstance(policy, TargetPolicy):
        return Stand(policy.threshold, policy.audit_rate)
    never, watched = ([spec.label_names.index(name) for name in names] for names in (policy.always_ask, policy.watched))
    rate = known.audit_rate if known.audit_rate is not None else unproven_rate(policy)
    if known.certified is not None:
        return Stand(known.certified, rate, never=never, watched=watched)
    threshold = policy.threshold if policy.on_uncertified == "keep" else shunt.NOTHING
    return Stand(threshold, rate, holds=policy.on_uncertified == "hold", never=never, watched=watched)


def unproven_rate(policy: TargetPolicy) -> float:
    """How much is audited while nothing is proven: more, and most where everything is asked, so that it costs nothing.

    Where labels are watched the rate never changes: answers drawn at several rates weigh as little as the rarest.
    """
    if policy.watched:
        return policy.audit_rate
    if policy.on_uncertified == "ask":
        return max(shunt.COLD_START_AUDIT_RATE, policy.audit_rate)
    return min(1.0, shunt.MORE_AUDITS * policy.audit_rate)


def proven_rate(policy: TargetPolicy, misses: int, n: int) -> float:
    """How much is audited under a certificate: less where k of n answers show that the promise is kept by far."""
    wide = certificate.upper_bound(misses, n, policy.delta) <= policy.alpha / 2
    if policy.watched or not wide:
        return policy.audit_rate
    return max(shunt.LEAST_RATE, shunt.FEWER_AUDITS * policy.audit_rate)


def targets(spec: Spec, policy: TargetPolicy) -> list[Target]:
    """What a threshold must keep, the overall target first.

    Of all items, those that are asked count as right; what pruning may do to their answers is taken off α.

    Raises:
        SpecError: the targets cannot stand together, or cannot be proven at all.
    """
    labels = {name: index for index, name in enumerate(spec.label_names)}
    found: list[Target] = [OfKept(policy.alpha) if policy.of == "kept" else OfAll(_of_all(spec, policy))]
    for name, target in policy.labels.items():
        if target.alpha is not None:
            found.append(LabelAlpha(labels[name], target.alpha))
        if target.min_recall is not None:
            found.append(MinRecall(labels[name], target.min_recall))
    return found


def check(spec: Spec) -> None:
    """Refuse a policy whose promise could never be proven.

    Raises:
        SpecError: it says what to change.
    """
    if isinstance(spec.policy, TargetPolicy):
        targets(spec, spec.policy)


def in_words(target: Target, spec: Spec) -> str:
    """A target with its label by name."""
    if target.label is None:
        return str(target)
    return str(target).replace(f"label {target.label}", repr(spec.label_names[target.label]))


def takes(spec: Spec, policy: TargetPolicy, delta: float) -> list[str]:
    """How many audits each target takes at least, in words.

    Args:
        spec: the classifier.
        policy: its policy.
        delta: what its next trial may spend.
    """
    lines = []
    for target in targets(spec, policy):
        what = in_words(target, spec)
        alone, now = (certificate.audits_needed(target.allowed, d) for d in (policy.delta, delta))
        lines.append(
            f"{what}: takes {now:,} answers of its scope without a miss ({alone:,} if δ = {policy.delta:g} were"
            f" spent at once; the next proof may spend {delta:.2g} of it)"
        )
    return lines


def _of_all(spec: Spec, policy: TargetPolicy) -> float:
    if len(spec.llm.all_models) > 1:
        raise SpecError(
            f"{spec.name}: policy.of: all counts what is asked as right, and nobody measures how often the fallbacks of"
            " llm.models are; give one llm.model, or promise of: kept"
        )
    missed = 1.0 - spec.prompt.coverage if spec.prompt.hard else 0.0
    if policy.alpha <= missed:
        raise SpecError(
            f"{spec.name}: policy.alpha is {policy.alpha:g} of all items, and pruned prompts may miss {missed:g}: raise"
            " prompt.coverage or alpha, or promise of: kept"
        )
    return policy.alpha - missed
