"""What goes into a distillation and what comes out. Pure data; imports numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, float], None]
"""Called with the stage and the share of it that is done, at least every second or so, but for the stage `load`, which
may download a base; may raise to abort."""

Recipe = str
HEAD: Recipe = "head"
BLEND: Recipe = "blend"
FULL: Recipe = "full"


@dataclass(frozen=True, slots=True)
class Example:
    """One LLM answer to learn from.

    Attributes:
        text: the item.
        target: (k,) ≥ 0, the LLM's label probabilities or one-hot; need not sum to 1.
        weight: ≥ 0, how much it counts: the LLM's confidence.
        known: (k,) whether each label was offered. A label that was not is unknown, not improbable: the loss
            compares the model with the target over the offered labels only.
    """

    text: str
    target: NDArray[np.float32]
    weight: float
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Plan:
    """One distillation, whole.

    Attributes:
        labels: class names, in the order of every target. labels_hash: of the spec they come from.
        base: hub id, folder or `auto`. max_tokens: longer texts are cut.
        threshold: the policy's, for the card.
        device, precision: as for serving; training runs in bf16 only where the hardware has it.
        threads: torch threads; 0 leaves them alone.
        seed: same inputs, seed, threads and machine: same weights.
        parent: content hash of the incumbent, for the card.
        meanings: for each label a text that says what it means, so that training does not begin from nothing; () if
            nobody knows.
        warm: go on from the incumbent, if it was fine-tuned over the same base, instead of starting from the base.
        recipes: those to try: `head` trains a linear head on the base's features, `full` every layer, and `blend`
            a linear head on the features of an encoder between the two.
        epochs: most passes over the answers when all layers are trained, from the base.
        warm_epochs: the same when training goes on from an incumbent that was trained so.
        warm_rate: share of both learning rates at which it then learns: what the incumbent knows is not to be undone.
        encoder_lr, head_lr: peak learning rates of AdamW; linear warm-up over a tenth, then linear decay. That of the
            encoder is for hidden states of `full.WIDTH` values; a wider one learns proportionally slower.
        batch_items: answers of one step.
        smoothing: part of the target of an answer without probabilities that is spread over all offered labels.
        reverse: weight of the reverse cross-entropy; 1 with robustness 0 is the symmetric cross-entropy.
        robustness: q of the generalised cross-entropy in [0, 1]: 0 is cross-entropy, 1 mean absolute error.
        adversarial: how far each text of stage 1 is moved against the model for a second step, relative to the length
            of its embeddings; 0: no second steps.
        retain_weight: how much a replayed text counts against an answer in stage 2.
        replay_share: replayed texts for each answer; at 0.25 stage 2 costs half a pass without second steps.
    """

    labels: tuple[str, ...]
    labels_hash: str
    base: str
    max_tokens: int
    threshold: float
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    seed: int = 0
    parent: str | None = None
    meanings: tuple[str, ...] = ()
    warm: bool = False
    recipes: tuple[Recipe, ...] = (HEAD, BLEND, FULL)
    epochs: int = 3
    warm_epochs: int = 2
    warm_rate: float = 0.5
    encoder_lr: float = 1e-4
    head_lr: float = 1e-3
    batch_items: int = 16
    smoothing: float = 0.1
    robustness: float = 0.0
    reverse: float = 0.0
    adversarial: float = 0.03
    retain_weight: float = 0.5
    replay_share: float = 0.25


@dataclass(frozen=True, slots=True)
class Challenger:
    """A finished bundle that wants to serve.

    Attributes:
        folder: the bundle.
        recipe: the one that won.
        temperature: fitted on the fit answers.
        evaluation: of `evaluate.evaluation` on the fit answers, plus `recipes`: name → nll, agreement, seconds.
    """

    folder: Path
    recipe: Recipe
    temperature: float
    evaluation: Mapping[str, Any]
