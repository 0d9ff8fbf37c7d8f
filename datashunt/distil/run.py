"""One distillation from its examples to a bundle's folder: try the recipes, keep the one the fit answers prefer."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datashunt import evaluate
from datashunt.confidence import fit_temperature, negative_log_likelihood, softmax
from datashunt.distil import corpus
from datashunt.distil.checkpoint import Checkpoint, fingerprint
from datashunt.distil.corpus import Answers, HeldOut, Replay
from datashunt.distil.full import Trainer, fine_tune
from datashunt.distil.head import Features, fit_head
from datashunt.distil.plan import FULL, HEAD, Challenger, Example, Plan, Progress, Recipe
from datashunt.errors import ModelError
from datashunt.small import (
    BundleInfo,
    SequenceClassifier,
    SmallModel,
    choose_device,
    probe,
    save,
    training_precision,
)
from datashunt.small.network import encode, load_tokenizer

_CHUNK = 32
"""Texts that the incumbent scores between two reports of progress."""


@dataclass(frozen=True, slots=True)
class _Material:
    """Everything that a recipe learns from."""

    answers: Answers
    fit: HeldOut
    replay: Replay


@dataclass(frozen=True, slots=True)
class _Trained:
    """What one recipe brought: the network and its logits (f, k) on the fit answers."""

    recipe: Recipe
    network: SequenceClassifier
    logits: Tensor
    seconds: float


def distil(
    plan: Plan,
    train: Sequence[Example],
    fit: Sequence[tuple[str, int]],
    replay: Sequence[str],
    incumbent: SmallModel | None,
    out: Path,
    progress: Progress,
    checkpoint: Path | None = None,
) -> Challenger:
    """Two-stage confidence distillation.

    Stage 1 absorbs the LLM's answers; stage 2 keeps the incumbent's probabilities on texts where it was
    confident. Each recipe is trained and calibrated, and the one under which the fit answers are most likely
    becomes the bundle.

    Args:
        plan: the labels, the base, and how to train.
        train: answers to learn from.
        fit: texts and class indices of held-out answers; never trained on.
        replay: texts on which the incumbent was confident; ignored without one.
        incumbent: the bundle that serves, with the same labels, or None. It is not changed.
        out: folder of the new bundle.
        progress: called with stage and share done; what it raises ends the distillation.
        checkpoint: folder where full fine-tuning keeps its state. The same call goes on from what an interrupted
            one left there.

    Raises:
        ModelError: nothing to learn from, other labels, the base cannot be loaded, or training diverged.
    """
    if plan.threads:
        torch.set_num_threads(plan.threads)
    if incumbent is not None and incumbent.info.labels_hash != plan.labels_hash:
        raise ModelError("the incumbent has other labels than this classifier: distil without it")
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        progress("load", 0.0)
        tokenizer = load_tokenizer(plan.base, plan.max_tokens)
        material = _material(plan, train, fit, replay, incumbent, tokenizer, progress)
        kept = Checkpoint(checkpoint, fingerprint(plan, train, fit, replay, incumbent)) if checkpoint else None
        trained = _try_recipes(plan, material, incumbent, tokenizer, progress, kept)
    return _finish(plan, trained, material, tokenizer, out)


def _material(
    plan: Plan,
    train: Sequence[Example],
    fit: Sequence[tuple[str, int]],
    replay: Sequence[str],
    incumbent: SmallModel | None,
    tokenizer: Any,
    progress: Progress,
) -> _Material:
    labels = np.array([label for _, label in fit], dtype=np.intp)
    return _Material(
        answers=corpus.answers(train, tokenizer, len(plan.labels)),
        fit=HeldOut(encode(tokenizer, [text for text, _ in fit]), labels),
        replay=_replay(plan, replay, len(train), incumbent, tokenizer, progress),
    )


def _replay(
    plan: Plan,
    texts: Sequence[str],
    answers: int,
    incumbent: SmallModel | None,
    tokenizer: Any,
    progress: Progress,
) -> Replay:
    """A random part of the texts, a quarter as many as answers: stage 2 then costs half a pass of stage 1."""
    if incumbent is None:
        return Replay([], torch.zeros((0, len(plan.labels))))
    most = max(answers // 4, plan.batch_items)
    chosen = [texts[i] for i in np.random.default_rng(plan.seed).permutation(len(texts))[:most]]
    reference = np.zeros((len(chosen), len(plan.labels)), dtype=np.float32)
    for start in range(0, len(chosen), _CHUNK):
        progress("replay", start / len(chosen))
        reference[start : start + _CHUNK] = incumbent.probabilities(chosen[start : start + _CHUNK])
    return Replay(encode(tokenizer, chosen), torch.from_numpy(reference))


def _try_recipes(
    plan: Plan,
    material: _Material,
    incumbent: SmallModel | None,
    tokenizer: Any,
    progress: Progress,
    kept: Checkpoint | None,
) -> list[_Trained]:
    """Train what can win, linear head first: it is what full fine-tuning starts from.

    From an incumbent that was fine-tuned over the same base, training goes on, and the head is not tried
    again: more answers only favour fine-tuning.
    """
    device = choose_device(plan.device, probe())
    precision = "fp32" if plan.precision == "fp32" else training_precision(device, probe())
    network = SequenceClassifier.of_base(plan.base, plan.labels).to(device)
    trainer = Trainer(network, device, precision, tokenizer.pad_token_id or 0)
    full = FULL in plan.recipes and bool(material.fit.rows)
    if full and incumbent is not None and incumbent.info.recipe == FULL and incumbent.info.base == plan.base:
        network.load_state_dict(incumbent.network.state_dict())
        return [_full(plan, trainer, material, plan.warm_epochs, progress, kept)]
    head = _head(plan, trainer, material, progress)
    if not full:
        return [head]
    tuned = _full(plan, replace(trainer, network=copy.deepcopy(network)), material, plan.epochs, progress, kept)
    return [head, tuned] if HEAD in plan.recipes else [tuned]


def _head(plan: Plan, trainer: Trainer, material: _Material, progress: Progress) -> _Trained:
    started = time.monotonic()
    features = Features(
        answers=trainer.pooled(material.answers.rows, progress, "embed"),
        replay=trainer.pooled(material.replay.rows, progress, "embed"),
        reference=material.replay.reference,
    )
    held_out = trainer.pooled(material.fit.rows, progress, "embed")
    head = fit_head(features, material.answers, (held_out, material.fit.labels), plan, progress)
    head.install(trainer.network.head)
    return _Trained(HEAD, trainer.network, head.logits(held_out), time.monotonic() - started)


def _full(
    plan: Plan, trainer: Trainer, material: _Material, epochs: int, progress: Progress, kept: Checkpoint | None
) -> _Trained:
    started = time.monotonic()
    parts = material.answers, material.fit, material.replay
    fine_tune(trainer, *parts, plan, progress, epochs=epochs, checkpoint=kept)
    logits = trainer.logits(material.fit.rows, progress, "fit")
    return _Trained(FULL, trainer.network, logits, time.monotonic() - started)


def _finish(plan: Plan, trained: Sequence[_Trained], material: _Material, tokenizer: Any, out: Path) -> Challenger:
    """Calibrate every recipe on the fit answers, choose, and write the bundle."""
    y = material.fit.labels
    temperatures = [fit_temperature(one.logits.numpy(), y) for one in trained]
    calibrated = [softmax(one.logits.numpy(), t) for one, t in zip(trained, temperatures, strict=True)]
    likelihoods = [negative_log_likelihood(p, y) for p in calibrated]
    best = int(np.nanargmin(likelihoods)) if len(y) else 0
    winner = trained[best]
    evaluation = evaluate.evaluation(calibrated[best], y, plan.labels, plan.threshold)
    evaluation["recipes"] = {
        one.recipe: {
            "nll": nll if len(y) else None,
            "agreement": float((p.argmax(axis=1) == y).mean()) if len(y) else None,
            "seconds": round(one.seconds, 3),
        }
        for one, p, nll in zip(trained, calibrated, likelihoods, strict=True)
    }
    info = BundleInfo(
        labels=plan.labels,
        temperature=temperatures[best],
        recipe=winner.recipe,
        threshold=plan.threshold,
        base=plan.base,
        max_tokens=plan.max_tokens,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        trained_on={
            "train": len(material.answers.rows),
            "fit": len(material.fit.rows),
            "replay": len(material.replay.rows),
        },
        evaluation=evaluation,
        parent=plan.parent,
    )
    save(out, winner.network, tokenizer, info)
    return Challenger(out, winner.recipe, temperatures[best], evaluation)
