"""One distillation from its examples to a bundle's folder: try the recipes, keep the one that fits.

The recipe that usually wins with so many answers a label is kept, unless the fit answers say by more than a standard
error that another is better: with few of them, the likeliest is mostly the luckiest.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datashunt import evaluate
from datashunt.confidence import fit_temperature, negative_log_likelihood, softmax
from datashunt.distil import corpus
from datashunt.distil.checkpoint import Checkpoint, fingerprint
from datashunt.distil.corpus import Answers, HeldOut, Replay
from datashunt.distil.full import Trainer, fine_tune
from datashunt.distil.head import Features, Head, fit_head
from datashunt.distil.plan import BLEND, FULL, HEAD, Challenger, Example, Plan, Progress, Recipe
from datashunt.distil.prior import head_of_words
from datashunt.errors import LessonError, ModelError
from datashunt.small import (
    BundleInfo,
    SequenceClassifier,
    SmallModel,
    checked,
    choose_device,
    probe,
    save,
    training_precision,
)
from datashunt.small.network import Encoded, encode, load_tokenizer

_CHUNK = 32
"""Texts that the incumbent scores between two reports of progress."""
BETWEEN = 0.75
"""How far from the base towards the fine-tuned encoder the blend's encoder lies."""
USUAL = ((8, HEAD), (100, BLEND))
"""Up to so many answers a label, this recipe usually wins; with more, full fine-tuning (docs/method.md)."""


@dataclass(frozen=True, slots=True)
class _Material:
    """Everything that a recipe learns from."""

    answers: Answers
    fit: HeldOut
    replay: Replay
    meanings: Encoded


@dataclass(frozen=True, slots=True)
class _Trained:
    """What one recipe brought: the network and its logits (f, k) on the fit answers."""

    recipe: Recipe
    network: SequenceClassifier
    logits: Tensor
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether its weights and logits are numbers: a last step may go wrong that no loss shows any more."""
        return all(bool(part.isfinite().all()) for part in (self.logits, *self.network.parameters()))


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
    confident. Each recipe is trained and calibrated, and `choose` says which becomes the bundle.

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
        LessonError: nothing to learn from, or training diverged.
        ModelError: other labels, or the base cannot be loaded.
        BundleError: the incumbent's weights have to be read again, and its folder is gone or was altered.
        OSError: the bundle or the checkpoint cannot be written.
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
        trained = _sound(_try_recipes(plan, material, incumbent, tokenizer, progress, kept))
    return _finish(plan, trained, material, tokenizer, out, progress)


def _hardware(device: str, precision: str) -> tuple[str, str]:
    chosen = choose_device(device, probe())
    return chosen, "fp32" if precision == "fp32" else training_precision(chosen, probe())


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
    reading = partial(progress, "read")
    return _Material(
        answers=corpus.answers(train, tokenizer, len(plan.labels), plan.smoothing, reading),
        fit=HeldOut(encode(tokenizer, [text for text, _ in fit], reading), labels),
        replay=_replay(plan, replay, len(train), incumbent, tokenizer, progress),
        meanings=encode(tokenizer, plan.meanings),
    )


def _replay(
    plan: Plan,
    texts: Sequence[str],
    answers: int,
    incumbent: SmallModel | None,
    tokenizer: Any,
    progress: Progress,
) -> Replay:
    """A random part of the texts, `replay_share` of the number of answers."""
    if incumbent is None:
        return Replay([], torch.zeros((0, len(plan.labels))))
    most = max(int(answers * plan.replay_share), plan.batch_items) if plan.replay_share else 0
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
    """Train what can win.

    With `plan.warm` training goes on from an incumbent that was fine-tuned over the same base, and nothing else is
    tried: more answers only favour fine-tuning.
    """
    progress("load", 0.5)
    device, precision = _hardware(plan.device, plan.precision)
    network = SequenceClassifier.of_base(plan.base, plan.labels).to(device)
    trainer = Trainer(network, device, precision, tokenizer.pad_token_id or 0)
    if plan.warm and incumbent is not None and _continues(incumbent, plan):
        network.load_state_dict(incumbent.published())
        slower = replace(plan, encoder_lr=plan.encoder_lr * plan.warm_rate, head_lr=plan.head_lr * plan.warm_rate)
        return [_full(slower, trainer, material, plan.warm_epochs, progress, kept)]
    of_base = cache(lambda: trainer.pooled(material.answers.rows, progress, "embed"))
    found = []
    if HEAD in plan.recipes:
        apart = replace(trainer, network=copy.deepcopy(network))
        found.append(_head(HEAD, plan, apart, of_base, material, progress))
    if FULL in plan.recipes or BLEND in plan.recipes:
        apart = replace(trainer, network=copy.deepcopy(network))
        if material.meanings:
            _believed(apart, of_base(), material, progress).install(apart.network.head)
        try:
            tuned = _full(plan, apart, material, plan.epochs, progress, kept)
        except LessonError:  # it diverged: a head of the base's features may be sound
            if not found:
                raise
            return found
        if BLEND in plan.recipes and tuned.finite:
            _move_encoder(network, tuned.network, BETWEEN)
            moved = partial(trainer.pooled, material.answers.rows, progress, "embed")
            found.append(_head(BLEND, plan, trainer, moved, material, progress))
        if FULL in plan.recipes:
            found.append(tuned)
    return found


def _sound(trained: Sequence[_Trained]) -> list[_Trained]:
    """Those that did not diverge.

    Raises:
        LessonError: there is none.
    """
    found = [one for one in trained if one.finite]
    if not found:
        raise LessonError("training diverged (its weights or logits are not numbers): lower the learning rate")
    return found


def _move_encoder(network: SequenceClassifier, towards: SequenceClassifier, share: float) -> None:
    """Move the encoder's weights by this share of the way towards another's.

    Source: Wortsman et al., *Robust fine-tuning of zero-shot models* (CVPR 2022).
    """
    with torch.no_grad():
        for mine, other in zip(network.encoder.parameters(), towards.encoder.parameters(), strict=True):
            mine.lerp_(other, share)


def _continues(incumbent: SmallModel, plan: Plan) -> bool:
    return incumbent.info.recipe == FULL and incumbent.info.base == plan.base


def _head(
    recipe: Recipe,
    plan: Plan,
    trainer: Trainer,
    of_answers: Callable[[], Tensor],
    material: _Material,
    progress: Progress,
) -> _Trained:
    """A head on the features of this encoder; `of_answers` gives those of the answers, and counts as its time."""
    started = time.monotonic()
    features = Features(
        answers=of_answers(),
        replay=trainer.pooled(material.replay.rows, progress, "embed"),
        reference=material.replay.reference,
    )
    held_out = trainer.pooled(material.fit.rows, progress, "embed")
    believed = _believed(trainer, features.answers, material, progress)
    head = fit_head(features, material.answers, (held_out, material.fit.labels), believed, plan, progress)
    head.install(trainer.network.head)
    return _Trained(recipe, trainer.network, head.logits(held_out), time.monotonic() - started)


def _believed(trainer: Trainer, features: Tensor, material: _Material, progress: Progress) -> Head:
    """What the labels' own words say of the answers, whose features by this encoder are given."""
    if not material.meanings:
        return Head.of_nothing(material.answers.target.shape[1], features.shape[1])
    return head_of_words(trainer.pooled(material.meanings, progress, "embed"), features, material.answers)


def _full(
    plan: Plan, trainer: Trainer, material: _Material, epochs: int, progress: Progress, kept: Checkpoint | None
) -> _Trained:
    started = time.monotonic()
    parts = material.answers, material.fit, material.replay
    fine_tune(trainer, *parts, plan, progress, epochs=epochs, checkpoint=kept)
    logits = trainer.logits(material.fit.rows, progress, "fit")
    return _Trained(FULL, trainer.network, logits, time.monotonic() - started)


def _finish(
    plan: Plan, trained: Sequence[_Trained], material: _Material, tokenizer: Any, out: Path, progress: Progress
) -> Challenger:
    """Calibrate every recipe on the fit answers, choose, and write the bundle."""
    y = material.fit.labels
    temperatures = [fit_temperature(one.logits.numpy(), y) for one in trained]
    calibrated = [softmax(one.logits.numpy(), t) for one, t in zip(trained, temperatures, strict=True)]
    likelihoods = [negative_log_likelihood(p, y) for p in calibrated]
    best = choose([one.recipe for one in trained], calibrated, y, len(material.answers.rows) / len(plan.labels))
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
    if probe().cpu_bf16:  # elsewhere it takes minutes; a bundle that was not checked is scored in fp32
        info = checked(winner.network, tokenizer, info, [material.fit.rows, material.answers.rows], progress)
    save(out, winner.network, tokenizer, info)
    evaluation["rounding"] = info.rounding
    return Challenger(out, winner.recipe, temperatures[best], evaluation)


def choose(
    recipes: Sequence[Recipe], calibrated: Sequence[NDArray[np.float32]], labels: NDArray[np.intp], per_label: float
) -> int:
    """Which of the trained recipes becomes the bundle.

    Args:
        recipes: their names, at least one.
        calibrated: of each, (f, k) probabilities of the fit answers.
        labels: (f,) class indices of the fit answers.
        per_label: answers trained on for each label, in the mean.

    Returns:
        The index of the recipe that is usual with so many answers, or of the likeliest one, if the fit answers are
        more likely under that by more than a standard error of the difference.
    """
    usual = next((recipe for most, recipe in USUAL if per_label <= most), FULL)
    default = recipes.index(usual) if usual in recipes else len(recipes) - 1
    if len(labels) < 2:
        return default
    rows = np.arange(len(labels))
    nats = np.stack([np.log(np.maximum(p[rows, labels], 1e-12)) for p in calibrated])
    best = int(nats.mean(axis=1).argmax())
    gain = nats[best] - nats[default]
    return best if gain.mean() > gain.std(ddof=1) / np.sqrt(len(labels)) else default
