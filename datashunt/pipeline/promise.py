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


def targets(
    spec: Spec, policy: TargetPolicy, *, cuts: tuple[float, ...] | None = None, taken: float = 0.0
) -> list[Target]:
    """What a threshold must keep, the overall target first.

    Args:
        spec: the classifier.
        policy: its policy.
        cuts: with which prompts are pruned at each threshold, if the promise is of all items.
        taken: share of all items that others than the LLM answer, at most; it is taken off α.

    Raises:
        SpecError: the targets cannot stand together, or cannot be proven at all.
    """
    labels = {name: index for index, name in enumerate(spec.label_names)}
    overall = OfKept(policy.alpha) if policy.of == "kept" else OfAll(policy.alpha - taken, cuts)
    found: list[Target] = [overall]
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
    policy = spec.policy
    if not isinstance(policy, TargetPolicy):
        return
    targets(spec, policy)
    if policy.of == "all" and spec.prompt.soft:
        raise SpecError(
            f"{spec.name}: policy.of: all counts what is asked as right, and nobody measures how often an LLM that is"
            f" told the small model's opinion (prompt.pruning: {spec.prompt.pruning}) still says the same: let"
            " prompt.pruning be hard or off, or promise of: kept"
        )
    if others_stand_in(spec) and policy.on_uncertified != "ask":
        raise SpecError(
            f"{spec.name}: policy.of: all counts what is asked as right, and how often the fallbacks of llm.models"
            " stand in is only known where everything is asked before anything is proven: let policy.on_uncertified be"
            " ask, give one llm.model, or promise of: kept"
        )


def others_stand_in(spec: Spec) -> bool:
    """Whether the promise is of all items, and some of them may be answered by others than the LLM."""
    return isinstance(spec.policy, TargetPolicy) and spec.policy.of == "all" and len(spec.llm.all_models) > 1


def fixes_cuts(spec: Spec) -> bool:
    """Whether what pruned prompts miss is part of the promise: then nothing is pruned but by cuts that were tried."""
    return isinstance(spec.policy, TargetPolicy) and spec.policy.of == "all" and spec.prompt.hard


def in_words(target: Target, spec: Spec) -> str:
    """A target with its label by name."""
    if target.label is None:
        return str(target)
    return str(target).replace(f"label {target.label}", repr(spec.label_names[target.label]))


def counted(spec: Spec) -> str:
    """What else counts as a miss of a promise of all items, in words; "" where nothing does."""
    more = [
        *(["asked without the label that the LLM would give"] if fixes_cuts(spec) else []),
        *(["answered by another model"] if others_stand_in(spec) else []),
    ]
    return f" (or are {', or '.join(more)})" if more else ""


def takes(spec: Spec, policy: TargetPolicy, delta: float) -> list[str]:
    """How many audits each target takes at least, in words.

    Args:
        spec: the classifier.
        policy: its policy.
        delta: what its next trial may spend.
    """
    lines = []
    for place, target in enumerate(targets(spec, policy)):
        what = in_words(target, spec) + ("" if place else counted(spec))
        alone, now = (certificate.audits_needed(target.allowed, d) for d in (policy.delta, delta))
        lines.append(
            f"{what}: takes {now:,} answers of its scope without a miss ({alone:,} if δ = {policy.delta:g} were"
            f" spent at once; the next proof may spend {delta:.2g} of it)"
        )
    return lines
