"""What a policy says of the next batch, and what a target takes to be proven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datashunt import shunt
from datashunt.certificate import LabelAlpha, MinRecall, NotYet, OfAll, OfKept
from datashunt.classifier import Spec, parse
from datashunt.errors import SpecError
from datashunt.pipeline import promise
from datashunt.pipeline.certify import look
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


def test_what_pruning_may_miss_is_taken_off_a_promise_of_all() -> None:
    pruned = spec({"of": "all"}, prompt={"pruning": "hard"})
    (found,) = promise.targets(pruned, target(pruned))
    assert found.allowed == pytest.approx(0.04)
    promise.check(spec({"of": "kept", "alpha": 0.005}, prompt={"pruning": "hard"}))
    with pytest.raises(SpecError, match=r"policy\.alpha is 0\.01 of all items, and pruned prompts may miss 0\.01"):
        promise.check(spec({"of": "all", "alpha": 0.01}, prompt={"pruning": "hard"}))


def test_nothing_is_promised_of_all_where_other_models_stand_in() -> None:
    with pytest.raises(SpecError, match=r"of: all counts what is asked as right.*fallbacks of llm\.models"):
        promise.check(spec({"of": "all"}, llm={"models": ["a", "b"]}))


def test_a_target_says_how_many_answers_it_takes() -> None:
    one = spec({"alpha": 0.005, "labels": {"good": {"min_recall": 0.95}}})
    overall, recall = promise.takes(one, target(one), 0.1 / 11)
    assert overall.startswith("at most 0.005 of the kept disagree: takes 938 answers of its scope without a miss (460 ")
    assert recall.startswith("at least 0.95 of 'good' are found: takes 92 answers of its scope without a miss (45 ")


def answers(n: int, wrong: int = 0, weight: float = 1.0) -> list[TrialAnswer]:
    return [TrialAnswer(i, 0.95, 0, 1 if i < wrong else 0, weight, True, "") for i in range(n)]


def trial(*thresholds: float) -> Trial:
    return Trial(1, 1, 0.1, thresholds, 0, 300, 0, None, None, None)  # type: ignore[arg-type]


def test_answers_that_weigh_less_prove_less() -> None:
    full = look([OfKept(0.05)], trial(0.9), answers(90))
    assert not isinstance(full, NotYet)
    assert full.threshold == 0.9
    assert isinstance(look([OfKept(0.05)], trial(0.9), answers(90, weight=0.25)), NotYet)
    assert not isinstance(look([OfKept(0.05)], trial(0.9), answers(400, weight=0.25)), NotYet)


def test_misses_prove_nothing() -> None:
    found = look([OfKept(0.05)], trial(0.9), answers(90, wrong=9))
    assert isinstance(found, NotYet)
    assert (found.finding.n, found.finding.k) == (90, 9)


def test_answers_below_the_threshold_are_out_of_scope() -> None:
    low = [TrialAnswer(i, 0.5, 0, 1, 1.0, False, "") for i in range(100, 200)]
    found = look([OfKept(0.05)], trial(0.9), [*low, *answers(90)])
    assert not isinstance(found, NotYet)
    assert (found.findings[0].n, found.findings[0].k) == (90, 0)
    assert np.isclose(found.delta, 0.1)
