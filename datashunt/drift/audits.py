"""The guard with labels: whether more of the kept items disagree with the LLM than was promised. Pure.

Of kept items audited at random, x = 1 where the LLM disagrees. Against "each x is 1 with chance ≤ α" the bet is

    L = 1 + s w (x − α),   s = (β − α) / (α (1 − α))

which for w = 1 is the likelihood ratio of a rate β > α; and the other way round, β < α, against "≥ α": the way back.
Source: Waudby-Smith, Ramdas, *Estimating means of bounded random variables by betting* (arXiv 2010.09686), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datashunt.drift.bets import NOTHING, mean, staked, starts

ODDS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Odds of β over those of α, one bet for each; and the same divided, for the way back."""

EVERY, EVEN = 5, 50
"""A change may begin at each fifth audit; the first 250 audits are about as likely as each other."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AuditGuard:
    """What the audits of the kept items have shown. Plain numbers; a new one for each update.

    Attributes:
        allowed: α, in (0, 1).
        audits, misses: kept and audited items so far, and those of them that disagree.
        wealth: (b,) logarithms of what each bet has made on a rate above α, from any audit on.
        evidence: the most that there ever was for a rate above α, in nats: ≥ ln(1 / δ) with probability ≤ δ over a
            life in which it never is. 0 stands for none.
        below: (b,) logarithms of what each bet has made on a rate below α since the last `anew`.
        calm: the most that there was since then for a rate below α, in the same terms.
    """

    allowed: float
    audits: int
    misses: int
    wealth: tuple[float, ...]
    evidence: float
    below: tuple[float, ...]
    calm: float

    @classmethod
    def start(cls, allowed: float) -> AuditGuard:
        """A guard that has seen nothing.

        Args:
            allowed: the certificate's α.

        Raises:
            ValueError: allowed is outside (0, 1).
        """
        if not 0 < allowed < 1:
            raise ValueError(f"the allowed share must lie inside (0, 1), found {allowed}")
        return cls(allowed, 0, 0, (NOTHING,) * len(ODDS), 0.0, (0.0,) * len(ODDS), 0.0)

    def update(self, missed: ArrayLike, weight: ArrayLike = 1.0) -> AuditGuard:
        """The guard after these audits. How they are cut into updates makes no difference.

        Args:
            missed: (n,) whether the LLM disagrees, of kept items in the order in which they came; an audit without an
                answer disagrees.
            weight: (n,) in (0, 1], or one for all: the least propensity that any item had at that time, over that of
                this one. 1 where all items have one rate, even if it was raised meanwhile.

        Raises:
            ValueError: a weight is outside (0, 1].
        """
        x = np.asarray(missed, dtype=np.float64)
        w = np.broadcast_to(np.asarray(weight, dtype=np.float64), x.shape)
        if not len(x):
            return self
        if not (w.min() > 0 and w.max() <= 1):
            raise ValueError(f"weights must lie in (0, 1], found {w.min()} to {w.max()}")
        edge = w * (x - self.allowed)
        odds = np.array(ODDS)
        above = staked(
            np.array(self.wealth),
            np.log1p(edge[:, None] * self._stakes(odds)),
            starts(self.audits, len(x), every=EVERY, even=EVEN),
        )
        below = np.array(self.below) + np.log1p(edge[:, None] * self._stakes(1.0 / odds)).cumsum(axis=0)
        return replace(
            self,
            audits=self.audits + len(x),
            misses=self.misses + int(x.sum()),
            wealth=tuple(above[-1].tolist()),
            evidence=max(self.evidence, float(mean(above).max())),
            below=tuple(below[-1].tolist()),
            calm=max(self.calm, float(mean(below).max())),
        )

    def anew(self) -> AuditGuard:
        """The same guard, for which the way back begins now: from an alarm on only later audits speak of calm."""
        return replace(self, below=(0.0,) * len(ODDS), calm=0.0)

    def _stakes(self, odds: Floats) -> Floats:
        rate = odds * self.allowed / (1.0 - self.allowed + odds * self.allowed)
        return np.asarray((rate - self.allowed) / (self.allowed * (1.0 - self.allowed)))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> AuditGuard:
        """The guard that `to_json` wrote.

        Raises:
            ValueError: another version wrote it; start a new one.
        """
        shape = [len(stored.get(name, ())) for name in ("wealth", "below")]
        if set(stored) != set(cls.__slots__) or shape != [len(ODDS)] * 2:
            raise ValueError("this is no state of this version's guard: start a new one")
        return cls(**{**stored, "wealth": tuple(stored["wealth"]), "below": tuple(stored["below"])})
