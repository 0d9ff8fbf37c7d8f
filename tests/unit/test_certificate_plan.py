"""How many audits are worth their calls, for a stream and for a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from datashunt.certificate import (
    Plan,
    batch_misses,
    batch_rate,
    batch_threshold,
    most_misses,
    plan_audits,
    plan_batch,
)
from datashunt.certificate.plan import Risk
from datashunt.errors import CertificateError

CURVE = np.random.default_rng(1)
CONFIDENCE = CURVE.uniform(0.3, 1.0, 4_000)
WRONG = CURVE.random(4_000) < 0.9 * (1.0 - CONFIDENCE)


def drawn(rng: np.random.Generator, items: int) -> tuple[np.ndarray, np.ndarray]:
    confidence = rng.uniform(0.3, 1.0, items)
    return confidence, rng.random(items) < 0.9 * (1.0 - confidence)


class TestRisk:
    RISK = Risk.of(np.array([0.2, 0.9, 0.6, 0.5]), np.array([True, False, True, False]))

    def test_grows_from_the_surest_item_on(self) -> None:
        assert self.RISK.at.tolist() == [0.0, 0.25, 0.25, 0.5]

    def test_takes_equal_confidences_as_they_came(self) -> None:
        rng = np.random.default_rng(2)
        confidence, wrong = rng.choice([0.4, 0.6, 0.8], 300), rng.random(300) < 0.5
        expected = wrong[sorted(range(300), key=lambda item: -confidence[item])].cumsum() / 300
        assert Risk.of(confidence, wrong).at.tolist() == expected.tolist()

    def test_tells_how_much_can_be_kept(self) -> None:
        assert [self.RISK.kept(risk) for risk in (0.0, 0.2, 0.25, 0.49, 0.5, 1.0)] == [0.25, 0.25, 0.75, 0.75, 1, 1]

    def test_needs_answers(self) -> None:
        with pytest.raises(
            CertificateError, match=r"^a plan needs answers, and there is none: wait for the first fit answers$"
        ):
            Risk.of(np.empty(0), np.empty(0, dtype=bool))


class TestAStream:
    def test_plan_is_the_cheapest_of_those_around_it(self) -> None:
        items = 10_000
        plan = plan_audits(CONFIDENCE, WRONG, items=items, alpha=0.05, delta=0.1)
        risk = Risk.of(CONFIDENCE, WRONG)

        def asked(n: int) -> float:
            return 1 - risk.kept((int(most_misses(n, 0.05, 0.1)) + 0.5) / n) * (1 - n / items)

        n = round(plan.rate * items)
        assert plan.asked == pytest.approx(asked(n))
        assert plan.asked < min(asked(n // 4), asked(4 * n))
        assert 0 < plan.rate < 0.3

    def test_more_items_are_worth_more_audits_at_a_lower_rate(self) -> None:
        few, many = (plan_audits(CONFIDENCE, WRONG, items=n, alpha=0.05, delta=0.1) for n in (3_000, 300_000))
        assert few.rate > many.rate
        assert 3_000 * few.rate < 300_000 * many.rate
        assert few.asked > many.asked

    def test_too_few_items_are_all_asked(self) -> None:
        assert plan_audits(CONFIDENCE, WRONG, items=20, alpha=0.05, delta=0.1) == Plan(1.0, 1.0)

    def test_one_audit_may_be_enough(self) -> None:
        sure = Risk.of(CONFIDENCE[:4], np.array([True, False, False, False]))
        assert sure.kept(0.5) == 1.0
        plan = plan_audits(CONFIDENCE[:4], np.array([True, False, False, False]), items=500, alpha=0.9, delta=0.5)
        assert plan == Plan(1 / 500, pytest.approx(1 / 500))

    def test_all_but_one_may_be_audited(self) -> None:
        plan = plan_audits(CONFIDENCE[:4], np.zeros(4, dtype=bool), items=3, alpha=0.5, delta=0.25)
        assert plan == Plan(2 / 3, pytest.approx(2 / 3))

    def test_of_one_item_is_to_ask_it(self) -> None:
        assert plan_audits(CONFIDENCE, WRONG, items=1, alpha=0.05, delta=0.1) == Plan(1.0, 1.0)

    @pytest.mark.parametrize("items", [700, 4_000, 25_000])
    def test_is_the_cheapest_of_eighty_numbers_of_audits(self, items: int) -> None:
        risk = Risk.of(CONFIDENCE, WRONG)
        numbers = sorted({int(n) for n in np.geomspace(1, items, 80)} - {items})
        costs = [
            1 - risk.kept((most + 0.5) / n) * (1 - n / items)
            for n in numbers
            if (most := int(most_misses(n, 0.05, 0.1))) >= 0
        ]
        plan = plan_audits(CONFIDENCE, WRONG, items=items, alpha=0.05, delta=0.1)
        assert plan.asked == pytest.approx(min(costs))
        assert round(plan.rate * items) in numbers

    def test_without_a_miss_to_spare_something_is_kept(self) -> None:
        plan = plan_audits(CONFIDENCE, WRONG, items=60, alpha=0.05, delta=0.1)
        assert 45 / 60 <= plan.rate < 50 / 60
        assert plan.asked < 1.0

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"alpha": 0.0}, "^alpha must lie inside"),
            ({"delta": 1.0}, "^delta must lie inside"),
            ({"items": 0}, "^a certificate serves one item or more, found 0$"),
        ],
    )
    def test_what_cannot_be_planned_is_said(self, change: dict[str, float], said: str) -> None:
        with pytest.raises(CertificateError, match=said):
            plan_audits(CONFIDENCE, WRONG, **{"items": 100, "alpha": 0.05, "delta": 0.1, **change})  # type: ignore[arg-type]


class TestABatch:
    @settings(deadline=None)
    @given(st.integers(0, 60), st.integers(50, 20_000), st.floats(0.005, 0.2), st.floats(0.001, 0.3))
    def test_is_broken_with_probability_delta_at_the_rate_for_so_many_misses(
        self, misses: int, items: int, alpha: float, delta: float
    ) -> None:
        rate = batch_rate(misses, items=items, alpha=alpha, delta=delta)
        worst = math.floor(alpha * items) + 1 + misses
        assert binom.cdf(misses, worst, rate) == pytest.approx(delta, rel=1e-6)

    @settings(deadline=None, max_examples=40)
    @given(st.integers(50, 3_000), st.floats(0.02, 0.5), st.floats(0.01, 0.2), st.floats(0.001, 0.3))
    def test_allows_the_most_misses_that_a_rate_affords(
        self, items: int, rate: float, alpha: float, delta: float
    ) -> None:
        most = batch_misses(items=items, rate=rate, alpha=alpha, delta=delta)

        def broken(misses: int) -> float:
            return float(binom.cdf(misses, math.floor(alpha * items) + 1 + misses, rate))

        assert most == -1 or broken(most) <= delta * (1 + 1e-8)
        assert most == items or broken(most + 1) > delta

    def test_rate_and_misses_belong_together(self) -> None:
        rate = batch_rate(9, items=2_000, alpha=0.05, delta=0.1)
        assert batch_misses(items=2_000, rate=rate, alpha=0.05, delta=0.1) == 9

    def test_may_be_of_one_item(self) -> None:
        """Kept, it breaks the promise unless it is audited."""
        assert batch_rate(0, items=1, alpha=0.5, delta=0.1) == pytest.approx(0.9)
        assert batch_misses(items=1, rate=0.9, alpha=0.5, delta=0.1) == 0

    def test_that_is_nearly_all_audited_may_miss_everywhere(self) -> None:
        assert batch_misses(items=3, rate=0.999, alpha=0.9, delta=0.1) == 3

    def test_stops_before_one_more_audited_item_disagrees(self) -> None:
        confidence = np.array([0.5, 0.9, 0.7, 0.8, 0.6])
        wrong = np.array([True, False, True, True, False])
        for misses, kept in ((0, [0.9]), (1, [0.9, 0.8]), (2, [0.9, 0.8, 0.7, 0.6]), (3, sorted(confidence)[::-1])):
            threshold = batch_threshold(confidence, wrong, misses)
            assert sorted(confidence[confidence >= threshold])[::-1] == kept
        assert batch_threshold(confidence, wrong, 3) == 0.0
        assert batch_threshold(confidence, wrong, -1) == math.inf

    def test_of_equal_confidences_keeps_none_if_one_is_too_many(self) -> None:
        confidence, wrong = np.full(3, 0.9, dtype=np.float32), np.array([True, True, False])
        assert not (confidence.astype(np.float64) >= batch_threshold(confidence, wrong, 1)).any()

    @pytest.mark.parametrize("drift", [False, True])
    def test_keeps_its_promise_about_these_very_items_whatever_they_are(self, drift: bool) -> None:
        rng = np.random.default_rng(11)
        items, alpha, misses = 1_000, 0.05, 6
        confidence, wrong = drawn(rng, items)
        if drift:  # all errors at one end, surest first
            confidence, wrong = np.arange(items) / items, np.arange(items) >= 800
        rate = batch_rate(misses, items=items, alpha=alpha, delta=0.1)
        runs, broken = 4_000, 0
        for _ in range(runs):
            audited = rng.random(items) < rate
            kept = confidence >= batch_threshold(confidence[audited], wrong[audited], misses)
            broken += (kept & ~audited & wrong).sum() > alpha * items
        assert 0.08 <= broken / runs <= 0.1 + 3 * (0.09 / runs) ** 0.5

    def test_plan_is_the_cheapest_of_those_around_it(self) -> None:
        plan = plan_batch(CONFIDENCE, WRONG, items=8_000, alpha=0.05, delta=0.1)
        risk = Risk.of(CONFIDENCE, WRONG)

        def asked(misses: int) -> float:
            rate = batch_rate(misses, items=8_000, alpha=0.05, delta=0.1)
            return 1 - risk.kept((misses + 1) / rate / 8_000) * (1 - rate)

        assert plan.rate == batch_rate(plan.misses, items=8_000, alpha=0.05, delta=0.1)
        assert plan.asked == pytest.approx(asked(plan.misses))
        assert plan.asked == pytest.approx(min(asked(misses) for misses in range(200)))

    def test_plan_comes_true(self) -> None:
        rng = np.random.default_rng(12)
        plan = plan_batch(CONFIDENCE, WRONG, items=8_000, alpha=0.05, delta=0.1)
        asked = []
        for _ in range(30):
            confidence, wrong = drawn(rng, 8_000)
            audited = rng.random(8_000) < plan.rate
            asked.append(
                (audited | (confidence < batch_threshold(confidence[audited], wrong[audited], plan.misses))).mean()
            )
        assert np.mean(asked) == pytest.approx(plan.asked, abs=0.03)

    def test_too_small_to_pay_is_nearly_all_asked(self) -> None:
        plan = plan_batch(CONFIDENCE, WRONG, items=20, alpha=0.01, delta=0.1)
        assert plan.rate == pytest.approx(0.9)  # of the first disagreement: so it is audited but with probability δ
        assert plan.misses == 0

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda: batch_rate(-1, items=10, alpha=0.1, delta=0.1), "^expected 0 misses or more, found -1$"),
            (lambda: batch_rate(0, items=0, alpha=0.1, delta=0.1), "^a batch has one item or more, found 0$"),
            (lambda: batch_rate(0, items=10, alpha=1.0, delta=0.1), "^alpha must lie inside"),
            (lambda: batch_rate(0, items=10, alpha=0.1, delta=0.0), "^delta must lie inside"),
            (lambda: batch_misses(items=10, rate=1.0, alpha=0.1, delta=0.1), "^the audit rate must lie inside"),
            (lambda: batch_misses(items=10, rate=0.1, alpha=0.1, delta=1.0), "^delta must lie inside"),
            (lambda: batch_misses(items=0, rate=0.1, alpha=0.1, delta=0.1), "^a batch has one item or more, found 0$"),
            (lambda: plan_batch(CONFIDENCE, WRONG, items=0, alpha=0.1, delta=0.1), "a batch has one item or more"),
            (lambda: plan_batch(CONFIDENCE[:0], WRONG[:0], items=9, alpha=0.1, delta=0.1), "a plan needs answers"),
        ],
    )
    def test_that_cannot_be_is_refused(self, call: object, said: str) -> None:
        with pytest.raises(CertificateError, match=said):
            call()  # type: ignore[operator]
