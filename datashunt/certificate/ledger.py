"""δ over the whole life of a classifier: each certificate spends a part, all parts together are at most δ. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from datashunt.certificate.bounds import inside
from datashunt.errors import CertificateError

EVEN = 10
"""About so many renewals share δ nearly evenly; later ones get 1 / i²."""


def lifetime_share(renewal: int) -> float:
    """The part of δ that the i-th certificate of a classifier may spend: h / ((h + i - 1) (h + i)), h = 10.

    This is h / (h + i - 1) - h / (h + i), so that the first m parts sum to 1 - h / (h + m), and all to 1. The first
    part is 9 %, the 20th 1.1 %, the 50th 0.3 %; with 6 / (π² i²) these are 61 %, 0.15 % and 0.02 %.

    Args:
        renewal: i, from 1.

    Raises:
        CertificateError: renewal is below 1.
    """
    if renewal < 1:
        raise CertificateError(f"renewals are counted from 1, found {renewal}")
    return EVEN / ((EVEN + renewal - 1) * (EVEN + renewal))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a classifier may still spend.

    Attributes:
        delta: chance in (0, 1) that any of its certificates is ever wrong.
        renewals: certificates that were tried so far, granted or not.
    """

    delta: float
    renewals: int = 0

    def __post_init__(self) -> None:
        inside(self.delta, "delta")
        if self.renewals < 0:
            raise CertificateError(f"a ledger counts 0 renewals or more, found {self.renewals}")

    @property
    def next(self) -> float:
        """δ of the next certificate."""
        return self.delta * lifetime_share(self.renewals + 1)

    @property
    def spent(self) -> float:
        """δ of all certificates so far."""
        return self.delta * self.renewals / (EVEN + self.renewals)

    def spend(self) -> Ledger:
        """The ledger after the next certificate. Once a bundle: looking again at the same one by betting is free."""
        return replace(self, renewals=self.renewals + 1)
