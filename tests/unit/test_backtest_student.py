"""The target of a backtest: what is certified, from which answers, and how long it serves. Bundles are stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backtest_stubs import LABELS, SETTINGS, Bundle, Says, School, honest, items, spec

from datashunt import certificate, shunt
from datashunt.backtest.ledger import Decision, Ledger, Trained
from datashunt.backtest.options import Options, draw_key
from datashunt.backtest.recording import Recorded
from datashunt.backtest.student import Student
from datashunt.evaluate import Verdict
from datashunt.items import Role
from datashunt.pipeline import lesson as lessons

KEY = draw_key(0)
RATE = 0.25
NOTHING = float("inf")
VERDICT = Verdict(True, "loses nothing", 50, 0.9, 0.8, 0.0, 0.1, 0.1, {})
Make = Callable[..., Student]


def unsure(text: str) -> tuple[str, float]:
    """Equally confident of all: no threshold parts right from wrong."""
    return honest(text)[0], 0.9


def cold_role(item: Recorded) -> Role:
    return shunt.role(KEY, item.id, shunt.audit(KEY, item.id, 0.5))


def drawn(item: Recorded, role: Role) -> bool:
    return cold_role(item) is role and shunt.audit(KEY, item.id, RATE)


def asked(stream: Sequence[Recorded]) -> list[Decision]:
    """Every item was asked; half of them were held out, more than the policy's rate."""
    return [
        Decision(
            position=n, id=item.id, label=item.teacher, source="llm", confidence=None, bundle=None, small_label=None,
            small_confidence=None, reason="escalation", role=cold_role(item), audited=False, offered=None,
            answer=item.teacher, calls=1, cost_usd=0.0,
        )
        for n, item in enumerate(stream)
    ]  # fmt: skip


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """A student of a stream that is decided, whose challengers all win."""
    monkeypatch.setattr(lessons, "judge", lambda *_: SimpleNamespace(verdict=VERDICT, evaluation={}))
    opened: list[Ledger] = []

    def student(
        *says: Says,
        stream: Sequence[Recorded] | None = None,
        rate: float = RATE,
        pruning: str = "off",
        **options: Any,
    ) -> Student:
        School(monkeypatch, *says)
        stream = items(1_200) if stream is None else stream
        folder = tmp_path / str(len(opened))
        ledger = Ledger(folder, "one")
        opened.append(ledger)
        ledger.commit(asked(stream))
        chosen = Options(**{"alpha": 0.1, **options})
        declared = spec(audit_rate=rate, pruning=pruning)
        return Student(declared, chosen, SETTINGS, folder, ledger, stream, KEY)

    yield student
    for ledger in opened:
        ledger.close()


def distil(student: Student) -> Trained:
    trained = student.distil(lambda *_: None)
    student._ledger.commit([], [trained])
    return trained


def test_a_certified_bundle_serves_until_a_certified_one_follows(make: Make) -> None:
    student = make(honest, unsure, honest)
    first = distil(student)
    assert first.certificate is not None
    assert student.certified_threshold() == first.certificate["threshold"]

    second = distil(student)
    assert (second.state, second.certificate) == ("rejected", None)
    assert second.verdict["reason"].startswith("has no certificate, unlike the bundle that serves; ")
    assert student.certified_threshold() == first.certificate["threshold"]

    third = distil(student)
    assert third.state == "promoted"
    assert student.bundle().version == 3
    assert student.certified_threshold() == third.certificate["threshold"]


def test_while_nothing_is_certified_the_newest_serves_and_keeps_nothing(make: Make) -> None:
    student = make(unsure)
    assert student.certified_threshold() == NOTHING
    for number in (1, 2):
        trained = distil(student)
        assert (trained.state, trained.certificate, student.bundle().version) == ("promoted", None, number)
        assert trained.verdict["reason"] == VERDICT.reason
        assert student.certified_threshold() == NOTHING


def test_each_distillation_spends_its_own_part_of_delta(make: Make) -> None:
    student = make(honest, unsure, honest, delta=0.2)
    spent = [one.certificate["delta"] if one.certificate else None for one in (distil(student) for _ in range(3))]
    assert spent == [0.2 * certificate.lifetime_share(1), None, 0.2 * certificate.lifetime_share(3)]


class TestACertificate:
    def test_counts_what_would_be_kept_of_the_judge_answers_drawn_at_the_policys_rate(self, make: Make) -> None:
        stream = items(1_200)
        found = distil(make(honest, stream=stream)).certificate
        judged = [item for item in stream if drawn(item, Role.JUDGE)]
        assert len(judged) < sum(cold_role(item) is Role.JUDGE for item in stream)
        decided = shunt.decide(Bundle().probabilities([item.text for item in judged]), found["threshold"])
        wrong = [LABELS[label] != item.teacher for label, item in zip(decided.labels, judged, strict=True)]
        assert found["n"] == decided.keep.sum()
        assert found["k"] == (np.array(wrong) & decided.keep).sum()
        assert certificate.upper_bound(found["k"], found["n"], found["delta"]) <= found["alpha"] == 0.1

    def test_does_not_look_at_answers_that_only_the_cold_start_held_out(self, make: Make) -> None:
        stream = items(1_200)
        others = [
            item if drawn(item, cold_role(item)) else replace(item, teacher=LABELS[item.teacher == "x"])
            for item in stream
        ]
        assert others != stream
        assert distil(make(honest, stream=others)).certificate == distil(make(honest, stream=stream)).certificate

    def test_takes_its_thresholds_from_what_the_fit_answers_would_keep(self, make: Make) -> None:
        stream = items(1_200)
        found = distil(make(honest, stream=stream)).certificate
        sure = Bundle().probabilities([item.text for item in stream if drawn(item, Role.FIT)]).max(axis=1)
        assert found["threshold"] in np.quantile(sure.astype(np.float64), 1 - np.arange(1, 51) / 50).tolist()

    def test_is_refused_if_the_judge_answers_contradict(self, make: Make) -> None:
        told = [
            replace(item, teacher=LABELS[item.teacher == "x"]) if drawn(item, Role.JUDGE) else item
            for item in items(1_200)
        ]
        assert distil(make(honest, stream=told)).certificate is None

    def test_needs_answers_drawn_at_the_policys_rate(self, make: Make) -> None:
        assert distil(make(honest, rate=0.0)).certificate is None


def test_without_a_target_nothing_is_certified(make: Make) -> None:
    student = make(honest, alpha=None)
    assert distil(student).certificate is None


class TestPruning:
    def test_is_calibrated_for_the_threshold_that_the_bundle_is_certified_for(self, make: Make) -> None:
        student = make(honest, unsure, pruning="hard")
        trained = distil(student)
        assert trained.certificate is not None
        calibrated = student.bundle().evaluation["pruning"]
        assert calibrated["threshold"] == trained.certificate["threshold"]
        assert 0 < calibrated["answers"] < trained.counts["fit"]

    def test_is_calibrated_anew_for_the_bundle_that_serves_on(self, make: Make) -> None:
        student = make(honest, unsure, pruning="hard")
        first = distil(student)
        before = student.bundle()
        second = distil(student)
        assert (second.state, first.recut) == ("rejected", None)
        assert second.recut is not None
        assert second.recut["threshold"] == first.certificate["threshold"]  # type: ignore[index]
        assert student.bundle().evaluation["pruning"] == second.recut
        assert student.bundle().prune_cut == second.recut["cut"] == before.prune_cut

    def test_counts_every_answer_while_nothing_is_certified(self, make: Make) -> None:
        student = make(unsure, pruning="hard")
        trained = distil(student)
        assert student.bundle().evaluation["pruning"]["threshold"] is None
        assert student.bundle().evaluation["pruning"]["answers"] == trained.counts["fit"]

    def test_is_not_calibrated_where_the_classifier_does_not_prune(self, make: Make) -> None:
        student = make(honest)
        assert distil(student).evaluation == {}
        assert student.bundle().prune_cut is None
