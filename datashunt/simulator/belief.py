"""Which label the simulated LLM says, and how sure it is. Pure; imports classifier only.

What it believes of a text depends on text, file and seed alone, never on the labels that are offered, so a
pruned prompt gets what the full one would have got, as far as it can be said. All draws are keyed hashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datashunt.classifier import NONE_OF_THESE
from datashunt.simulator.draws import uniform


@dataclass(frozen=True, slots=True)
class Voice:
    """How it answers; the fields are those of `Options`."""

    accuracy: float = 1.0
    sample: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """Its answer. `probabilities`: over the offered labels, in their order, sum 1; that of `label` is > 0."""

    label: str
    probabilities: Mapping[str, float]


def say(
    voice: Voice,
    text: str,
    known: Mapping[str, float] | None,
    labels: Sequence[str],
    offered: Sequence[str],
) -> Said:
    """Answer for one text.

    Args:
        voice: how to answer.
        text: the item's text, as `answers.key` gives it.
        known: label → probability as the file has it, or None if the text is not in the file.
        labels: all labels of the file, at least one.
        offered: what the prompt allows, at least one, each once, possibly with NONE_OF_THESE.
    """
    real = [label for label in offered if label != NONE_OF_THESE]
    # A file of another label set knows nothing of these: then the offered labels are all there are.
    universe = labels if set(real) <= set(labels) else real
    distribution = _random_distribution(voice, text, universe) if known is None else known
    belief, favourite = _with_errors(voice, text, dict.fromkeys(universe, 0.0) | dict(distribution))
    probabilities = restrict(belief, offered)
    if voice.sample:
        return Said(_drawn(voice, text, belief, probabilities), probabilities)
    label = max(offered, key=lambda label: (probabilities[label], label == favourite))
    return Said(label, probabilities)


def restrict(distribution: Mapping[str, float], offered: Sequence[str]) -> dict[str, float]:
    """The distribution over the offered labels.

    The mass of labels that are not offered goes to NONE_OF_THESE if that is offered; otherwise the rest is
    renormalised, and uniform if nothing is left.
    """
    inside = {label: distribution.get(label, 0.0) for label in offered}
    if NONE_OF_THESE in inside:
        inside[NONE_OF_THESE] += sum(p for label, p in distribution.items() if label not in inside)
    total = sum(inside.values())
    if total <= 0:
        return dict.fromkeys(offered, 1 / len(offered))
    return {label: p / total for label, p in inside.items()}


def _with_errors(voice: Voice, text: str, distribution: dict[str, float]) -> tuple[dict[str, float], str]:
    """The distribution it believes, and the label it would say of all.

    An error swaps the most probable label with another one, drawn by the remaining mass (uniformly if there
    is none): the probabilities stay those of the file, and the label said has the largest.
    """
    best = max(distribution, key=lambda label: distribution[label])
    others = {label: p for label, p in distribution.items() if label != best}
    if not others or uniform(voice.seed, "accuracy", text) < voice.accuracy:
        return distribution, best
    wrong = _race(voice, "error", text, others if any(others.values()) else dict.fromkeys(others, 1.0))
    return distribution | {best: distribution[wrong], wrong: distribution[best]}, wrong


def _drawn(voice: Voice, text: str, belief: Mapping[str, float], probabilities: Mapping[str, float]) -> str:
    """A label by the belief over all labels, so that offering fewer of them changes no other draw."""
    label = _race(voice, "sample", text, belief)
    if label in probabilities:
        return label
    return NONE_OF_THESE if NONE_OF_THESE in probabilities else _race(voice, "sample", text, probabilities)


def _race(voice: Voice, purpose: str, text: str, weights: Mapping[str, float]) -> str:
    """Draw a label with probability proportional to its weight: the earliest of exponential arrivals."""
    arrivals = {
        label: -math.log1p(-uniform(voice.seed, purpose, text, label)) / weight
        for label, weight in weights.items()
        if weight > 0
    }
    return min(arrivals, key=lambda label: arrivals[label])


def _random_distribution(voice: Voice, text: str, labels: Sequence[str]) -> dict[str, float]:
    """Uniform over all distributions on these labels (a flat Dirichlet: normalised exponentials)."""
    weights = {label: -math.log1p(-uniform(voice.seed, "unknown", text, label)) for label in labels}
    return restrict(weights, labels)
