"""A short, seeded part of the fault campaign; `make chaos` runs the whole of it."""

from __future__ import annotations

import pytest

from datashunt.embedded import wheels
from datashunt.errors import EmbeddedError
from tests.acceptance.faults.campaign import Orders, run
from tests.conftest import unavailable


@pytest.mark.timeout(900)
def test_whatever_breaks_nothing_is_lost_doubled_or_paid_twice() -> None:
    try:
        wheels.postgres_programs(), wheels.valkey_server()
    except EmbeddedError as error:
        unavailable(f"no servers for the campaign: {error}")
    report = run(Orders(seed=5, faults=14, items=300, minutes=1.6))
    assert report.violations == [], "\n".join(report.lines())
    assert report.done.total() >= 5, "a busy machine comes to fewer than the 14 asked for"
    assert report.figures["items"] == 300
