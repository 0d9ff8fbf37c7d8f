"""Which threshold is proven, and what is said while none is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.certificate import (
    Answers,
    Certificate,
    Finding,
    LabelAlpha,
    MinRecall,
    NotYet,
    OfAll,
    OfKept,
    audits_needed,
    certify,
    certify_anytime,
    choice,
    most_misses,
    thresholds,
)
from datashunt.certificate.choice import proven
from datashunt.errors import CertificateError

GRID = np.array([0.9, 0.7, 0.5, 0.3])
CERTIFIERS = (certify, certify_anytime)


def answers(*groups: tuple[float, int, int], propensity: float | None = None) -> Answers:
    """Of each group (confidence, agreeing, missing); answers in the order of the groups, the missing first."""
    confidence = np.concatenate([np.full(right + wrong, level) for level, right, wrong in groups])
    truth = np.concatenate([np.repeat([1, 0], [wrong, right]) for _, right, wrong in groups])
    rate = None if propensity is None else np.full(len(confidence), propensity)
    return Answers(confidence, np.zeros(len(confidence), dtype=int), truth, rate)


def lives(rng: np.random.Generator, n: int, base: float) -> Answers:
    """Items whose disagreement falls with confidence, down to `base`."""
    confidence = rng.uniform(0.3, 1.0, n)
    wrong = rng.random(n) < base + 0.5 * (1.0 - confidence)
    return Answers(confidence, np.zeros(n, dtype=int), wrong.astype(int))


def true_risk(threshold: float, base: float) -> float:
    """Of the kept: mean of base + 0.5 (1 - c) over confidences uniform in [threshold, 1]."""
    return base + 0.25 * (1.0 - max(threshold, 0.3))


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_proven_is_what_comes_before_the_first_failure(passed: list[bool]) -> None:
    expected = passed.index(False) if False in passed else len(passed)
    assert proven(passed) == expected
    assert proven([[passed, passed]]).tolist() == [[expected, expected]]


@pytest.mark.parametrize("look", CERTIFIERS)
class TestACertificate:
    def test_names_the_lowest_threshold_before_the_first_failure(self, look: object) -> None:
        judge = answers((0.35, 5_000, 0), (0.55, 100, 90), (0.75, 200, 2), (0.95, 200, 0))
        found = look([OfKept(0.1)], GRID, judge, delta=0.1)  # type: ignore[operator]
        assert isinstance(found, Certificate)
        assert (found.threshold, found.delta) == (0.7, 0.1)
        assert found.findings == (Finding(OfKept(0.1), 402, 2),)

    def test_may_name_the_last(self, look: object) -> None:
        found = look([OfAll(0.1)], GRID, answers((0.35, 200, 1)), delta=0.1)  # type: ignore[operator]
        assert isinstance(found, Certificate)
        assert found.threshold == 0.3

    def test_holds_for_all_targets_at_once(self, look: object) -> None:
        judge = answers((0.95, 300, 0), (0.75, 300, 6), (0.55, 300, 30), (0.35, 300, 30))
        targets = [OfKept(0.1), OfAll(0.02), MinRecall(1, 0.5)]
        found = look(targets, GRID, judge, delta=0.1)  # type: ignore[operator]
        assert isinstance(found, Certificate)
        assert found.threshold == 0.7
        assert [(one.target, one.n, one.k) for one in found.findings] == [
            (targets[0], 606, 6), (targets[1], 1_266, 6), (targets[2], 66, 6),
        ]  # fmt: skip

    def test_is_refused_if_one_target_fails_first(self, look: object) -> None:
        judge = answers((0.95, 300, 60))
        found = look([OfAll(0.5), OfKept(0.1)], GRID, judge, delta=0.1)  # type: ignore[operator]
        assert isinstance(found, NotYet)
        assert found.finding == Finding(OfKept(0.1), 360, 60)

    def test_needs_targets_and_thresholds_in_order(self, look: object) -> None:
        judge = answers((0.9, 50, 0))
        for targets, grid, delta, said in (
            ([], GRID, 0.1, "^nothing is promised: name a target, such as alpha$"),
            ([OfAll(0.1)], GRID[:0], 0.1, "^there is no threshold to try: wait for the first fit answers$"),
            ([OfAll(0.1)], GRID[::-1], 0.1, "^thresholds are tried from the strictest on: sort them, falling$"),
            ([OfAll(0.1)], GRID, 1.0, "^delta must lie inside"),
        ):
            with pytest.raises(CertificateError, match=said):
                look(targets, grid, judge, delta=delta)  # type: ignore[operator]

    def test_thresholds_may_be_equal(self, look: object) -> None:
        found = look([OfAll(0.1)], np.array([0.5, 0.5]), answers((0.9, 99, 0)), delta=0.1)  # type: ignore[operator]
        assert isinstance(found, Certificate)

    def test_without_answers_says_how_many_are_missing_at_least(self, look: object) -> None:
        empty = answers((0.9, 0, 0))
        found = look([OfKept(0.05)], GRID, empty, delta=0.1)  # type: ignore[operator]
        assert found == NotYet(Finding(OfKept(0.05), 0, 0), 45)


@pytest.mark.parametrize("cells", [1, 3 * 2_000, 5 * 2_000])
@pytest.mark.parametrize("base", [0.0, 0.02, 0.3])
def test_a_sequence_in_blocks_proves_what_it_proves_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, cells: int, base: float
) -> None:
    rng = np.random.default_rng(7)
    grid = np.linspace(0.8, 0.01, 16)
    judge = replace(lives(rng, 2_000, base), reach=rng.random(2_000), propensity=rng.choice([0.1, 0.4], 2_000))
    wanted = [OfAll(0.2, tuple(np.linspace(0.0, 0.02, 16))), OfKept(0.25), MinRecall(1, 0.2)]
    whole = certify_anytime(wanted, grid, judge, delta=0.1, floor=0.1)
    exact = certify(wanted, grid, replace(judge, propensity=None), delta=0.1)
    monkeypatch.setattr(choice, "MOST_CELLS", cells)
    assert certify_anytime(wanted, grid, judge, delta=0.1, floor=0.1) == whole
    assert certify(wanted, grid, replace(judge, propensity=None), delta=0.1) == exact
    assert isinstance(whole, NotYet if base == 0.3 else Certificate)


def test_methods_are_named() -> None:
    judge = answers((0.95, 200, 0))
    exact, betting = (look([OfAll(0.1)], GRID, judge, delta=0.1) for look in CERTIFIERS)
    assert isinstance(exact, Certificate)
    assert isinstance(betting, Certificate)
    assert exact.method == "learn-then-test, exact binomial, fixed sequence"
    assert betting.method == "learn-then-test, betting, fixed sequence"


def test_one_look_needs_just_so_many_answers_as_the_exact_test() -> None:
    n = audits_needed(0.05, 0.1)
    assert isinstance(certify([OfAll(0.05)], GRID, answers((0.95, n, 0)), delta=0.1), Certificate)
    assert isinstance(certify([OfAll(0.05)], GRID, answers((0.95, n - 1, 0)), delta=0.1), NotYet)


def test_one_look_allows_just_so_many_misses_as_the_exact_test() -> None:
    most = int(most_misses(400, 0.05, 0.1))
    assert isinstance(certify([OfAll(0.05)], GRID, answers((0.95, 400 - most, most)), delta=0.1), Certificate)
    assert isinstance(certify([OfAll(0.05)], GRID, answers((0.95, 399 - most, most + 1)), delta=0.1), NotYet)


def test_what_betting_has_once_proven_stays_proven() -> None:
    judge = answers((0.95, 200, 0), (0.95, 0, 60))
    assert isinstance(certify_anytime([OfAll(0.1)], GRID, judge, delta=0.1), Certificate)
    assert isinstance(certify([OfAll(0.1)], GRID, judge, delta=0.1), NotYet)


class TestNotYet:
    def test_counts_audits_at_the_pace_at_which_those_in_scope_came(self) -> None:
        found = certify([OfKept(0.05)], GRID[:1], answers((0.95, 30, 0), (0.5, 60, 9)), delta=0.1)
        assert found == NotYet(Finding(OfKept(0.05), 30, 0), 50)  # 15 more of 30 in 99: 49.5

    def test_counts_the_misses_so_far(self) -> None:
        found = certify([OfAll(0.05)], GRID, answers((0.95, 80, 2)), delta=0.1)
        assert isinstance(found, NotYet)
        assert found.missing == audits_needed(0.05, 0.1, 2) - 82

    def test_is_never_nothing(self) -> None:
        n = audits_needed(0.05, 0.1)
        found = certify_anytime([OfAll(0.05)], GRID, answers((0.95, n, 0)), delta=0.1)
        assert isinstance(found, NotYet)
        assert found.missing == 1

    def test_speaks_of_the_target_that_lacks_most(self) -> None:
        judge = answers((0.95, 30, 0))
        for targets in ([OfAll(0.05), LabelAlpha(1, 0.01)], [LabelAlpha(1, 0.01), OfAll(0.05)]):
            found = certify(targets, GRID, judge, delta=0.1)
            assert isinstance(found, NotYet)
            assert found.finding == Finding(LabelAlpha(1, 0.01), 30, 0)

    def test_says_so_in_a_sentence(self) -> None:
        found = certify([OfKept(0.05)], GRID, answers((0.95, 30, 0)), delta=0.1)
        assert str(found) == (
            "not yet: 15 more audits at least before at most 0.05 of the kept disagree"
            " (so far 30 of its items, 0 of them miss)"
        )


class TestRates:
    def test_that_differ_need_weights(self) -> None:
        judge = Answers(np.ones(2), np.zeros(2, int), np.zeros(2, int), np.array([0.1, 0.2]))
        with pytest.raises(
            CertificateError,
            match=r"^these answers were audited at several rates: use certify_anytime, which weighs them$",
        ):
            certify([OfAll(0.1)], GRID, judge, delta=0.1)

    def test_that_are_equal_are_no_weights(self) -> None:
        plain, rated = (answers((0.95, 300, 3), (0.5, 100, 50), propensity=rate) for rate in (None, 0.05))
        for look in CERTIFIERS:
            assert look([OfAll(0.05)], GRID, plain, delta=0.1) == look([OfAll(0.05)], GRID, rated, delta=0.1)

    def test_may_not_be_below_the_floor(self) -> None:
        judge = Answers(np.ones(2), np.zeros(2, int), np.zeros(2, int), np.array([0.01, 0.2]))
        with pytest.raises(CertificateError, match=r"propensity 0\.01, less than the floor of 0\.02"):
            certify_anytime([OfAll(0.1)], GRID, judge, delta=0.1, floor=0.02)
        certify_anytime([OfAll(0.1)], GRID, judge, delta=0.1, floor=0.01)
        with pytest.raises(CertificateError, match=r"less than the floor of 0\.0"):
            certify_anytime([OfAll(0.1)], GRID, judge, delta=0.1, floor=0.0)

    def test_are_at_most_one_before_the_first_answer_too(self) -> None:
        none = Answers(np.empty(0), np.empty(0, int), np.empty(0, int), np.empty(0))
        assert certify_anytime([OfAll(0.05)], GRID, none, delta=0.1, floor=1.0) == NotYet(
            Finding(OfAll(0.05), 0, 0), 45
        )
        with pytest.raises(CertificateError, match=r"propensity 1\.0, less than the floor of 1\.5"):
            certify_anytime([OfAll(0.05)], GRID, none, delta=0.1, floor=1.5)

    def test_of_the_floor_count_in_full_and_others_by_their_weight(self) -> None:
        """Of 100 answers at twice the rate each counts half: the zero misses of 200 prove what those of 100 do not."""
        rates = np.array([0.02] * 200 + [0.04] * 100)
        judge = Answers(np.ones(300), np.zeros(300, int), np.zeros(300, int), rates)
        half = Answers(np.ones(100), np.zeros(100, int), np.zeros(100, int), np.array([0.02] + [0.04] * 99))
        assert isinstance(certify_anytime([OfAll(0.03)], GRID, judge, delta=0.1, floor=0.02), Certificate)
        assert isinstance(certify_anytime([OfAll(0.03)], GRID, half, delta=0.1, floor=0.02), NotYet)
        assert isinstance(certify_anytime([OfAll(0.03)], GRID, judge, delta=0.1), NotYet)


@pytest.mark.parametrize("base", [0.0, 0.05, 0.09])
def test_a_chosen_threshold_breaks_its_promise_at_most_delta_of_the_time(base: float) -> None:
    rng = np.random.default_rng(3)
    lived, broken, granted = 400, 0, 0
    for _ in range(lived):
        fit, judge = lives(rng, 400, base), lives(rng, 400, base)
        targets = [OfKept(0.1)]
        found = certify(targets, thresholds(targets, fit, judged=400, delta=0.1), judge, delta=0.1)
        granted += isinstance(found, Certificate)
        broken += isinstance(found, Certificate) and true_risk(found.threshold, base) > 0.1
    assert broken / lived <= 0.1 + 3 * (0.09 / lived) ** 0.5
    assert granted > 0.6 * lived or base > 0


def test_a_threshold_is_chosen_where_the_risk_is_low() -> None:
    rng = np.random.default_rng(4)
    targets = [OfKept(0.1)]
    found = certify(
        targets, thresholds(targets, lives(rng, 4_000, 0.0), judged=4_000, delta=0.1), lives(rng, 4_000, 0.0), delta=0.1
    )
    assert isinstance(found, Certificate)
    assert 0.6 <= found.threshold <= 0.75
