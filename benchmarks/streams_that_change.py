"""Streams that change: what a small model says of items before and after, and whether the LLM agrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded import STREAMS
from benchmarks.scored import LEARNED, embedded, fitted
from datashunt.confidence import softmax

USED, SPOILT = 4_000, 1_000
"""Answers of a recording that are learned or scored; texts that are spoilt and scored again."""

SYNTHETIC = 20_000
ALPHABET = np.array(list("abcdefghijklmnopqrstuvwxyz"))


@dataclass(frozen=True, slots=True)
class Pool:
    """Items to draw from: the small model's confidence and label, and whether the LLM says another; all (n,)."""

    confidence: NDArray[np.float64]
    said: NDArray[np.intp]
    wrong: NDArray[np.bool_]

    def at(self, places: NDArray[np.intp]) -> Pool:
        """These items."""
        return Pool(self.confidence[places], self.said[places], self.wrong[places])

    def threshold(self, risk: float) -> float:
        """The lowest confidence above which at most this share disagrees."""
        order = np.argsort(-self.confidence, kind="stable")
        rates = self.wrong[order].cumsum() / np.arange(1, len(order) + 1)
        return float(self.confidence[order[np.flatnonzero(rates <= risk)[-1]]])


@dataclass(frozen=True, slots=True)
class Change:
    """A stream before and after it changed; `labels`: how many there are."""

    before: Pool
    after: Pool
    labels: int


def synthetic(seed: int) -> Change:
    """A sure model of four labels; then items of another balance about which it is nearly as sure, and often wrong."""
    rng = np.random.default_rng(seed)
    return Change(
        _drawn(rng, (4.0, 1.0), (0.4, 0.3, 0.2, 0.1), 0.4), _drawn(rng, (3.5, 1.0), (0.25, 0.25, 0.25, 0.25), 3.0), 4
    )


def _drawn(rng: np.random.Generator, shape: tuple[float, float], balance: tuple[float, ...], risk: float) -> Pool:
    confidence = 0.25 + 0.75 * rng.beta(*shape, SYNTHETIC)
    said = rng.choice(len(balance), size=SYNTHETIC, p=balance)
    return Pool(confidence, said, rng.random(SYNTHETIC) < np.minimum(0.01 + risk * (1.0 - confidence), 1.0))


def recorded(name: str, seed: int) -> tuple[Change, Change]:
    """A recorded stream: its labels come in another balance; and its texts are spoilt.

    Raises:
        UsageError: the recording is not there.
        ModelError: the packaged encoder is not installed.
    """
    stream = STREAMS[name]
    items = [item for item in stream.read().items if item.teacher is not None]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(items))[:USED]
    texts = [items[place].text for place in order]
    answers = np.array([stream.labels.index(items[place].teacher or "") for place in order])
    features = embedded(texts, stream.labels)
    head = fitted(features[:LEARNED], answers[:LEARNED], len(stream.labels))
    before = _judged(head, features[LEARNED:], answers[LEARNED:])
    often = np.bincount(answers[LEARNED:], minlength=len(stream.labels))
    rare = np.flatnonzero(answers[LEARNED:] == often.argmin())
    spoilt = [_spoilt(rng, text) for text in texts[LEARNED : LEARNED + SPOILT]]
    after = _judged(head, embedded(spoilt, stream.labels), answers[LEARNED : LEARNED + SPOILT])
    return Change(before, before.at(rare), len(stream.labels)), Change(before, after, len(stream.labels))


def _judged(head: object, features: object, answers: NDArray[np.intp]) -> Pool:
    probabilities = softmax(head.logits(features).numpy())  # type: ignore[attr-defined]
    said = probabilities.argmax(axis=1)
    return Pool(probabilities.max(axis=1).astype(np.float64), said, said != answers)


def _spoilt(rng: np.random.Generator, text: str) -> str:
    """The text with a fifth of its letters replaced, as a broken scanner would."""
    letters = np.array(list(text))
    hit = (rng.random(len(letters)) < 0.2) & np.array([letter.isalpha() for letter in text], dtype=bool)
    letters[hit] = rng.choice(ALPHABET, size=int(hit.sum()))
    return "".join(letters)
