"""Recipe `full`: every layer of the encoder, and the head from where it is.

A head fitted to the frozen features first (Kumar et al., ICLR 2022) was worse here: it is sure of its training
answers at once, and leaves the encoder little to learn (docs/method.md).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datashunt.confidence import fit_temperature, negative_log_likelihood, softmax
from datashunt.distil.checkpoint import Checkpoint, State
from datashunt.distil.corpus import Answers, HeldOut, Indices, Replay, steps
from datashunt.distil.losses import absorb_loss, retain_loss, worst_shift
from datashunt.distil.plan import Plan, Progress
from datashunt.errors import LessonError, ModelError
from datashunt.small.batching import pad, token_batches
from datashunt.small.hardware import DTYPES
from datashunt.small.network import Encoded, SequenceClassifier

FORWARD_TOKENS = 2_048
"""Padded tokens of one pass without gradients: short enough to report progress about twice a second on a CPU."""
TRAIN_STEP = 4
"""Lengths of training steps are multiples of it where few shapes count: in short texts six per cent more tokens."""

FEWEST_TO_STOP_BY = 200
"""Fit answers below which their likelihood is too noisy to stop by: then all passes are made, and the last counts."""
MOST_SCORED = 500
"""Fit answers that are scored after each pass: there are ever more, and a pass must not cost more for it."""

WIDTH = 384
"""Values of a hidden state for which the encoder's learning rate is meant. BERT-base is twice as wide: 5e-5."""

_WEIGHT_DECAY = 0.01
_LARGEST_GRADIENT = 1.0
_RETAIN_RATE = 0.5


@dataclass(frozen=True, slots=True)
class Trainer:
    """Where and how a network runs during a distillation."""

    network: SequenceClassifier
    device: str
    precision: str
    pad_id: int

    def pooled(self, rows: Encoded, progress: Progress, stage: str) -> Tensor:
        """Features (n, d) float32 on the CPU, in the order of the rows, dropout off."""
        self.network.eval()
        out = torch.empty((len(rows), self.network.head.in_features))
        done = 0
        for batch in token_batches([len(row) for row in rows], FORWARD_TOKENS, few=self._few):
            progress(stage, done / len(rows))
            ids, mask = pad([rows[i] for i in batch], self.pad_id, self.device, few=self._few)
            with torch.inference_mode(), self._autocast():
                out[torch.from_numpy(batch)] = self.network.pooled(ids, mask).float().cpu()[: len(batch)]
            done += len(batch)
        return out

    def logits(self, rows: Encoded, progress: Progress, stage: str) -> Tensor:
        """Logits (n, k) float32 on the CPU, dropout off."""
        with torch.inference_mode():
            logits: Tensor = self.network.head(self.pooled(rows, progress, stage).to(self.device))
            return logits.float().cpu()

    def train(self) -> None:
        """Switch on the head's dropout, and only that.

        With so few passes the encoder's own dropout costs a fifth of the time, and agreement: after 700 answers,
        without it 0.751 against 0.739 (product reviews) and 0.689 against 0.667 (emotions).
        """
        self.network.train()
        self.network.encoder.eval()

    def train_logits(self, rows: Encoded, chosen: Indices) -> Tensor:
        """Logits (n, k) of one step, with gradients."""
        ids, mask = self._padded(rows, chosen)
        with self._autocast():
            logits: Tensor = self.network(input_ids=ids, attention_mask=mask).logits
        return logits[: len(chosen)]

    def embedded(self, rows: Encoded, chosen: Indices) -> tuple[Tensor, Tensor]:
        """Word embeddings (≥ n, t, d) of one step, which want their gradient, and the mask (≥ n, t) of real tokens."""
        ids, mask = self._padded(rows, chosen)
        words: Tensor = self.network.encoder.get_input_embeddings()(ids)
        return words.detach().requires_grad_(), mask

    def logits_at(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Logits (n, k) of word embeddings (n, t, d), with gradients."""
        with self._autocast():
            return self.network.logits_at(embeddings, mask)

    @property
    def _few(self) -> bool:
        """Whether steps shall have few shapes: in bf16 a CPU compiles kernels for each, and keeps them.

        Forward and backward, so that a process's memory would grow with every distillation of other texts.
        """
        return self.device == "cpu" and self.precision != "fp32"

    def _padded(self, rows: Encoded, chosen: Indices) -> tuple[Tensor, Tensor]:
        return pad([rows[i] for i in chosen], self.pad_id, self.device, few=self._few, step=TRAIN_STEP)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, DTYPES[self.precision], enabled=self.precision != "fp32")


def fine_tune(
    trainer: Trainer,
    answers: Answers,
    held_out: HeldOut,
    replay: Replay,
    plan: Plan,
    progress: Progress,
    *,
    epochs: int,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train in place: stage 1, at most `epochs` passes over the answers; stage 2, one over the replay.

    After each pass the fit answers are scored, or the same random part of them if there are many. If there are at
    least FEWEST_TO_STOP_BY, stage 1 ends after a pass without gain, and the network is left as it was when they were
    most likely. A step of stage 2 carries as
    many answers as replayed texts, so that it does not undo stage 1.

    With a checkpoint, the state is written after each pass, and a training that was interrupted goes on after its
    last one; on the same machine, in fp32 on a CPU, to the very same weights.

    Raises:
        LessonError: the loss became infinite or nan.
        OSError: the checkpoint cannot be written.
    """
    rng = np.random.default_rng(plan.seed)
    loop = _Loop(trainer, answers, replay, plan, progress)
    best = _Best(trainer, _some(held_out, plan.seed), progress)
    keeper = _Keeper(trainer, loop, best, rng, checkpoint)
    done = keeper.resume()
    if done:
        progress("resume", min(done / epochs, 1.0))
    for epoch in range(done, epochs):
        loop.absorb(steps(answers.rows, plan.batch_items, rng), epoch, epochs)
        if not best.improved():
            keeper.keep(epochs)
            break
        keeper.keep(epoch + 1)
    best.restore()
    if len(replay.rows) and done <= epochs:
        loop.retain(rng)
        best.improved()
        best.restore()
        keeper.keep(epochs + 1)


def slower(width: int) -> float:
    """The share of the encoder's learning rate at which one with hidden states of so many values learns."""
    return min(1.0, WIDTH / width)


def held_out_nll(trainer: Trainer, held_out: HeldOut, progress: Progress) -> float:
    """Mean nats of the fit answers, at the temperature that suits them best."""
    logits = trainer.logits(held_out.rows, progress, "fit").numpy()
    return negative_log_likelihood(softmax(logits, fit_temperature(logits, held_out.labels)), held_out.labels)


def _some(held_out: HeldOut, seed: int) -> HeldOut:
    """At most `MOST_SCORED` of them, at random."""
    if len(held_out.rows) <= MOST_SCORED:
        return held_out
    chosen = np.sort(np.random.default_rng(seed).permutation(len(held_out.rows))[:MOST_SCORED])
    return HeldOut([held_out.rows[i] for i in chosen], held_out.labels[chosen])


class _Best:
    """The weights under which the held-out answers were most likely so far; with few of them, the last ones."""

    def __init__(self, trainer: Trainer, held_out: HeldOut, progress: Progress) -> None:
        self._trainer, self._held_out, self._progress = trainer, held_out, progress
        self.nll = math.inf
        self.weights: dict[str, Tensor] = {}

    def improved(self) -> bool:
        if len(self._held_out.rows) >= FEWEST_TO_STOP_BY:
            nll = held_out_nll(self._trainer, self._held_out, self._progress)
            if not nll < self.nll:
                return False
            self.nll = nll
        trained = self._trainer.network.named_parameters()
        self.weights = {name: p.detach().clone() for name, p in trained if p.requires_grad}
        return True

    def restore(self) -> None:
        self._trainer.network.load_state_dict(self.weights, strict=False)


class _Loop:
    """The optimiser and the steps of both stages."""

    def __init__(self, trainer: Trainer, answers: Answers, replay: Replay, plan: Plan, progress: Progress) -> None:
        self._trainer, self._answers, self._replay = trainer, answers, replay
        self._plan, self._progress = plan, progress
        network = trainer.network
        # Most of a small encoder's weights are its embeddings; the words that happen to occur need no tuning.
        network.encoder.get_input_embeddings().requires_grad_(False)
        encoder = [p for p in network.encoder.parameters() if p.requires_grad]
        self._rates = (plan.encoder_lr * slower(network.head.in_features), plan.head_lr)
        groups = [{"params": encoder}, {"params": list(network.head.parameters())}]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=_WEIGHT_DECAY, fused=True)

    def absorb(self, cut: list[Indices], epoch: int, epochs: int) -> None:
        self._trainer.train()
        for i, chosen in enumerate(cut):
            done = (epoch + i / len(cut)) / epochs
            self._progress("absorb", done)
            self._absorb(chosen, min((done * epochs * len(cut) + 1) / _warm_up(epochs * len(cut)), 1 - done))

    def retain(self, rng: np.random.Generator) -> None:
        self._trainer.train()
        size = self._plan.batch_items
        rehearsed = rng.permutation(len(self._answers.rows))
        cut = steps(self._replay.rows, size, rng)
        for i, chosen in enumerate(cut):
            self._progress("retain", i / len(cut))
            logits = self._trainer.train_logits(self._replay.rows, chosen)
            kept = retain_loss(logits, self._replay.reference[chosen].to(logits.device))
            again = rehearsed.take(range(i * size, (i + 1) * size), mode="wrap")
            said = self._absorb_loss(self._trainer.train_logits(self._answers.rows, again), again)
            self.optimiser.zero_grad()
            _backward(said + self._plan.retain_weight * kept)
            self._step(_RETAIN_RATE * (1 - i / len(cut)))

    def _absorb(self, chosen: Indices, scale: float) -> None:
        """One step from the answers as they are, and one from the same texts moved against the model."""
        trainer, rows = self._trainer, self._answers.rows
        if not self._plan.adversarial:
            self._learn(trainer.train_logits(rows, chosen), chosen, scale)
            return
        words, mask = trainer.embedded(rows, chosen)
        self._learn(trainer.logits_at(words, mask), chosen, scale)
        if words.grad is None:
            raise ModelError("the base takes no word embeddings: choose another encoder")
        moved = words.detach() + worst_shift(words.grad, words.detach(), mask, self._plan.adversarial)
        self._learn(trainer.logits_at(moved, mask), chosen, scale)

    def _learn(self, logits: Tensor, chosen: Indices, scale: float) -> None:
        self.optimiser.zero_grad()
        _backward(self._absorb_loss(logits, chosen))
        self._step(scale)

    def _absorb_loss(self, logits: Tensor, chosen: Indices) -> Tensor:
        target, known, weight = (
            part[chosen].to(logits.device) for part in (self._answers.target, self._answers.known, self._answers.weight)
        )
        return absorb_loss(logits[: len(chosen)], target, known, weight, self._plan.robustness, self._plan.reverse)

    def _step(self, scale: float) -> None:
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * scale
        nn.utils.clip_grad_norm_(self._trainer.network.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()


class _Keeper:
    """Writes down where a training stands after each pass, and puts it back.

    After a pass that is gone on from, the network has its best weights, so they are kept once.
    """

    def __init__(
        self, trainer: Trainer, loop: _Loop, best: _Best, rng: np.random.Generator, checkpoint: Checkpoint | None
    ) -> None:
        self._trainer, self._loop, self._best, self._rng = trainer, loop, best, rng
        self._checkpoint = checkpoint

    def keep(self, done: int) -> None:
        """Passes done: as many as there are at most when stage 1 has ended, one more after stage 2."""
        if self._checkpoint is None or not self._best.weights:
            return
        moments = self._loop.optimiser.state_dict()["state"]
        tensors = {f"weights.{name}": weight for name, weight in self._best.weights.items()}
        tensors |= {f"adam.{i}.{name}": part for i, one in moments.items() for name, part in one.items()}
        tensors["dropout"] = torch.get_rng_state()
        if self._on_cuda:
            tensors["dropout.cuda"] = torch.cuda.get_rng_state(self._trainer.device)
        nll = self._best.nll if math.isfinite(self._best.nll) else None
        facts = {"done": done, "nll": nll, "rng": self._rng.bit_generator.state}
        self._checkpoint.save(State(tensors, facts))

    def resume(self) -> int:
        """Put back the last state that was kept; returns the passes that it has behind it, 0 to begin."""
        state = None if self._checkpoint is None else self._checkpoint.load()
        if state is None:
            return 0
        device = self._trainer.device
        nll = state.facts["nll"]
        self._best.nll = math.inf if nll is None else float(nll)
        self._best.weights = {name: tensor.to(device) for name, tensor in _below("weights", state.tensors).items()}
        self._best.restore()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("adam", state.tensors).items():
            number, _, part = name.partition(".")
            moments.setdefault(int(number), {})[part] = tensor
        optimiser = self._loop.optimiser
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        torch.set_rng_state(state.tensors["dropout"])
        if self._on_cuda and "dropout.cuda" in state.tensors:  # it may have begun on the CPU
            torch.cuda.set_rng_state(state.tensors["dropout.cuda"], device)
        rng: Any = state.facts["rng"]
        self._rng.bit_generator.state = rng
        return int(state.facts["done"])

    @property
    def _on_cuda(self) -> bool:
        return self._trainer.device.startswith("cuda")


def _below(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): one for name, one in tensors.items() if name.startswith(f"{part}.")}


def _backward(loss: Tensor) -> None:
    if not math.isfinite(float(loss.detach())):
        raise LessonError("training diverged (the loss is not a number): lower the learning rate")
    loss.backward()  # type: ignore[no-untyped-call]


def _warm_up(total: int) -> int:
    return max(total // 10, 1)
