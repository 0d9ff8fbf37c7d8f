"""The guard without labels: a bundle's confidences and predicted labels against those of its first items. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datashunt.drift.bets import BINS, NOTHING, densities, mean, staked, starts
from datashunt.drift.conformal import CONFIDENCE_CELLS, Cells, confidence_cells, ranked, uniforms

REFERENCE = 1_000
"""Items that are ranked and not yet bet on: a change is against them, and those that come until it begins."""

EVERY, EVEN = 50, 200
"""A change may begin at each fiftieth item; the first ten thousand items are about as likely as each other."""

TOGETHER = 1_024
"""Items that are worked on at a time; bounds memory."""

_STREAMS = 2
_BETS = densities()

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreGuard:
    """What the guard of one bundle has seen. Plain numbers; a new one for each update.

    Attributes:
        seed: of the draws that break ties; any number that has nothing to do with the items.
        reference: items that come before the first bet.
        items: seen so far.
        confidence: (CONFIDENCE_CELLS,) how many items of each cell of confidence.
        labels: (k,) how many items of each predicted label.
        wealth: (2, b) logarithms of what each bet has made, on confidences and on labels.
        evidence: the most that there ever was for a change, in nats: ≥ ln(1 / δ) with probability ≤ δ over a life
            without any. 0 stands for none.
    """

    seed: int
    reference: int
    items: int
    confidence: tuple[int, ...]
    labels: tuple[int, ...]
    wealth: tuple[tuple[float, ...], ...]
    evidence: float

    @classmethod
    def start(cls, labels: int, *, seed: int, reference: int = REFERENCE) -> ScoreGuard:
        """A guard that has seen nothing; the first `reference` items it is given are the reference.

        Args:
            labels: number of labels.
            seed: ≥ 0; such as the bundle's row in the database.
            reference: at least 1.

        Raises:
            ValueError: a number is out of range.
        """
        if labels < 1 or seed < 0 or reference < 1:
            raise ValueError(
                f"expected one label or more, a seed ≥ 0 and a reference of one item or more, found {labels},"
                f" {seed} and {reference}"
            )
        nothing = (NOTHING,) * _BETS.shape[1]
        return cls(seed, reference, 0, (0,) * CONFIDENCE_CELLS, (0,) * labels, (nothing,) * _STREAMS, 0.0)

    def update(self, confidences: ArrayLike, labels: ArrayLike) -> ScoreGuard:
        """The guard after these items. How they are cut into updates makes no difference.

        Args:
            confidences: (n,) of all items scored, kept or not, in [0, 1], in the order of their scores.
            labels: (n,) index of each one's predicted label.

        Raises:
            ValueError: the lengths differ, a confidence is outside [0, 1], or an index is of no label.
        """
        sure, said = np.asarray(confidences, dtype=np.float64), np.asarray(labels, dtype=np.intp)
        self._check(sure, said)
        cells = (confidence_cells(sure), said)
        guard = self
        for begin in range(0, len(sure), TOGETHER):
            guard = guard._after([part[begin : begin + TOGETHER] for part in cells])
        return guard

    def _after(self, cells: Sequence[Cells]) -> ScoreGuard:
        n = len(cells[0])
        draws = uniforms(self.seed, self.items, n, _STREAMS)
        began = starts(self.items - self.reference, n, every=EVERY, even=EVEN)
        wealth, counts, highest = [], [], self.evidence
        for stream, before in enumerate((self.confidence, self.labels)):
            p, after = ranked(np.array(before, dtype=np.int64), cells[stream], draws[:, stream])
            made = staked(np.array(self.wealth[stream]), _BETS[np.minimum((p * BINS).astype(np.intp), BINS - 1)], began)
            # each stream has a half of what may be risked: their p-values are not independent of each other
            highest = max(highest, float(mean(made).max()) - float(np.log(_STREAMS)))
            wealth.append(tuple(made[-1].tolist()))
            counts.append(tuple(after.tolist()))
        return replace(
            self,
            items=self.items + n,
            confidence=counts[0],
            labels=counts[1],
            wealth=tuple(wealth),
            evidence=highest,
        )

    def _check(self, sure: Floats, said: Cells) -> None:
        if sure.ndim != 1 or sure.shape != said.shape:
            raise ValueError(
                f"expected one confidence and one label for each item, found {sure.shape} and {said.shape}"
            )
        if len(sure) and not (sure.min() >= 0 and sure.max() <= 1 + 1e-6):
            raise ValueError(f"confidences must lie in [0, 1], found {sure.min()} to {sure.max()}")
        if len(said) and not (said.min() >= 0 and said.max() < len(self.labels)):
            raise ValueError(f"labels must be indices below {len(self.labels)}, found {said.min()} to {said.max()}")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScoreGuard:
        """The guard that `to_json` wrote.

        Raises:
            ValueError: another version wrote it; start a new one.
        """
        shape = (len(stored.get("confidence", ())), [len(row) for row in stored.get("wealth", ())])
        if set(stored) != set(cls.__slots__) or shape != (CONFIDENCE_CELLS, [_BETS.shape[1]] * _STREAMS):
            raise ValueError("this is no state of this version's guard: start a new one")
        return cls(
            **{
                **stored,
                "confidence": tuple(stored["confidence"]),
                "labels": tuple(stored["labels"]),
                "wealth": tuple(map(tuple, stored["wealth"])),
            }
        )
