"""What the LLM said of audited items, beside what the small model said. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt.errors import CertificateError

LEAST_PROPENSITY = 0.005
"""The rarest audit that still counts: below it, one answer would stand for more than two hundred items."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Reference answers about n audited items, in the order in which they came.

    Attributes:
        confidence: (n,) of the small model, in [0, 1].
        said: (n,) index of the small model's label.
        truth: (n,) index of the LLM's label; -1 for an audit without an answer, which agrees with nothing.
        propensity: (n,) in [0.005, 1], the chance with which each item was to be audited, or None: all the same.
        reach: (n,) the largest cut of pruned prompts at which the LLM's label is offered; -inf: it gave none. None: no
            prompt is pruned.
    """

    confidence: NDArray[np.floating]
    said: NDArray[np.integer]
    truth: NDArray[np.integer]
    propensity: NDArray[np.floating] | None = None
    reach: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            CertificateError: lengths differ, a confidence is outside [0, 1], or a propensity outside [0.005, 1].
        """
        shape = self.confidence.shape
        if len(shape) != 1 or any(one.shape != shape for one in (self.said, self.truth)):
            raise CertificateError(
                f"expected one confidence, one label and one answer for each item, found shapes {shape},"
                f" {self.said.shape} and {self.truth.shape}"
            )
        wrong = np.flatnonzero(~((self.confidence >= 0) & (self.confidence <= 1 + 1e-6)))
        if wrong.size:
            raise CertificateError(
                f"a confidence must lie in [0, 1], that of item {wrong[0]} is {self.confidence[wrong[0]]}"
            )
        if self.reach is not None and self.reach.shape != shape:
            raise CertificateError(f"expected {shape[0]} reaches, found shape {self.reach.shape}")
        if self.propensity is None:
            return
        if self.propensity.shape != shape:
            raise CertificateError(f"expected {shape[0]} propensities, found shape {self.propensity.shape}")
        rare = np.flatnonzero(~((self.propensity >= LEAST_PROPENSITY) & (self.propensity <= 1)))
        if rare.size:
            raise CertificateError(
                f"a propensity must lie in [{LEAST_PROPENSITY}, 1], that of item {rare[0]} is"
                f" {self.propensity[rare[0]]}: raise the audit rate"
            )

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def one_rate(self) -> bool:
        """Whether all items had the same chance to be audited."""
        return self.propensity is None or bool((self.propensity == self.propensity[:1]).all())

    def kept(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n, t): which items would be kept at each threshold, compared as `shunt.decide` does."""
        return self.confidence.astype(np.float64)[:, None] >= thresholds
