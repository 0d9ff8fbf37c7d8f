"""δ over a whole life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.certificate import Ledger, lifetime_share
from datashunt.errors import CertificateError


@given(st.integers(0, 5_000), st.floats(0.001, 0.5))
def test_the_parts_so_far_are_what_the_ledger_says_and_never_delta(renewals: int, delta: float) -> None:
    spent = delta * sum(lifetime_share(i) for i in range(1, renewals + 1))
    assert Ledger(delta, renewals).spent == pytest.approx(spent)
    assert Ledger(delta, renewals).spent < delta


def test_the_parts_of_all_renewals_are_one_in_all() -> None:
    assert sum(lifetime_share(i) for i in range(1, 100_000)) == pytest.approx(1.0, abs=2e-4)


def test_the_first_part_is_a_tenth_and_the_twentieth_a_hundredth() -> None:
    assert lifetime_share(1) == pytest.approx(1 / 11)
    assert lifetime_share(20) == pytest.approx(10 / (29 * 30))


def test_each_renewal_spends_the_next_part() -> None:
    ledger = Ledger(0.2)
    for renewal in range(1, 6):
        assert ledger.next == pytest.approx(0.2 * lifetime_share(renewal))
        spent = ledger.spent
        ledger, before = ledger.spend(), ledger
        assert ledger == Ledger(0.2, renewal)
        assert ledger.spent == pytest.approx(spent + before.next)


def test_a_new_ledger_has_spent_nothing() -> None:
    assert Ledger(0.1).spent == 0.0


def test_ledgers_that_cannot_be_are_refused() -> None:
    for delta in (0.0, 1.0):
        with pytest.raises(CertificateError, match="delta must lie inside"):
            Ledger(delta)
    with pytest.raises(CertificateError, match="counts 0 renewals or more, found -1"):
        Ledger(0.1, -1)
    with pytest.raises(CertificateError, match="counted from 1, found 0"):
        lifetime_share(0)
