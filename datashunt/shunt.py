"""Keep or escalate, and who is audited. Pure; imports items only.

The draws are keyed hashes of the item's id: reproducible by whoever holds the key, and out of the hands of
producers, who choose the ids but not the key. The audit draw and the role draw are independent of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datashunt.items import Role

COLD_START_AUDIT_RATE = 0.2
"""Share of the answers that is held out from training while every item is asked."""

MORE_AUDITS, FEWER_AUDITS = 2.0, 0.25
"""Multiples of the audit rate: while nothing is proven or something is amiss; and while a promise is kept by far."""
LEAST_RATE = 0.005
"""The rarest audit: an answer that stands for more than two hundred items proves nothing in any reasonable time."""
WATCHED, WATCHED_FROM = 4.0, 0.1
"""An item that is a watched label with at least this probability is audited so many times as often."""
NOTHING = 2.0
"""A threshold that no confidence reaches."""

_AUDIT = b"audit"
_ROLE = b"role"


class Decisions(NamedTuple):
    """What the shunt says of n items.

    Attributes:
        labels: (n,) index of the most probable label.
        confidence: (n,) its probability.
        keep: (n,) True where the small model's label is kept, False where the item escalates.
    """

    labels: NDArray[np.intp]
    confidence: NDArray[np.float64]
    keep: NDArray[np.bool_]


def decide(probabilities: NDArray[np.floating], threshold: float, never: Collection[int] = ()) -> Decisions:
    """Keep an item iff its confidence reaches the threshold (Data Shunt, AAAI 2024).

    Args:
        probabilities: (n, k) calibrated class probabilities; n may be 0.
        threshold: smallest confidence that is kept.
        never: indices of the labels that are never kept.
    """
    if not len(probabilities):
        return Decisions(np.empty(0, np.intp), np.empty(0, np.float64), np.empty(0, np.bool_))
    labels = probabilities.argmax(axis=1)
    confidence = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    keep = confidence >= threshold
    if never:
        keep &= ~np.isin(labels, list(never))
    return Decisions(labels, confidence, keep)


def rates(probabilities: NDArray[np.floating], rate: float, watched: Sequence[int]) -> NDArray[np.float64]:
    """How often each item is audited: more often if it may be a watched label. Never below `rate`.

    Args:
        probabilities: (n, k) calibrated class probabilities.
        rate: of all other items.
        watched: indices of labels of which few items may be missed.

    Returns:
        (n,) propensities in [0, 1].
    """
    likely = (probabilities[:, list(watched)] >= WATCHED_FROM).any(axis=1)
    return np.where(likely, min(1.0, WATCHED * rate), rate)


def audit(key: bytes, item_id: str, rate: float) -> bool:
    """Whether this item is asked whatever its confidence.

    Raising the rate only adds items: whoever is audited at 1 % is audited at 5 %.

    Args:
        key: 16 to 64 secret bytes of the classifier.
        item_id: the producer's id.
        rate: share of all items, in [0, 1].
    """
    return uniform(key, item_id, _AUDIT) < rate


def role(key: bytes, item_id: str, audited: bool) -> Role:
    """What this item's answer is for, for life: half of the audited ones fit, half judge, the rest train."""
    if not audited:
        return Role.TRAIN
    return Role.FIT if uniform(key, item_id, _ROLE) < 0.5 else Role.JUDGE


def uniform(key: bytes, item_id: str, purpose: bytes) -> float:
    """A number in [0, 1), uniform over keys: the top 53 bits of keyed BLAKE2b (RFC 7693).

    Raises:
        ValueError: the key has fewer than 16 bytes (it could be guessed) or more than 64.
    """
    if not 16 <= len(key) <= 64:
        raise ValueError(f"an audit key has 16 to 64 bytes, this one has {len(key)}")
    digest = hashlib.blake2b(item_id.encode(), key=key, person=purpose, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
