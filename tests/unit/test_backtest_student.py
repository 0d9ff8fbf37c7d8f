"""The target of a backtest: which trials there are, what they prove, from which answers. Bundles are stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backtest_stubs import SETTINGS, Says, School, honest, items, spec

from datashunt import certificate, shunt
from datashunt.backtest.ledger import Decision, Ledger, Trained
from datashunt.backtest.options import Options, draw_key, targeted
from datashunt.backtest.recording import Recorded
from datashunt.backtest.student import Student
from datashunt.errors import UsageError
from datashunt.evaluate import Verdict
from datashunt.items import Role
from datashunt.pipeline import lesson as lessons
from datashunt.pipeline import proof
from datashunt.policy import TargetPolicy

KEY = draw_key(0)
RATE = 0.25
VERDICT = Verdict(True, "loses nothing", 50, 0.9, 0.8, 0.0, 0.1, 0.1, {})
Make = Callable[..., Student]


def unsure(text: str) -> tuple[str, float]:
    """Equally confident of all: no threshold parts right from wrong."""
    return honest(text)[0], 0.9


def cautious(text: str) -> tuple[str, float]:
    """Sure of three in ten only."""
    label, confidence = honest(text)
    return label, confidence if confidence >= 0.85 else 0.55


def role(item: Recorded) -> Role:
    return shunt.role(KEY, item.id, shunt.audit(KEY, item.id, 0.5))


def asked(stream: Sequence[Recorded], start: int = 0) -> list[Decision]:
    """Every item was asked; half of them were held out."""
    return [
        Decision(
            position=n, id=item.id, label=item.teacher, source="llm", confidence=None, bundle=None, small_label=None,
            small_confidence=None, reason="escalation", role=role(item), audited=False, offered=None,
            answer=item.teacher, calls=1, cost_usd=0.0,
        )
        for n, item in enumerate(stream, start)
    ]  # fmt: skip


STREAM = items(6_000)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """A student of a stream whose first 1,200 items are decided, whose challengers all win."""
    monkeypatch.setattr(lessons, "judge", lambda *_: SimpleNamespace(verdict=VERDICT, evaluation={}))
    opened: list[Ledger] = []

    def student(*says: Says, pruning: str = "off", **options: Any) -> Student:
        School(monkeypatch, *says)
        folder = tmp_path / str(len(opened))
        ledger = Ledger(folder, "one")
        opened.append(ledger)
        ledger.commit(asked(STREAM[:1_200]))
        chosen = Options(**{"alpha": 0.1, **options})
        declared = targeted(spec(audit_rate=RATE, pruning=pruning), chosen)
        return Student(declared, chosen, SETTINGS, folder, ledger, STREAM, KEY)

    yield student
    for ledger in opened:
        ledger.close()


def distil(student: Student) -> Trained:
    trained = student.distil(lambda *_: None)
    student._ledger.commit([], [trained])
    student.prove()
    return trained


def go_on(student: Student, n: int) -> None:
    """Ask about the next n items."""
    start = len(student._ledger.decisions)
    student._ledger.commit(asked(STREAM[start : start + n], start))
    student.prove()


def certified(student: Student) -> float | None:
    return student.known(None).certified


def states(student: Student) -> list[str]:
    return [one.state for one in student._ledger.trained]


def test_nothing_is_proven_by_answers_of_before_the_bundle(make: Make) -> None:
    student = make(honest)
    distil(student)
    (tried,) = student._ledger.tried
    assert (tried.at_item, certified(student)) == (1_200, None)
    assert tried.delta == 0.1 * certificate.lifetime_share(1)
    go_on(student, 600)
    assert certified(student) is not None
    (granted,) = student._ledger.tried[0].granted
    judged = [one for one in asked(STREAM[1_200:1_800], 1_200) if one.role == Role.JUDGE]
    sure = [honest(STREAM[one.position].text) for one in judged]
    kept = [one for one, (_, confidence) in zip(judged, sure, strict=True) if confidence >= granted["threshold"]]
    assert granted["n"] == len(kept)
    assert granted["k"] == sum(honest(STREAM[one.position].text)[0] != one.answer for one in kept)
    assert granted["at_item"] == 1_800


def test_later_answers_may_prove_a_lower_threshold(make: Make) -> None:
    student = make(honest)
    distil(student)
    for _ in range(8):
        go_on(student, 500)
    thresholds = [one["threshold"] for one in student._ledger.tried[0].granted]
    assert len(thresholds) > 1
    assert thresholds == sorted(thresholds, reverse=True)
    assert certified(student) == thresholds[-1]
    assert len(student._ledger.tried) == 1  # one part of δ


def test_a_certified_bundle_serves_until_a_winner_has_its_own_certificate(make: Make) -> None:
    student = make(cautious, honest)
    distil(student)
    go_on(student, 1_200)
    assert certified(student) is not None
    assert distil(student).state == "uncertified"
    assert student.bundle().version == 1  # type: ignore[union-attr]
    assert [one.bundle for one in student._ledger.tried] == [1, 2]
    go_on(student, 2_000)
    assert student.bundle().version == 2  # type: ignore[union-attr]
    assert states(student) == ["promoted", "promoted"]
    go_on(student, 100)
    assert [one.ended is None for one in student._ledger.tried] == [False, True]


def test_a_winner_that_is_proven_to_keep_less_than_is_kept_now_gives_up_in_the_end(make: Make) -> None:
    student = make(honest, cautious)
    distil(student)
    go_on(student, 600)
    distil(student)
    go_on(student, 1_000)
    assert states(student) == ["promoted", "uncertified"]
    go_on(student, 3_200)
    assert states(student) == ["promoted", "rejected"]
    assert "it would keep" in student._ledger.trained[-1].verdict["reason"]


def test_a_winner_of_which_nothing_is_proven_gives_up_and_a_newer_one_takes_its_place(make: Make) -> None:
    student = make(honest, unsure, unsure)
    distil(student)
    go_on(student, 600)
    distil(student)
    distil(student)
    assert states(student) == ["promoted", "rejected", "uncertified"]
    planned = student._ledger.tried[-1].planned
    go_on(student, 4_200)
    judged = sum(one.role == Role.JUDGE for one in student._ledger.decisions[1_800:])
    assert judged > proof.PATIENCE * planned
    assert states(student) == ["promoted", "rejected", "rejected"]
    assert student._ledger.trained[-1].verdict["reason"].startswith("no certificate: not yet")


def test_while_nothing_is_proven_the_newest_serves_and_keeps_nothing(make: Make) -> None:
    student = make(unsure)
    for number in (1, 2):
        assert distil(student).state == "promoted"
        assert (certified(student), student.bundle().version) == (None, number)  # type: ignore[union-attr]
    assert [one.ended is None for one in student._ledger.tried] == [False, True]
    spent = [one.delta for one in student._ledger.tried]
    assert spent == [0.1 * certificate.lifetime_share(n) for n in (1, 2)]
    assert student.unproven == student._ledger.trained[-1].counts["train"]


def test_a_run_goes_on_where_it_stopped(make: Make) -> None:
    student = make(honest)
    distil(student)
    go_on(student, 600)
    ledger = student._ledger
    ledger.commit([])
    again = Ledger(ledger._folder, "one")
    assert (again.tried, again.trained, again.audit_rate) == (ledger.tried, ledger.trained, ledger.audit_rate)
    again.close()
    before = list(ledger.tried), list(ledger.trained)
    student._trials._read.clear()  # type: ignore[union-attr]
    student.prove()
    assert (ledger.tried, ledger.trained) == before


def test_without_a_target_there_are_no_trials(make: Make) -> None:
    student = make(honest, alpha=None)
    distil(student)
    go_on(student, 600)
    assert student._ledger.tried == []


def test_options_give_a_file_its_target_and_one_of_its_own_stays() -> None:
    made = targeted(spec(audit_rate=0.2), Options(alpha=0.1, delta=0.2, of="all"))
    policy = made.policy
    assert isinstance(policy, TargetPolicy)
    assert (policy.alpha, policy.delta, policy.of, policy.audit_rate, policy.threshold) == (0.1, 0.2, "all", 0.2, 0.8)
    assert targeted(made, Options(alpha=0.1)).policy is policy
    with pytest.raises(UsageError, match=r"found policy\.audit_rate 0 in the file, expected 0\.005 or more"):
        targeted(spec(audit_rate=0.0), Options(alpha=0.1))


class TestPruning:
    def test_is_calibrated_for_the_threshold_that_is_proven(self, make: Make) -> None:
        student = make(honest, pruning="hard")
        trained = distil(student)
        assert student.bundle().evaluation["pruning"]["threshold"] is None  # type: ignore[union-attr]
        assert student.bundle().evaluation["pruning"]["answers"] == trained.counts["fit"]  # type: ignore[union-attr]
        go_on(student, 600)
        calibrated = student.bundle().evaluation["pruning"]  # type: ignore[union-attr]
        assert calibrated["threshold"] == certified(student)
        assert calibrated["answers"] > 0

    def test_is_calibrated_anew_for_the_bundle_that_serves_on(self, make: Make) -> None:
        student = make(honest, unsure, pruning="hard")
        distil(student)
        go_on(student, 600)
        second = distil(student)
        assert second.recut is not None
        assert second.recut["threshold"] == certified(student)
        assert student.bundle().evaluation["pruning"] == second.recut  # type: ignore[union-attr]

    def test_of_all_is_that_of_the_trial(self, make: Make) -> None:
        student = make(honest, unsure, pruning="hard", of="all")
        distil(student)
        go_on(student, 600)
        (tried,) = student._ledger.tried
        assert tried.cuts is not None
        place = tried.thresholds.index(certified(student) or 0.0)
        assert student.bundle().prune_cut == tried.cuts["cuts"][place]  # type: ignore[union-attr]
        assert distil(student).recut is None
