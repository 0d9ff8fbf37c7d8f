"""Scores beside recorded answers: a linear head on frozen features of the packaged encoder, and a synthetic stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded import STREAMS
from datashunt.backtest.recording import Recorded
from datashunt.confidence import softmax

LEARNED = 2_000
"""Answers that the head is trained on; the others are the stream."""

FOLDS = 5
MAX_TOKENS = 128
PASS_TOKENS = 2_048

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scored:
    """A stream with the small model's confidence (n,), and whether the LLM says another label (n,).

    Attributes:
        name: of the stream.
        fit_confidence, fit_wrong: the same of the answers that were learned, each scored by a head that had not seen
            it: what may be looked at freely.
    """

    name: str
    confidence: Floats
    wrong: Flags
    fit_confidence: Floats
    fit_wrong: Flags


@dataclass(frozen=True, slots=True)
class Opinions:
    """A stream with what a head that has not seen it says: `texts` (n), `logits` (n, k), the LLM's labels (n,)."""

    texts: tuple[str, ...]
    logits: NDArray[np.float32]
    answers: NDArray[np.intp]


def opinions(name: str, seed: int) -> Opinions:
    """A recorded stream in the order of the seed: 2,000 answers learned, the rest looked at, before calibration.

    Raises:
        UsageError: the recording is not there.
        ModelError: the packaged encoder is not installed.
    """
    features, answers = _embedded(name)
    learned, rest = _parted(len(answers), seed)
    head = fitted(features[learned], answers[learned], int(answers.max()) + 1)
    texts = [item.text for item in _answered(name)]
    return Opinions(tuple(texts[place] for place in rest), head.logits(features[rest]).numpy(), answers[rest])


def recorded(name: str, seed: int) -> Scored:
    """A recorded stream in the order of the seed: 2,000 answers learned, the rest scored.

    Raises:
        UsageError: the recording is not there.
        ModelError: the packaged encoder is not installed.
    """
    features, answers = _embedded(name)
    learned, rest = _parted(len(answers), seed)
    labels = int(answers.max()) + 1
    confidence, wrong = _judged(fitted(features[learned], answers[learned], labels), features[rest], answers[rest])
    fit_confidence, fit_wrong = np.empty(LEARNED), np.empty(LEARNED, dtype=bool)
    for fold in range(FOLDS):
        held = np.arange(LEARNED) % FOLDS == fold
        head = fitted(features[learned[~held]], answers[learned[~held]], labels)
        fit_confidence[held], fit_wrong[held] = _judged(head, features[learned[held]], answers[learned[held]])
    return Scored(name, confidence, wrong, fit_confidence, fit_wrong)


def synthetic(name: str, seed: int, *, items: int = 10_000) -> Scored:
    """Confidences of a sure model whose disagreement rises as they fall, over 1 % that the teacher says at random."""
    rng = np.random.default_rng(seed)
    confidence = 0.25 + 0.75 * rng.beta(4.0, 1.0, items + LEARNED)
    wrong = rng.random(items + LEARNED) < 0.01 + 0.8 * (1.0 - confidence)
    return Scored(name, confidence[LEARNED:], wrong[LEARNED:], confidence[:LEARNED], wrong[:LEARNED])


SCORED: dict[str, Callable[[str, int], Scored]] = {"isear": recorded, "headlines": recorded, "synthetic": synthetic}


def _parted(answers: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of what is learned, and of the rest."""
    order = np.random.default_rng(seed).permutation(answers)
    return order[:LEARNED], order[LEARNED:]


def _answered(name: str) -> list[Recorded]:
    return [item for item in STREAMS[name].read().items if item.teacher is not None]


@cache
def _embedded(name: str) -> tuple[Any, NDArray[np.intp]]:
    """Features (n, d) and the LLM's labels (n,) of a recording, in its order."""
    stream, answered = STREAMS[name], _answered(name)
    features = embedded([item.text for item in answered], stream.labels)
    return features, np.array([stream.labels.index(item.teacher) for item in answered])


def embedded(texts: Sequence[str], labels: Sequence[str]) -> Any:
    """The packaged encoder's features (n, d) of these texts.

    Raises:
        ModelError: the packaged encoder is not installed.
    """
    import torch

    from datashunt.small import SequenceClassifier
    from datashunt.small.batching import pad, token_batches
    from datashunt.small.network import encode, load_tokenizer

    tokenizer = load_tokenizer("auto", MAX_TOKENS)
    network = SequenceClassifier.of_base("auto", labels)
    rows = encode(tokenizer, texts)
    features = torch.empty((len(rows), network.head.in_features))
    for batch in token_batches([len(row) for row in rows], PASS_TOKENS):
        ids, mask = pad([rows[place] for place in batch], tokenizer.pad_token_id or 0, "cpu")
        with torch.inference_mode():
            features[torch.from_numpy(batch)] = network.pooled(ids, mask)
    return features


def fitted(features: Any, answers: NDArray[np.intp], labels: int) -> Any:
    """A linear head on these features (n, d) that says the labels of these answers (n,)."""
    import torch

    from datashunt.distil.corpus import Answers
    from datashunt.distil.head import Features, Head, fit_head
    from datashunt.distil.plan import Plan

    target = torch.eye(labels)[torch.from_numpy(answers)]
    known = torch.ones_like(target, dtype=torch.bool)
    nobody = torch.empty((0, features.shape[1]))
    return fit_head(
        Features(features, nobody, torch.empty((0, labels))),
        Answers([], target, known, torch.ones(len(answers))),
        (nobody, np.empty(0, dtype=np.intp)),
        Head.of_nothing(labels, features.shape[1]),
        Plan(tuple(map(str, range(labels))), "", "auto", MAX_TOKENS, 0.8),
        lambda *_: None,
    )


def _judged(head: Any, features: Any, answers: NDArray[np.intp]) -> tuple[Floats, Flags]:
    probabilities = softmax(head.logits(features).numpy())
    return probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) != answers
