"""A target, with real workers: everything is asked until a threshold is proven, then kept; another prompt ends it."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from tests.acceptance.conftest import System, plain_items, until

TARGET = {"mode": "target", "alpha": 0.2, "delta": 0.5, "audit_rate": 0.2}
SOON = {"DATASHUNT_CERTIFY_EVERY_S": "1", "DATASHUNT_TICK_EVERY_S": "1"}


@pytest.mark.timeout(700)
def test_nothing_is_kept_before_it_is_proven_and_much_afterwards(system: System) -> None:
    fields = {
        "policy": TARGET,
        "distil": {"every_s": 0.5, "min_new_answers": 450, "max_answers": 150},
        "small_model": {"max_tokens": 16},
    }
    system.apply(**fields)
    for lane in ("score", "llm", "distil"):
        system.start(lane, **SOON)
    system.client.submit("tone", plain_items(600))
    until(lambda: system.rows("SELECT 1 FROM trials") != [], "a bundle on trial", timeout_s=300)
    assert system.one("SELECT count(*) FROM items WHERE source = 'small'") == 0
    system.client.submit("tone", plain_items(550, start=600))
    proof = "SELECT 1 FROM certificates WHERE trial_id IS NOT NULL"
    until(lambda: system.rows(proof) != [], "a certificate", timeout_s=200)
    until(lambda: system.done() == 1_150, "what was submitted before it")
    proven = system.rows("SELECT n, k, alpha, delta FROM certificates ORDER BY id LIMIT 1")[0]
    assert (proven.alpha, proven.delta) == (TARGET["alpha"], TARGET["delta"])
    assert binom.cdf(proven.k, proven.n, proven.alpha) <= proven.delta  # one look alone would prove as much
    until(lambda: _kept_any(system), "a running worker to keep what is proven")
    system.apply(**fields, instruction="Tell the tone in other words.")
    assert system.one("SELECT count(*) FROM certificates WHERE revoked_at IS NULL") == 0
    assert system.one("SELECT ended_why FROM trials ORDER BY id LIMIT 1") is not None


def _kept_any(system: System) -> bool:
    """Submit a few more texts; whether the small model kept any."""
    start = 10_000 + int(system.one("SELECT count(*) FROM items"))
    system.client.submit("tone", plain_items(10, start=start))
    until(lambda: system.one("SELECT count(*) FROM items WHERE state <> 'done'") == 0, "them")
    return bool(system.one("SELECT count(*) FROM items WHERE source = 'small'"))
