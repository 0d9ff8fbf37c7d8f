"""The two losses of the two stages, over tensors. Imports torch only."""

from __future__ import annotations

import torch
from torch import Tensor

REVERSE_LOG_ZERO = 4.0
"""-log 0 as the reverse cross-entropy takes it (Wang et al. 2019, A = -4)."""


def absorb_loss(
    logits: Tensor, target: Tensor, known: Tensor, weight: Tensor, robustness: float, reverse: float = 0.0
) -> Tensor:
    """Stage 1: the generalised cross-entropy to the LLM's answer over the labels that it was offered.

    Σ_i t_i (1 - p_i^q) / q, with p the softmax over known labels only; its limit at q = 0 is the cross-entropy.
    A larger q gives less to answers that the model finds implausible, which are wrong more often than others.
    Source: Zhang, Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels* (NeurIPS 2018), equation 6.

    With `reverse` the reverse cross-entropy is added, which for one-hot targets is 4 (1 - p_target); with q = 0 that is
    the symmetric cross-entropy of Wang, Ma, Chen, Luo, Yi, Bailey (ICCV 2019).

    Args:
        logits: (n, k).
        target: (n, k), rows sum to 1, zero where not known.
        known: (n, k) bool, at least one True in each row.
        weight: (n,) ≥ 0.
        robustness: q in [0, 1].
        reverse: weight ≥ 0 of the reverse cross-entropy.

    Returns:
        The weighted mean, a scalar.
    """
    log_p = torch.log_softmax(logits.float().masked_fill(~known, -torch.inf), dim=1).masked_fill(~known, 0.0)
    per_label = -log_p if robustness == 0 else (1 - torch.exp(robustness * log_p)) / robustness
    per_answer = (target * per_label).sum(dim=1)
    if reverse:
        agreed = (target * log_p.exp() * known).sum(dim=1)
        per_answer = per_answer + reverse * REVERSE_LOG_ZERO * (1 - agreed)
    return (per_answer * weight).sum() / weight.sum().clamp(min=1e-6)


def retain_loss(logits: Tensor, reference: Tensor) -> Tensor:
    """Stage 2: mean KL(reference ‖ softmax(logits)) in nats; both (n, k), the reference a distribution."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    return torch.nn.functional.kl_div(log_p, reference, reduction="batchmean")


def worst_shift(gradient: Tensor, embeddings: Tensor, mask: Tensor, size: float) -> Tensor:
    """Where each text's loss grows fastest: a step along its gradient, `size` times as long as its embeddings.

    Source: Miyato, Dai, Goodfellow, *Adversarial Training Methods for Semi-Supervised Text Classification* (ICLR 2017),
    equation 5; the length is relative to the text's own embeddings, where they normalise the embeddings instead.

    Args:
        gradient: (n, t, d) of the loss with respect to the embeddings.
        embeddings: (n, t, d).
        mask: (n, t), 1 for real tokens; the others are not moved.
        size: length of the step relative to the embeddings of the text, ≥ 0.

    Returns:
        (n, t, d), to be added to the embeddings.
    """
    real = mask.unsqueeze(-1)
    slope, length = ((part * real).flatten(1).norm(dim=1)[:, None, None] for part in (gradient, embeddings))
    shift: Tensor = size * length * gradient * real / slope.clamp(min=1e-12)
    return shift
