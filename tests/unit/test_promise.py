"""What a policy says of the next batch, and what a target takes to be proven."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from datashunt import shunt
from datashunt.certificate import Certificate, LabelAlpha, MinRecall, NotYet, OfAll, OfKept, Target, share_bound
from datashunt.classifier import Spec, parse
from datashunt.errors import SpecError
from datashunt.pipeline import promise, proof, substitutes
from datashunt.pipeline.pruning import Calibration
from datashunt.policy import TargetPolicy
from datashunt.store.classifiers import Registered
from datashunt.store.trials import Trial, TrialAnswer

LABELS = ["bad", "good", "mixed"]
POLICY: dict[str, Any] = {"mode": "target", "alpha": 0.05, "audit_rate": 0.04}


def spec(policy: dict[str, Any] | None = None, **fields: Any) -> Spec:
    return parse({"name": "n", "labels": LABELS, "instruction": "i", "policy": {**POLICY, **(policy or {})}, **fields})


def target(of: Spec) -> TargetPolicy:
    assert isinstance(of.policy, TargetPolicy)
    return of.policy


def known(of: Spec, **standing: Any) -> Registered:
    return Registered(1, "n", 1, of, "prompt", b"k" * 32, None, **standing)


def test_a_fixed_policy_says_itself_how_it_stands() -> None:
    fixed = parse({"name": "n", "labels": LABELS, "instruction": "i", "policy": {"threshold": 0.7, "audit_rate": 0.1}})
    assert promise.stand(known(fixed)) == promise.Stand(0.7, 0.1)


@pytest.mark.parametrize(
    ("what", "threshold", "holds", "rate"),
    [("ask", shunt.NOTHING, False, 0.2), ("hold", shunt.NOTHING, True, 0.08), ("keep", 0.9, False, 0.08)],
)
def test_while_nothing_is_proven(what: str, threshold: float, holds: bool, rate: float) -> None:
    found = promise.stand(known(spec({"on_uncertified": what})))
    assert (found.threshold, found.holds, found.rate) == (threshold, holds, pytest.approx(rate))
    assert found.shown == (threshold if threshold <= 1 else None)


def test_what_is_proven_is_kept_and_nothing_held() -> None:
    found = promise.stand(known(spec({"on_uncertified": "hold"}), certified=0.83, audit_rate=0.01))
    assert (found.threshold, found.holds, found.rate) == (0.83, False, 0.01)


def test_labels_of_the_policy_are_indices_of_the_stand() -> None:
    found = promise.stand(known(spec({"labels": {"mixed": {"always_ask": True}, "bad": {"alpha": 0.01}}})))
    assert (list(found.never), list(found.watched)) == ([2], [0])
    assert found.rate == 0.04


def test_less_is_audited_where_the_promise_is_kept_by_far() -> None:
    policy = target(spec())
    assert promise.proven_rate(policy, 0, 200) == pytest.approx(0.01)
    assert promise.proven_rate(policy, 6, 200) == 0.04
    assert promise.proven_rate(target(spec({"audit_rate": 0.005})), 0, 200) == shunt.LEAST_RATE
    assert promise.proven_rate(target(spec({"labels": {"bad": {"alpha": 0.1}}})), 0, 200) == 0.04


def test_the_overall_target_comes_first_and_labels_follow() -> None:
    one = spec({"of": "all", "labels": {"good": {"min_recall": 0.9, "alpha": 0.1}, "bad": {"always_ask": True}}})
    assert promise.targets(one, target(one)) == [OfAll(0.05), LabelAlpha(1, 0.1), MinRecall(1, 0.9)]
    assert promise.targets(spec(), target(spec())) == [OfKept(0.05)]


def test_a_promise_of_all_says_what_else_counts_as_a_miss() -> None:
    assert promise.counted(spec({"of": "all"})) == ""
    assert promise.counted(spec(prompt={"pruning": "hard"}, llm={"models": ["a", "b"]})) == ""
    both = spec({"of": "all"}, prompt={"pruning": "hard"}, llm={"models": ["a", "b"]})
    said = " (or are asked without the label that the LLM would give, or answered by another model)"
    assert promise.counted(both) == said
    assert promise.takes(both, target(both), 0.01)[0].startswith(f"at most 0.05 of all are kept and disagree{said}: ")
    promise.check(both)


def test_of_all_is_refused_where_nobody_could_measure_what_is_asked() -> None:
    with pytest.raises(SpecError, match=r"prompt\.pruning: both\) still says the same"):
        promise.check(spec({"of": "all"}, prompt={"pruning": "both"}))
    promise.check(spec(prompt={"pruning": "both"}))
    for what in ("keep", "hold"):
        with pytest.raises(SpecError, match=r"let policy\.on_uncertified be ask"):
            promise.check(spec({"of": "all", "on_uncertified": what}, llm={"models": ["a", "b"]}))


def test_another_way_to_ask_is_another_promise_of_all_and_the_same_of_kept() -> None:
    def promises(of: str) -> list[Any]:
        ways: list[dict[str, Any]] = [{}, {"llm": {"models": ["a", "b"]}}, {"prompt": {"coverage": 0.9}}]
        return [spec({"of": of}, **way).promise for way in ways]

    first, *others = promises("all")
    assert first not in others
    assert others[0] != others[1]
    kept = promises("kept")
    assert kept == [kept[0]] * 3


def test_a_target_says_how_many_answers_it_takes() -> None:
    one = spec({"alpha": 0.005, "labels": {"good": {"min_recall": 0.95}}})
    overall, recall = promise.takes(one, target(one), 0.1 / 11)
    assert overall.startswith("at most 0.005 of the kept disagree: takes 938 answers of its scope without a miss (460 ")
    assert recall.startswith("at least 0.95 of 'good' are found: takes 92 answers of its scope without a miss (45 ")


def answers(n: int, wrong: int = 0, weight: float = 1.0) -> list[TrialAnswer]:
    return [TrialAnswer(i, 0.95, 0, 1 if i < wrong else 0, weight, True, "") for i in range(n)]


def trial(*thresholds: float, **counts: Any) -> Trial:
    return Trial(1, 1, 0.1, thresholds, 0, 300, 0, None, None, None, **counts)  # type: ignore[arg-type]


def proven(targets: Sequence[Target], of: Trial, read: Sequence[TrialAnswer]) -> Any:
    return proof.proven(targets, of, read, delta=of.delta)


def test_answers_that_weigh_less_prove_less() -> None:
    full = proven([OfKept(0.05)], trial(0.9), answers(90))
    assert not isinstance(full, NotYet)
    assert full.threshold == 0.9
    assert isinstance(proven([OfKept(0.05)], trial(0.9), answers(90, weight=0.25)), NotYet)
    assert not isinstance(proven([OfKept(0.05)], trial(0.9), answers(400, weight=0.25)), NotYet)


def test_misses_prove_nothing() -> None:
    found = proven([OfKept(0.05)], trial(0.9), answers(90, wrong=9))
    assert isinstance(found, NotYet)
    assert (found.finding.n, found.finding.k) == (90, 9)


def test_answers_below_the_threshold_are_out_of_scope() -> None:
    low = [TrialAnswer(i, 0.5, 0, 1, 1.0, False, "") for i in range(100, 200)]
    found = proven([OfKept(0.05)], trial(0.9), [*low, *answers(90)])
    assert not isinstance(found, NotYet)
    assert (found.findings[0].n, found.findings[0].k) == (90, 0)
    assert np.isclose(found.delta, 0.1)


CUTS = {"cuts": [None, 0.2], "answers": [50, 40], "missing": [50, 0], "up_to": 9}


def asked(n: int, reach: float) -> list[TrialAnswer]:
    """Answers to items that escalate; what the small model says of them is wrong."""
    return [TrialAnswer(i, 0.5, 0, 1, 1.0, False, "", reach) for i in range(n)]


def test_what_is_asked_without_its_label_is_a_miss_of_all() -> None:
    for reach, n, k in ((0.3, 200, 0), (0.1, 200, 200), (-np.inf, 200, 200)):
        found = proven([OfAll(0.05, (-np.inf, 0.2))], trial(0.95, 0.9, cuts=CUTS), asked(n, reach))
        assert not isinstance(found, NotYet)  # at the first threshold nothing is pruned
        assert found.threshold == (0.9 if k == 0 else 0.95)
        assert (found.findings[0].n, found.findings[0].k) == (200, 0)
        found = proven([OfAll(0.05, (0.2,))], trial(0.9, cuts=CUTS), asked(n, reach))
        assert (found.finding if isinstance(found, NotYet) else found.findings[0]).k == k


def test_a_proven_threshold_is_served_with_the_cut_that_was_tried() -> None:
    one = known(spec({"of": "all"}, prompt={"pruning": "hard", "coverage": 0.95}))
    tried = trial(0.95, 0.9, cuts=CUTS)
    assert substitutes.cuts_of(tried) == (-np.inf, 0.2)
    found = substitutes.calibration(one, tried, 0.9)
    assert found == Calibration(0.2, 40, 0, 9, 0.9, 0.95, "prompt")
    assert substitutes.calibration(one, trial(0.9), 0.9) is None


BOTH = {"models": ["a", "b"]}


def test_answers_of_other_models_are_taken_off_alpha() -> None:
    one = spec({"of": "all"}, llm=BOTH)
    tried = trial(0.9, asked=1_000, stood_in=10)
    taken = substitutes.share(one, tried)
    assert 0.01 < taken < 0.04
    assert substitutes.share(spec({"of": "all"}), tried) == 0.0
    found, missing, _ = proof.look(one, target(one), tried, answers(1_000))
    assert missing is None
    assert found is not None
    assert found.findings[0].target.allowed == pytest.approx(0.05 - taken)
    assert substitutes.findings(one, tried)[0]["k"] == 10
    assert found.delta == pytest.approx(0.09)  # a tenth of it bounds what others answer


def test_where_others_may_answer_as_many_as_may_miss_it_says_how_many_answers_are_missing() -> None:
    one = spec({"of": "all"}, llm=BOTH)
    tried = trial(0.9, asked=100, stood_in=10)
    found, missing, what = proof.look(one, target(one), tried, answers(1_000))
    assert found is None
    assert what is not None
    assert missing is not None
    assert what.startswith("not yet: other models answered 10 of 100 items that escalated, which may be ")
    assert f"at least {missing:,} more answers of the first model" in what
    delta = substitutes.PART * 0.1
    assert share_bound(10, 100 + missing, delta) < 0.05 <= share_bound(10, 99 + missing, delta)


def test_what_is_kept_now_is_what_the_serving_bundle_keeps_as_it_stands_not_what_it_kept_during_the_trial() -> None:
    read = [TrialAnswer(n, 0.95 if n % 10 < 3 else 0.5, 0, 0, 1.0, False, "") for n in range(100)]
    read += [TrialAnswer(n, 0.95 if n % 10 < 3 else 0.5, 0, 0, 1.0, n % 10 < 6, "") for n in range(100, 150)]
    serving = {n: 0.9 if n % 10 < 6 else 0.6 for n in range(50, 200)}  # its trial began later
    found = Certificate(0.9, 0.1, (), "")
    assert proof.kept_by(found, read, serving, 0.8) == (0.3, 0.6)
    assert proof.kept_by(found, read, serving, 0.95) == (0.3, 0.0)
    assert proof.kept_by(found, read, {}, 0.8) == (0.3, 0.2)


def test_a_trial_is_looked_at_again_at_each_new_answer_and_later_at_two_in_a_hundred_more() -> None:
    assert proof.grown(0, -1)
    assert not proof.grown(0, 0)
    looks, n = 0, 0
    for answers_ in range(1, 10_001):
        if proof.grown(answers_, n):
            looks, n = looks + 1, answers_
        assert answers_ - n <= max(0, 0.02 * n)
    assert looks < 350
