"""Whether the promotion gate is right: chains of linear heads on frozen features of recorded streams.

A chain is one order of a stream. Each of its heads has learned from a third more answers than the one before it; one
answer in ten judges, one in ten calibrates. What the gate promotes serves, and is challenged by the next. What the gate
says is compared with the items that come later, which no head has seen. A label that is proven to lose more than
c / √n over its n judge answers turns a challenger away; several c are compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.recorded import STREAMS
from datashunt import evaluate, settings
from datashunt.classifier import Spec
from datashunt.confidence import fit_temperature, softmax
from datashunt.distil import Plan
from datashunt.distil.corpus import Answers
from datashunt.distil.full import Trainer
from datashunt.distil.head import Features, Head, fit_head
from datashunt.evaluate import Verdict
from datashunt.items import FEWEST_JUDGES
from datashunt.pipeline.lesson import DELTA, MARGIN
from datashunt.small import SequenceClassifier
from datashunt.small.network import encode, load_tokenizer

SIZES = tuple(round(300 * (4 / 3) ** i) for i in range(10))
"""Answers that each head of a chain has seen."""
LATER = 1_500
ALLOWANCES = (0.0, 0.25, 0.5, 1.0, 1.5)
"""c of the allowances that are compared; MARGIN is allowed always."""

Probabilities = NDArray[np.float32]
Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenger before the gate, and afterwards.

    Attributes:
        verdict: of the gate as it is.
        lost: for each label that may veto, what it is proven to lose.
        gain: agreement minus the incumbent's on the items that came later.
        recall: the same of each label's recall; nan where none came.
    """

    verdict: Verdict
    lost: dict[str, float]
    gain: float
    recall: dict[str, float]

    def turned_away(self, allowance: float) -> list[str]:
        """The labels that would veto if allowance / √n might be lost."""
        return [
            name
            for name, loss in self.lost.items()
            if loss > max(MARGIN, allowance / math.sqrt(self.verdict.labels[name].n))
        ]


def benchmark(full: bool) -> Result:
    """Twenty-four chains of each stream, or two short ones of the second."""
    started = time.monotonic()
    measures: list[Measure] = []
    for name in STREAMS if full else list(STREAMS)[-1:]:
        stream = STREAMS[name]
        items = [one for one in stream.read().items if one.teacher is not None]
        names = stream.labels
        said = np.array([names.index(one.teacher) for one in items if one.teacher is not None], dtype=np.intp)
        features = _features(stream.spec(), [one.text for one in items])
        challenges = [
            challenge
            for seed in range(24 if full else 2)
            for challenge in chain(features, said, names, seed, SIZES if full else SIZES[:4])
        ]
        found = gate(challenges) + [one for allowance in ALLOWANCES for one in compared(challenges, allowance)]
        measures += [replace(one, name=f"{name}_{one.name}", what=f"{name}: {one.what}") for one in found]
    return Result("promotion", full, time.monotonic() - started, measures)


def chain(
    features: torch.Tensor, said: Labels, names: Sequence[str], seed: int, sizes: Sequence[int]
) -> Iterator[Challenge]:
    """The challengers of one order, each against what the gate promoted last.

    Args:
        features: (n, d) of the stream's items.
        said: (n,) the teacher's labels.
        names: k labels.
        seed: of the order and of who judges.
        sizes: answers that each head has seen.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(said))
    role = random.choice(3, size=len(said), p=(0.8, 0.1, 0.1))
    incumbent: Callable[[Labels], Probabilities] | None = None
    for seen in sizes:
        train, fit, judges = (order[:seen][role[:seen] == one] for one in range(3))
        challenger = _learned(features, said, len(names), train, fit)
        if incumbent is None:
            incumbent = challenger
            continue
        later = order[seen : seen + LATER]
        found = challenge(
            (challenger(judges), incumbent(judges), said[judges]),
            (challenger(later), incumbent(later), said[later]),
            names,
        )
        yield found
        if found.verdict.promote:
            incumbent = challenger


def challenge(
    judged: tuple[Probabilities, Probabilities, Labels],
    later: tuple[Probabilities, Probabilities, Labels],
    names: Sequence[str],
) -> Challenge:
    """What the gate says, and what came true; both parts are challenger, incumbent and labels."""
    verdict = evaluate.judge(*judged, names, margin=MARGIN, delta=DELTA)
    lost = proven_losses(*judged, names)
    gains = np.subtract(*(np.float64(probabilities.argmax(axis=1) == later[2]) for probabilities in later[:2]))
    recall = {
        name: float(gains[later[2] == i].mean()) if (later[2] == i).any() else math.nan for i, name in enumerate(names)
    }
    return Challenge(verdict, lost, float(gains.mean()), recall)


def proven_losses(
    challenger: Probabilities, incumbent: Probabilities, said: Labels, names: Sequence[str]
) -> dict[str, float]:
    """What is proven lost of each label with thirty answers, as a share of them; DELTA is over all of them together."""
    ours, theirs = (probabilities.argmax(axis=1) == said for probabilities in (challenger, incumbent))
    judged = {name: said == i for i, name in enumerate(names) if (said == i).sum() >= FEWEST_JUDGES}
    return {
        name: evaluate.difference_lower(
            int((theirs & ~ours & of).sum()), int((ours & ~theirs & of).sum()), int(of.sum()), DELTA / len(judged)
        )
        for name, of in judged.items()
    }


def compared(challenges: Sequence[Challenge], allowance: float) -> list[Measure]:
    """How many a label would have turned away under this allowance, and how they did on what came later."""
    away = [(one, labels) for one in challenges if (labels := one.turned_away(allowance))]
    allowed = f"{allowance:g} / √n allowed" if allowance else f"{MARGIN:g} allowed"
    found = [Measure(f"away_{allowance:g}", f"turned away for a label, {allowed}", len(away), "challengers")]
    if away:
        gains = np.array([one.gain for one, _ in away])
        recalls = [one.recall[label] for one, labels in away for label in labels]
        found += [
            Measure(f"better_{allowance:g}", "… that agree more often later", float((gains > 0).mean())),
            Measure(f"gain_{allowance:g}", "… gain of agreement later", float(gains.mean())),
            Measure(f"recall_{allowance:g}", "… gain of that label's recall later", float(np.nanmean(recalls))),
        ]
    return found


def gate(challenges: Sequence[Challenge]) -> list[Measure]:
    """What the gate does as it is, and what would come of promoting all."""
    gains = np.array([one.gain for one in challenges])
    rejected = np.array([not one.verdict.promote for one in challenges])
    found = [
        Measure("challengers", "challengers", len(challenges), "challengers"),
        Measure("gain", "gain of agreement later, all", float(gains.mean())),
        Measure("rejected", "rejected by the gate as it is", int(rejected.sum()), "challengers"),
    ]
    if rejected.any():
        found.append(Measure("rejected_gain", "… gain of agreement later", float(gains[rejected].mean())))
    return found


def _learned(
    features: torch.Tensor, said: Labels, k: int, train: Labels, fit: Labels
) -> Callable[[Labels], Probabilities]:
    """What a head says that has learned these answers: (n, k) calibrated probabilities of items by their indices."""
    plan = Plan(labels=tuple(map(str, range(k))), labels_hash="", base="auto", max_tokens=1, threshold=0.9)
    target = torch.full((len(train), k), plan.smoothing / k)
    target[torch.arange(len(train)), torch.from_numpy(said[train])] += 1 - plan.smoothing
    ones = torch.ones(len(train))
    answers = Answers([], target, torch.ones_like(target, dtype=torch.bool), ones)
    nothing = torch.zeros((0, features.shape[1]))
    parts = Features(features[train], nothing, torch.zeros((0, k)))
    held_out = features[fit], said[fit]
    head = fit_head(parts, answers, held_out, Head.of_nothing(k, features.shape[1]), plan, lambda *_: None)
    temperature = fit_temperature(head.logits(held_out[0]).numpy(), held_out[1])
    return lambda items: softmax(head.logits(features[items]).numpy(), temperature)


def _features(spec: Spec, texts: Sequence[str]) -> torch.Tensor:
    """What the base says of the texts: (n, d)."""
    known, model = settings.load(), spec.small_model
    if known.threads:
        torch.set_num_threads(known.threads)
    tokenizer = load_tokenizer(model.base, model.max_tokens)
    network = SequenceClassifier.of_base(model.base, spec.label_names)
    trainer = Trainer(network, "cpu", "fp32", tokenizer.pad_token_id or 0)
    return trainer.pooled(encode(tokenizer, texts), lambda *_: None, "embed")


if __name__ == "__main__":
    command.main(benchmark, __doc__)
