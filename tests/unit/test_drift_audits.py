"""The drift guard with labels, and the ladder that both guards climb."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.drift import FALSE_ALARM, SUSPENSION, AuditGuard, EventKind, Evidence, Rung, climb, raised

ALARM, BEYOND = -math.log(FALSE_ALARM), -math.log(SUSPENSION)
ALPHA = 0.05


def audits(rate: float, n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < rate


class TestAuditGuard:
    def test_it_is_quiet_at_the_very_rate_that_is_allowed(self) -> None:
        """One life in a hundred may have an alarm: twelve or more of four hundred have a chance of 0.1 %."""
        lives = [AuditGuard.start(ALPHA).update(audits(ALPHA, 500, seed)) for seed in range(400)]
        assert sum(life.evidence >= ALARM for life in lives) <= 11

    def test_a_bet_wins_nothing_in_the_mean_at_the_allowed_rate(self) -> None:
        agreed, missed = (np.exp(AuditGuard.start(ALPHA).update([x], [0.5]).below) for x in (0, 1))
        assert (1 - ALPHA) * agreed + ALPHA * missed == pytest.approx(np.ones(len(agreed)))

    def test_a_rate_above_is_found_though_it_was_below_for_long(self) -> None:
        calm = AuditGuard.start(ALPHA).update(audits(0.02, 2_000))
        assert calm.evidence < ALARM
        assert calm.update(audits(0.2, 150)).evidence >= ALARM

    def test_items_that_are_audited_more_often_count_less(self) -> None:
        missed = audits(0.2, 100)
        whole, half = (AuditGuard.start(ALPHA).update(missed, weight).evidence for weight in (1.0, 0.5))
        assert 0 < half < whole

    def test_the_way_back_begins_at_the_alarm(self) -> None:
        found = AuditGuard.start(ALPHA).update(audits(0.0, 300))
        assert found.calm >= ALARM
        again = found.anew()
        assert again.calm == 0.0
        assert again.evidence == found.evidence
        assert again.update(audits(0.0, 20)).calm < ALARM
        assert again.update(audits(0.0, 300)).calm == pytest.approx(found.calm)
        assert AuditGuard.start(ALPHA).update(audits(0.1, 500)).calm < ALARM

    @given(st.lists(st.integers(0, 80), max_size=6))
    def test_how_audits_are_cut_makes_no_difference(self, sizes: list[int]) -> None:
        missed, weights = audits(0.1, 200), np.linspace(0.2, 1.0, 200)
        whole = AuditGuard.start(ALPHA).update(missed, weights)
        parts, begin = AuditGuard.start(ALPHA), 0
        for size in [*sizes, 200]:
            parts = parts.update(missed[begin : begin + size], weights[begin : begin + size])
            begin += size
        assert (parts.audits, parts.misses) == (whole.audits, whole.misses) == (200, int(missed.sum()))
        assert (parts.evidence, parts.calm) == pytest.approx((whole.evidence, whole.calm))

    def test_it_survives_a_database(self) -> None:
        seen = AuditGuard.start(ALPHA).update(audits(0.1, 50))
        assert AuditGuard.from_json(json.loads(json.dumps(seen.to_json(), allow_nan=False))) == seen
        with pytest.raises(ValueError, match="start a new one"):
            AuditGuard.from_json({**seen.to_json(), "wealth": [0.0]})

    def test_what_cannot_be_is_refused(self) -> None:
        for allowed in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match="allowed share must lie inside"):
                AuditGuard.start(allowed)
        for weight in (0.0, 1.5, math.nan):
            with pytest.raises(ValueError, match="weights must lie in"):
                AuditGuard.start(ALPHA).update([True], weight)


def kinds(rung: Rung, **evidence: float) -> tuple[Rung, list[EventKind]]:
    step = climb(rung, Evidence(**evidence))
    return step.rung, [event.kind for event in step.events]


class TestLadder:
    def test_nothing_happens_without_evidence(self) -> None:
        assert kinds(Rung.CALM, scores=ALARM - 0.01, audits=ALARM - 0.01, calm=99.0) == (Rung.CALM, [])

    def test_the_first_alarm_of_the_scores_raises_the_audit_rate(self) -> None:
        assert kinds(Rung.CALM, scores=ALARM) == (Rung.WATCHING, [EventKind.RAISED])
        assert kinds(Rung.WATCHING, scores=ALARM) == (Rung.WATCHING, [])

    def test_scores_beyond_doubt_suspend_and_ask_for_a_distillation(self) -> None:
        assert kinds(Rung.WATCHING, scores=BEYOND) == (Rung.SUSPENDED, [EventKind.SUSPENDED, EventKind.DISTIL])

    def test_where_the_audits_decide_scores_only_raise_the_rate(self) -> None:
        certain = Evidence(scores=1_000.0)
        assert climb(Rung.CALM, certain, scores_suspend=False).rung is Rung.WATCHING
        assert climb(Rung.WATCHING, certain, scores_suspend=False).rung is Rung.WATCHING
        told = climb(Rung.WATCHING, Evidence(scores=1_000.0, audits=ALARM), scores_suspend=False)
        assert (told.rung, told.events[-1].kind) == (Rung.SUSPENDED, EventKind.DISTIL)

    def test_audits_suspend_from_either_rung(self) -> None:
        ending = [EventKind.SUSPENDED, EventKind.DISTIL]
        assert kinds(Rung.CALM, audits=ALARM) == (Rung.SUSPENDED, [EventKind.RAISED, *ending])
        assert kinds(Rung.WATCHING, scores=ALARM, audits=ALARM, calm=ALARM) == (Rung.SUSPENDED, ending)

    def test_audits_that_agree_lead_back(self) -> None:
        assert kinds(Rung.WATCHING, scores=BEYOND, calm=ALARM) == (Rung.CALM, [EventKind.CALMED])

    def test_a_suspended_certificate_is_not_made_good_by_audits(self) -> None:
        assert kinds(Rung.SUSPENDED, scores=BEYOND, audits=BEYOND, calm=99.0) == (Rung.SUSPENDED, [])

    def test_an_event_says_why_and_what_is_done(self) -> None:
        (event,) = climb(Rung.CALM, Evidence(scores=ALARM + math.log(10))).events
        assert event.text == (
            "confidences or predicted labels are no longer distributed as they were (evidence of 10^3.0 to 1, at least"
            " 10^2 is needed): 4 times as much is audited"
        )
        first = climb(Rung.CALM, Evidence(audits=ALARM)).events[1]
        assert first.text.startswith("more of the kept items disagree with the LLM than is allowed")

    def test_the_raised_rate_is_a_rate(self) -> None:
        assert raised(0.05) == 0.2
        assert raised(0.5) == 1.0
