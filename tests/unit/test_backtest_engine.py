"""A whole backtest with stand-ins for its bundles: calls, equal texts, gates, targets, and going on after a kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from backtest_stubs import LABELS, SETTINGS, School, honest, items, recording, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datashunt.backtest.engine import Engine
from datashunt.backtest.ledger import Decision
from datashunt.backtest.options import Options
from datashunt.backtest.recording import Recorded
from datashunt.backtest.student import Student
from datashunt.errors import LessonError
from datashunt.pipeline import lesson as lessons


@pytest.fixture
def school(monkeypatch: pytest.MonkeyPatch) -> School:
    return School(monkeypatch)


def run(made: Sequence[Recorded], folder: Path, file: dict[str, Any] | None = None, **options: Any) -> Engine:
    engine = Engine(spec(**(file or {})), recording(made), Options(**options), SETTINGS, folder)
    try:
        engine.run(lambda *_: None)
    finally:
        engine.ledger.close()
    return engine


def with_twins(n: int, each: int, seed: int = 0) -> list[Recorded]:
    """n items, of which `each` have the same text; later ones have another recorded answer."""
    made = items(n, seed=seed)
    return [replace(item, text=made[place - place % each].text) for place, item in enumerate(made)]


@given(st.integers(1, 700), st.integers(1, 600), st.integers(1, 3), st.integers(0, 5), st.sampled_from([16, 128]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_more_calls_are_made_than_may_be_and_none_is_left_while_there_is_use_for_it(
    school: School, limit: int, n: int, each: int, seed: int, batch: int
) -> None:
    made = with_twins(n, each, seed)
    with TemporaryDirectory() as place:
        engine = run(made, Path(place), max_calls=limit, seed=seed, batch=batch)
    decisions = engine.ledger.decisions
    calls = sum(one.calls for one in decisions)
    assert calls == engine.ledger.calls <= limit
    assert [one.id for one in decisions] == [item.id for item in engine.stream]
    if each == 1:
        assert calls == min(limit, n)
    for one in decisions:
        assert (one.answer is not None) == (one.reason is not None)
        assert one.label is not None or (one.bundle is None and calls == limit)


class TestEqualTexts:
    def test_are_asked_once_and_anew_only_for_a_held_out_answer(self, school: School, tmp_path: Path) -> None:
        engine = run(with_twins(900, 3), tmp_path, max_calls=700)
        texts = [item.text for item in engine.stream]
        taught = Counter(texts[d.position] for d in engine.ledger.decisions if d.role == "train" and d.calls)
        assert max(taught.values()) == 1
        reused = [d for d in engine.ledger.decisions if d.answer is not None and not d.calls]
        assert len(reused) > 50
        assert {d.role for d in reused} == {"train"}

    def test_get_the_answer_that_was_given_first(self, school: School, tmp_path: Path) -> None:
        engine = run(with_twins(900, 3), tmp_path, max_calls=700)
        first: dict[str, str] = {}
        for one, item in zip(engine.ledger.decisions, engine.stream, strict=True):
            if one.role == "train" and one.answer is not None:
                assert one.answer == first.setdefault(item.text, one.answer)
            if one.calls:
                assert one.answer == item.teacher

    def test_whose_answer_is_known_take_it_and_leave_the_calls_to_others(self, school: School, tmp_path: Path) -> None:
        engine = run(with_twins(1_200, 3), tmp_path, max_calls=420)
        assert engine.ledger.calls == 420
        known: set[str] = set()
        for start in range(0, 1_200, 128):
            batch = [*zip(engine.ledger.decisions, engine.stream, strict=True)][start : start + 128]
            assert all(one.calls or one.answer for one, item in batch if item.text in known and one.role == "train")
            known |= {item.text for one, item in batch if one.role == "train" and one.answer is not None}

    @pytest.mark.parametrize("options", [{}, {"max_calls": 700, "reuse": False}])
    def test_are_asked_again_without_a_limit_or_if_told(
        self, school: School, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        decisions = run(with_twins(600, 3), tmp_path, **options).ledger.decisions
        assert all(one.calls == 1 for one in decisions if one.answer is not None)

    def test_of_held_out_answers_teach_nothing_and_are_not_replayed(self, school: School, tmp_path: Path) -> None:
        run(with_twins(1_200, 2), tmp_path, max_calls=700)
        assert len(school.lessons) > 1
        assert any(lesson.replay for lesson in school.lessons)
        for lesson in school.lessons:
            held_out = {answer.text for answer in (*lesson.answers.fit, *lesson.answers.judge)}
            assert held_out
            assert not held_out & {answer.text for answer in lesson.answers.train}
            assert not held_out & set(lesson.replay)


@pytest.mark.parametrize("learning", [220, 300])
def test_a_lesson_follows_the_last_of_the_fast_calls(school: School, tmp_path: Path, learning: int) -> None:
    ledger = run(items(5_000), tmp_path, max_calls=900, learning=learning).ledger
    made = np.cumsum([one.calls for one in ledger.decisions])
    ended = int(np.searchsorted(made, learning * len(LABELS))) + 1
    assert ended + (-ended) % 128 in {one.at_item for one in ledger.trained}


def test_a_kill_between_batch_and_distillation_is_followed_by_that_distillation(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = items(800)
    whole = run(made, tmp_path / "whole").ledger

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Student, "distil", killed)
        with pytest.raises(KeyboardInterrupt):
            run(made, tmp_path / "killed")
    stopped = Engine(spec(), recording(made), Options(), SETTINGS, tmp_path / "killed").ledger
    stopped.close()
    assert (len(stopped.decisions), stopped.trained) == (whole.trained[0].at_item, [])

    again = run(made, tmp_path / "killed").ledger
    assert again.decisions == whole.decisions
    assert [replace(one, seconds=0.0) for one in again.trained] == [replace(one, seconds=0.0) for one in whole.trained]


def test_of_two_gates_the_first_keeps_what_it_is_sure_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def contrary(text: str) -> tuple[str, float]:
        """Never sure, and of another opinion where the first bundle is sure."""
        label, confidence = honest(text)
        return (LABELS[label == "x"], 0.55) if confidence >= 0.95 else (label, min(confidence, 0.75))

    School(monkeypatch, honest, contrary)
    monkeypatch.setattr("datashunt.evaluate._decide", lambda *_: (True, "whatever"))
    made = items(900)
    newest, both = (run(made, tmp_path / str(gates), gates=gates).ledger for gates in (1, 2))
    last = newest.trained[-1].number
    assert last > 1
    assert not [d for d in newest.decisions if d.source == "small" and d.bundle == last]
    since = both.trained[1].at_item
    kept = [d for d in both.decisions if d.source == "small" and d.position >= since]
    said = {item.id: honest(item.text) for item in made}
    assert kept
    for one in kept:
        label, confidence = said[one.id]
        assert (one.label, confidence >= 0.8, one.bundle) == (label, True, 1)
        assert one.confidence == pytest.approx(confidence)


def test_a_lesson_that_fails_is_noted_and_the_next_is_due_when_as_many_answers_came(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = lessons.teach
    left = 2

    def fail_twice(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise LessonError("there is no answer to learn from")
        return taught(*given)

    def interrupted(lesson: Any, known: Any, out: Path, progress: Any, state: Path) -> Any:
        state.mkdir()
        return fail_twice(lesson, known, out, progress, state)

    monkeypatch.setattr(lessons, "teach", interrupted)
    ledger = run(items(1_500), tmp_path).ledger
    first, second, third, *_ = ledger.trained
    assert [one.state for one in (first, second, third)] == ["failed", "failed", "promoted"]
    assert first.verdict == {"reason": "there is no answer to learn from"}
    assert first.at_item < second.at_item < third.at_item
    assert len(ledger.decisions) == 1_500
    assert not (tmp_path / "lesson").exists()
    assert run(items(1_500), tmp_path).ledger.trained == ledger.trained


def test_only_bundles_that_may_be_needed_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    school = School(monkeypatch)
    teach = lessons.teach

    def with_a_folder(lesson: Any, known: Any, out: Path, *given: Any) -> Any:
        out.mkdir(parents=True)
        return teach(lesson, known, out, *given)

    monkeypatch.setattr(lessons, "teach", with_a_folder)
    ledger = run(items(3_000), tmp_path, {"threshold": 0.95}).ledger
    serving = [one.number for one in ledger.trained if one.state == "promoted"]
    assert len(school.lessons) > 3
    there = {int(folder.name) for folder in (tmp_path / "bundles").iterdir()}
    assert there == {serving[0], serving[-1]}


def of_bundle(decisions: Sequence[Decision], number: int | None) -> list[Decision]:
    return [one for one in decisions if one.bundle == number]


def test_with_a_target_only_what_is_certified_is_kept(school: School, tmp_path: Path) -> None:
    ledger = run(items(3_500), tmp_path, {"min_new_answers": 300}, alpha=0.1).ledger
    granted = sorted((each["at_item"], one.bundle, each["threshold"]) for one in ledger.tried for each in one.granted)
    assert granted
    assert not any(one.source == "small" for one in ledger.decisions[: granted[0][0]])
    for (begin, bundle, threshold), (end, *_) in zip(granted, [*granted[1:], (len(ledger.decisions),)], strict=True):
        for one in ledger.decisions[begin:end]:
            assert one.bundle == bundle
            assert (one.source == "small") == (one.small_confidence >= threshold)
    assert any(one.source == "small" for one in ledger.decisions)
    rates = {one.propensity for one in ledger.decisions[granted[0][0] :]}
    assert rates <= {None, 0.2, 0.05}  # less is audited where the promise is kept by far
