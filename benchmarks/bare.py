"""A bare PyTorch loop over the very batches of a training of ours: what that training is compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from datashunt.distil.corpus import Answers, HeldOut, Indices, Replay
from datashunt.distil.full import FORWARD_TOKENS, Trainer
from datashunt.distil.plan import Progress
from datashunt.small.batching import pad, token_batches
from datashunt.small.hardware import DTYPES
from datashunt.small.network import Encoded

RATE = 1e-4


@dataclass(frozen=True, slots=True)
class Recorder(Trainer):
    """A trainer that remembers its batches: rows of which texts took a step together; None: all fit answers scored."""

    batches: list[tuple[Encoded, Indices] | None] = field(default_factory=list)

    def train_logits(self, rows: Encoded, chosen: Indices) -> Tensor:
        """Logits (n, k) of one step, with gradients."""
        self.batches.append((rows, chosen))
        return Trainer.train_logits(self, rows, chosen)  # super() does not work in a class with slots

    def embedded(self, rows: Encoded, chosen: Indices) -> tuple[Tensor, Tensor]:
        """Word embeddings of one step."""
        self.batches.append((rows, chosen))
        return Trainer.embedded(self, rows, chosen)

    def logits(self, rows: Encoded, progress: Progress, stage: str) -> Tensor:
        """Logits (n, k) of the fit answers."""
        self.batches.append(None)
        return Trainer.logits(self, rows, progress, stage)


def bare_loop(
    recorder: Recorder, network: Any, answers: Answers, held_out: HeldOut, replay: Replay, adversarial: float
) -> float:
    """Train this network over the recorded batches as one would without us; returns the seconds that it took.

    Plain cross-entropy and KL, a second step at moved embeddings where ours makes one, AdamW, clipped gradients.
    The fit answers are scored as often.
    """
    words = network.encoder.get_input_embeddings()
    words.requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=RATE, fused=True)
    device, pad_id = recorder.device, recorder.pad_id
    autocast = torch.autocast(
        device.partition(":")[0], DTYPES[recorder.precision], enabled=recorder.precision != "fp32"
    )
    retained: Tensor | float = 0.0

    def logits(rows: Encoded, chosen: Sequence[int] | Indices) -> Tensor:
        ids, mask = pad([rows[i] for i in chosen], pad_id, device)
        with autocast:
            made: Tensor = network(input_ids=ids, attention_mask=mask).logits
        return made.float()

    def against(rows: Encoded, chosen: Indices) -> None:
        ids, mask = pad([rows[i] for i in chosen], pad_id, device)
        at = words(ids).detach().requires_grad_()
        for last in (False, True):
            with autocast:
                hidden = network.encoder(inputs_embeds=at, attention_mask=mask).last_hidden_state
                pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1, dtype=torch.float32) / mask.sum(dim=1, keepdim=True)
                log_p = torch.log_softmax(network.head(network.dropout(pooled)).float(), dim=1)
            optimiser.zero_grad()
            (-(answers.target[chosen].to(device) * log_p).sum(dim=1).mean()).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            if not last:
                slope = at.grad * mask.unsqueeze(-1)
                scale = adversarial * at.norm(dim=(1, 2), keepdim=True) / slope.norm(dim=(1, 2), keepdim=True)
                at = (at + scale * slope).detach()

    started = time.perf_counter()
    for batch in recorder.batches:
        if batch is None:
            with torch.inference_mode():
                for chosen in token_batches([len(row) for row in held_out.rows], FORWARD_TOKENS):
                    logits(held_out.rows, chosen).cpu()
            continue
        rows, chosen = batch
        if rows is answers.rows and adversarial and not isinstance(retained, Tensor):
            against(rows, chosen)
            continue
        optimiser.zero_grad()
        log_p = torch.log_softmax(logits(rows, chosen), dim=1)
        if rows is replay.rows:
            reference = replay.reference[chosen].to(device)
            retained = torch.nn.functional.kl_div(log_p, reference, reduction="batchmean")
            continue  # the answers of the same step come next
        loss = retained - (answers.target[chosen].to(device) * log_p).sum(dim=1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        retained = 0.0
    return time.perf_counter() - started
