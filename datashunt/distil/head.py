"""Recipe `head`: a linear head on frozen features. Convex for plain cross-entropy, seconds on any machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datashunt.confidence import fit_temperature, negative_log_likelihood, softmax
from datashunt.distil.corpus import Answers, Indices
from datashunt.distil.losses import absorb_loss, retain_loss
from datashunt.distil.plan import Plan, Progress

DECAYS = (160.0, 80.0, 20.0)
"""L2 penalties tried, on features of unit variance; the fit answers choose. Each result starts the next."""

_ITERATIONS = 50


@dataclass(frozen=True, slots=True)
class Head:
    """Weights (k, d) and bias (k,) over raw features."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of_nothing(cls, labels: int, dimensions: int) -> Head:
        """A head that holds all labels equally probable."""
        return cls(torch.zeros(labels, dimensions), torch.zeros(labels))

    def logits(self, features: Tensor) -> Tensor:
        """(n, k) of features (n, d)."""
        return features @ self.weight.T + self.bias

    def install(self, layer: nn.Linear) -> None:
        """Copy the weights into a network's head."""
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features (n, d) of the answers and of the replayed texts, and the incumbent's reference (m, k)."""

    answers: Tensor
    replay: Tensor
    reference: Tensor


def fit_head(
    features: Features,
    answers: Answers,
    held_out: tuple[Tensor, Indices],
    prior: Head,
    plan: Plan,
    progress: Progress,
) -> Head:
    """Stage 1, then stage 2, at the L2 penalty under which the held-out answers are most likely.

    Args:
        features: of answers and replay.
        answers: what to absorb.
        held_out: features (f, d) and class indices (f,) of the fit answers; f = 0 takes the middle penalty.
        prior: what is believed without answers; the penalty is on the distance from it.
        plan: robustness, reverse and retain_weight are read.
        progress: called once an iteration.
    """
    # One centre and one scale for all dimensions: the penalty keeps its meaning, the geometry stays.
    centre, scale = features.answers.mean(dim=0), features.answers.std(dim=0, correction=0).mean().clamp(min=1e-6)
    train, replay = (features.answers - centre) / scale, (features.replay - centre) / scale
    prior = Head(prior.weight * scale, prior.bias + prior.weight @ centre)
    head = prior
    found: list[tuple[float, Head]] = []
    for i, decay in enumerate(DECAYS):
        progress("head", i / len(DECAYS))
        head = _minimise(head, prior, train, answers, decay, plan, progress)
        found.append((_held_out_nll(_raw(head, centre, scale), held_out), head))
    best = min(range(len(DECAYS)), key=lambda i: found[i][0]) if len(held_out[1]) else len(DECAYS) // 2
    chosen = found[best][1]
    if len(replay):
        rehearsed = replay, features.reference
        chosen = _minimise(chosen, prior, train, answers, DECAYS[best], plan, progress, replay=rehearsed)
    return _raw(chosen, centre, scale)


def _minimise(
    start: Head,
    prior: Head,
    features: Tensor,
    answers: Answers,
    decay: float,
    plan: Plan,
    progress: Progress,
    replay: tuple[Tensor, Tensor] | None = None,
) -> Head:
    weight = start.weight.clone().requires_grad_(True)
    bias = start.bias.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
    share = len(features)

    def cost() -> float:
        optimiser.zero_grad()
        head = Head(weight, bias)
        logits = head.logits(features)
        loss = absorb_loss(logits, answers.target, answers.known, answers.weight, plan.robustness, plan.reverse)
        if replay is not None:
            kept = plan.retain_weight * len(replay[0]) / share
            loss = (loss + kept * retain_loss(head.logits(replay[0]), replay[1])) / (1 + kept)
        loss = loss + decay / share * (weight - prior.weight).square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        progress("head", 0.5)
        return float(loss.detach())

    optimiser.step(cost)  # type: ignore[no-untyped-call]
    return Head(weight.detach(), bias.detach())


def _held_out_nll(head: Head, held_out: tuple[Tensor, Indices]) -> float:
    logits = head.logits(held_out[0]).numpy()
    return negative_log_likelihood(softmax(logits, fit_temperature(logits, held_out[1])), held_out[1])


def _raw(head: Head, centre: Tensor, scale: Tensor) -> Head:
    """The same head over features before centring and scaling."""
    weight = head.weight / scale
    return Head(weight, head.bias - weight @ centre)
