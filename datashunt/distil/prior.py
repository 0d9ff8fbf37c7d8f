"""What the labels' own words say before anything is learned: a head whose weights are the features of these words."""

from __future__ import annotations

from scipy.optimize import minimize_scalar
from torch import Tensor

from datashunt.distil.corpus import Answers
from datashunt.distil.head import Head
from datashunt.distil.losses import absorb_loss

STEEPEST = 32.0
"""Largest scale of its logits. A good one is near 10; words that say nothing of the answers get one near 0."""
_TINY = 1e-6


def head_of_words(words: Tensor, features: Tensor, answers: Answers) -> Head:
    """A head that prefers the label whose words are nearest to the text.

    Its logits are s · ⟨x - x̄, wᵢ⟩ / mean ‖x - x̄‖, where wᵢ has length 1 and points from the mean of all labels' words
    to those of label i. Only s is fitted, so that fifty answers are enough for it.

    Sources: classification by the labels' own words: Chang, Ratinov, Roth, Srikumar, *Importance of Semantic
    Representation: Dataless Classification* (AAAI 2008); Yin, Hay, Roth (EMNLP 2019).

    Args:
        words: (k, d) features of a text about each label.
        features: (n, d) of the answers' texts, by the same encoder.
        answers: what the LLM said.
    """
    centre = features.mean(dim=0)
    apart, spread = words - words.mean(dim=0), features - centre
    directions = apart / apart.norm(dim=1, keepdim=True).clamp(min=_TINY)
    directions = directions / spread.norm(dim=1).mean().clamp(min=_TINY)
    logits = spread @ directions.T

    def loss(scale: float) -> float:
        return float(absorb_loss(scale * logits, answers.target, answers.known, answers.weight, robustness=0.0))

    weight = directions * float(minimize_scalar(loss, bounds=(0.0, STEEPEST), method="bounded").x)
    return Head(weight, -weight @ centre)
