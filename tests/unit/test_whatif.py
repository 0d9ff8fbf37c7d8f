"""Past traffic at other thresholds: what is kept, asked, paid and expected to differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datashunt import whatif
from datashunt.certificate import Answers, Certificate, NotYet
from datashunt.errors import CertificateError, UsageError
from datashunt.whatif import Point, Scope, Traffic, affordable, at, certified, curve, table


def traffic(n: int = 1_000, audits: int = 400, *, wrong_below: float = 0.5, **changes: object) -> Traffic:
    """Confidences spread evenly over [0, 1); each audit below `wrong_below` differs, the others agree."""
    confidence = np.arange(n) / n
    sure = np.arange(audits) / max(audits, 1)
    truth = np.where(sure < wrong_below, 1, 0)
    known = {
        "confidence": confidence,
        "days": 2.0,
        "audits": Answers(sure, np.zeros(audits, dtype=np.intp), truth),
        "judges": np.arange(audits) % 2 == 1,
        "audit_rate": 0.1,
        "calls_per_ask": 1.5,
        "usd_per_call": 0.002,
    }
    return Traffic(**{**known, **changes})  # type: ignore[arg-type]


class TestPoint:
    def test_audits_of_kept_items_are_paid_too(self) -> None:
        point = at(traffic(), 0.8)
        assert point.kept == pytest.approx(0.2)
        assert point.calls == pytest.approx((0.8 + 0.2 * 0.1) * 500 * 1.5)
        assert point.usd == pytest.approx(point.calls * 0.002)

    def test_the_disagreement_is_of_the_kept_or_of_all(self) -> None:
        of_kept, of_all = (at(traffic(), 0.25, scope) for scope in Scope)
        assert (of_kept.differ, of_kept.audited) == (100, 300)
        assert (of_all.differ, of_all.audited) == (100, 400)
        assert of_kept.low < of_kept.disagreement < of_kept.high
        assert of_all.disagreement == 0.25

    def test_the_interval_is_the_exact_one(self) -> None:
        point = at(traffic(audits=10, wrong_below=0.0), 0.0)
        assert (point.low, point.high) == pytest.approx((0.0, 1 - 0.025**0.1))

    def test_what_nobody_audited_is_unknown(self) -> None:
        point = at(traffic(), math.inf)
        assert (point.kept, point.audited, point.low, point.high) == (0.0, 0, 0.0, 1.0)
        assert math.isnan(point.disagreement)
        assert point.to_json()["disagreement"] is None
        assert point.to_json()["threshold"] is None
        assert point.to_json()["kept"] == 0.0

    def test_the_table_has_the_usual_thresholds_and_those_asked_for(self) -> None:
        found = [point.threshold for point in table(traffic(), [0.9, 0.777])]
        assert found == sorted({*whatif.SHOWN, 0.777})

    def test_the_curve_falls_from_the_strictest_threshold_to_all(self) -> None:
        found = curve(traffic())
        assert len(found) == whatif.POINTS
        assert [point.kept for point in found] == sorted(point.kept for point in found)
        assert found[-1].kept == 1.0
        assert len(curve(traffic(confidence=np.full(5, 0.5)))) == 1


class TestCertified:
    def test_it_is_where_the_judge_answers_prove_the_target(self) -> None:
        found = certified(traffic(audits=2_000), 0.1, 0.1)
        assert isinstance(found, Certificate)
        assert 0.4 < found.threshold < 0.6

    def test_of_all_counts_what_is_asked_as_right(self) -> None:
        of_kept, of_all = (certified(traffic(audits=2_000), 0.1, 0.1, scope) for scope in Scope)
        assert isinstance(of_kept, Certificate)
        assert isinstance(of_all, Certificate)
        assert of_all.threshold < of_kept.threshold

    def test_too_few_answers_say_how_many_are_missing(self) -> None:
        found = certified(traffic(audits=40), 0.01, 0.1)
        assert isinstance(found, NotYet)
        assert found.missing > 0

    def test_without_fit_or_judge_answers_it_says_so(self) -> None:
        with pytest.raises(UsageError, match=r"400 fit and 0 judge answers.*at least one and 45 of them"):
            certified(traffic(judges=np.zeros(400, dtype=bool)), 0.05, 0.1)

    @pytest.mark.parametrize(("alpha", "delta", "name"), [(0.0, 0.1, "alpha"), (1.5, 0.1, "alpha"), (0.1, 2, "delta")])
    def test_impossible_targets_are_refused(self, alpha: float, delta: float, name: str) -> None:
        with pytest.raises(CertificateError, match=rf"{name} must lie inside \(0, 1\)"):
            certified(traffic(), alpha, delta)


class TestAffordable:
    @pytest.mark.parametrize("calls", [75.0, 100.0, 333.3, 700.0, 740.0])
    def test_the_budget_is_spent_and_not_overspent(self, calls: float) -> None:
        past = traffic()
        threshold = affordable(past, calls)
        assert at(past, threshold).calls <= calls + 1e-6
        more = float(past.confidence[np.searchsorted(past.confidence, threshold, side="right")])
        assert at(past, more).calls > calls - 1e-6

    def test_a_budget_for_all_keeps_nothing(self) -> None:
        assert affordable(traffic(), 750.0) == math.inf

    def test_a_budget_that_the_audits_alone_exceed_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"10\.0 calls a day, and auditing 10\.0% of 500 items a day takes 75\.0"):
            affordable(traffic(), 10.0)

    def test_equal_confidences_are_not_split(self) -> None:
        past = traffic(confidence=np.sort(np.repeat([0.2, 0.8], 500)))
        assert affordable(past, 300.0) == 0.2
        assert at(past, 0.2).kept == 1.0


def test_a_point_is_a_plain_row() -> None:
    point = Point(0.9, 0.5, 10.0, 0.1, 20, 1, 0.0, 0.2)
    assert point.to_json() == {
        "threshold": 0.9,
        "kept": 0.5,
        "calls": 10.0,
        "usd": 0.1,
        "audited": 20,
        "differ": 1,
        "low": 0.0,
        "high": 0.2,
        "disagreement": 0.05,
    }
