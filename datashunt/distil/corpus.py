"""The answers and texts of one distillation as tensors, and how they are cut into steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datashunt.distil.plan import Example
from datashunt.errors import LessonError, ModelError
from datashunt.small.network import Encoded, encode

STEP_TOKENS = 4_096
"""Padded tokens of one training step: bounds its memory when texts are long."""

_POOL = 16
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Answers:
    """n LLM answers: token ids, targets (n, k), known labels (n, k), weights (n,)."""

    rows: Encoded
    target: Tensor
    known: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The fit answers: token ids and class indices (n,)."""

    rows: Encoded
    labels: Indices


@dataclass(frozen=True, slots=True)
class Replay:
    """Texts on which the incumbent was confident, with its calibrated probabilities (n, k)."""

    rows: Encoded
    reference: Tensor


def answers(
    examples: Sequence[Example],
    tokenizer: Any,
    k: int,
    smoothing: float = 0.0,
    progress: Callable[[float], None] = lambda _: None,
) -> Answers:
    """Tensors of those examples that can teach: with weight, and with target mass on offered labels.

    A target that is sure of one label, as an answer without probabilities is, keeps 1 - smoothing of it; the rest is
    spread over the offered labels. Against wrong answers this helps as much as losses made for them: Lukasik,
    Bhojanapalli, Menon, Kumar, *Does Label Smoothing Mitigate Label Noise?* (ICML 2020).

    Raises:
        LessonError: none can.
        ModelError: a target has another number of labels.
    """
    if any(e.target.shape != (k,) or e.known.shape != (k,) for e in examples):
        raise ModelError(f"an example has other labels than the {k} of this classifier: apply its file again")
    useful = [e for e in examples if e.weight > 0 and float(e.target[e.known].sum()) > 0]
    if not useful:
        raise LessonError("there is no answer to learn from: each is held out, or its text is: wait for other texts")
    known = np.stack([e.known for e in useful])
    target = np.stack([e.target for e in useful]).astype(np.float32) * known
    target /= target.sum(axis=1, keepdims=True)
    sure = target.max(axis=1, keepdims=True) == 1.0
    smooth = (1.0 - smoothing) * target + smoothing * known / known.sum(axis=1, keepdims=True)
    return Answers(
        rows=encode(tokenizer, [e.text for e in useful], progress),
        target=torch.from_numpy(np.where(sure, smooth, target).astype(np.float32)),
        known=torch.from_numpy(known),
        weight=torch.tensor([e.weight for e in useful], dtype=torch.float32),
    )


def steps(rows: Encoded, items: int, rng: np.random.Generator) -> list[Indices]:
    """Cut all rows into shuffled steps of at most `items` rows and `STEP_TOKENS` padded tokens.

    Rows are sorted by length only within random pools of 16 steps: little padding, another mixture each epoch.
    """
    order = rng.permutation(len(rows))
    cut: list[Indices] = []
    for start in range(0, len(order), items * _POOL):
        pool = sorted(order[start : start + items * _POOL], key=lambda i: len(rows[i]))
        step: list[int] = []
        for i in pool:
            if step and (len(step) == items or len(rows[i]) * (len(step) + 1) > STEP_TOKENS):
                cut.append(np.array(step))
                step = []
            step.append(i)
        cut.append(np.array(step))
    return [cut[i] for i in rng.permutation(len(cut))]
