"""Which answers a distillation learns from, and how its challenger is judged."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datashunt import classifier
from datashunt.items import Role
from datashunt.pipeline import lesson
from datashunt.pipeline.lesson import Answers, increment, judge, prepare
from datashunt.store.distillations import StoredAnswer


def answers(ids: range) -> list[StoredAnswer]:
    return [StoredAnswer(n, n, f"text {n}", "x", None, Role.TRAIN, "") for n in ids]


def served(recipe: str, base: str = "auto") -> Any:
    return SimpleNamespace(info=SimpleNamespace(recipe=recipe, base=base))


@pytest.fixture(autouse=True)
def few_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesson, "FRESH", 20)


def test_every_new_answer_is_learned_and_as_many_old_ones_are_rehearsed() -> None:
    chosen = [answer.id for answer in increment(answers(range(1, 101)), 80, most=1000, seed=3)]
    assert chosen[-20:] == list(range(81, 101))
    assert len(chosen) == 40
    assert len(set(chosen[:20])) == 20
    assert max(chosen[:20]) <= 80


def test_few_old_answers_are_all_rehearsed_in_order() -> None:
    chosen = [answer.id for answer in increment(answers(range(1, 31)), 5, most=1000, seed=3)]
    assert chosen == list(range(1, 31))


def test_another_seed_rehearses_other_old_answers() -> None:
    one, other = (increment(answers(range(1, 1001)), 900, most=1000, seed=seed) for seed in (1, 2))
    assert one[:100] != other[:100]
    assert one == increment(answers(range(1, 1001)), 900, most=1000, seed=1)


def test_a_lesson_is_bounded_newest_first_with_a_third_for_old_answers() -> None:
    chosen = [answer.id for answer in increment(answers(range(1, 1001)), 500, most=90, seed=3)]
    assert len(chosen) == 90
    assert chosen[-60:] == list(range(941, 1001))
    assert max(chosen[:30]) <= 500


def test_from_the_base_a_third_is_kept_for_old_answers_too() -> None:
    assert len(increment(answers(range(1, 31)), 0, most=30, seed=3)) == 30
    for known in (31, 35, 45, 100):
        chosen = [answer.id for answer in increment(answers(range(1, known + 1)), 0, most=30, seed=3)]
        assert chosen[-20:] == list(range(known - 19, known + 1))
        assert len(set(chosen)) == 30


def test_a_few_new_answers_are_rehearsed_with_at_least_half_of_what_is_fresh() -> None:
    chosen = [answer.id for answer in increment(answers(range(1, 101)), 99, most=1000, seed=3)]
    assert len(chosen) == 11
    assert chosen[-1] == 100


@pytest.mark.parametrize(("known", "warm", "learned"), [(20, False, 20), (21, True, 12)])
def test_training_starts_from_the_base_until_the_answers_are_many(known: int, warm: bool, learned: int) -> None:
    spec = classifier.parse({"name": "n", "labels": ["x", "y"], "instruction": "i"})
    made = prepare(spec, answers(range(1, known + 1)), [], served("full"), learned_up_to=known - 2, seed=1)
    assert made.warm is warm
    assert len(made.answers.train) == learned
    assert not prepare(spec, answers(range(1, known + 1)), [], None, learned_up_to=0, seed=1).warm


@pytest.mark.parametrize("incumbent", [served("head"), served("blend"), served("full", base="another")])
def test_what_cannot_be_gone_on_from_leaves_all_answers_to_the_base(incumbent: Any) -> None:
    spec = classifier.parse({"name": "n", "labels": ["x", "y"], "instruction": "i"})
    made = prepare(spec, answers(range(1, 101)), [], incumbent, learned_up_to=98, seed=1)
    assert (made.warm, len(made.answers.train)) == (False, 100)


class Judged:
    """A bundle that says what the text says, and counts what it is asked at once."""

    def __init__(self, *, right: bool = True) -> None:
        self._right = right
        self.chunks: list[int] = []

    def probabilities(self, texts: list[str]) -> np.ndarray:
        self.chunks.append(len(texts))
        x = np.array([(text.endswith("x") == self._right) * 0.8 + 0.1 for text in texts]).reshape(-1, 1)
        return np.hstack([x, 1 - x]).astype(np.float32)


def held_out(n: int, role: Role) -> list[StoredAnswer]:
    return [StoredAnswer(i, i, f"{role} {i} {'xy'[i % 2]}", "xy"[i % 2], None, role, "") for i in range(n)]


def the_lesson(judges: int, fits: int, incumbent: Any = None) -> lesson.Lesson:
    document = {"name": "n", "labels": ["x", "y"], "instruction": "i"}
    parted = Answers(answers(range(1, 5)), held_out(fits, Role.FIT), held_out(judges, Role.JUDGE))
    return lesson.Lesson(classifier.parse(document), parted, [], incumbent, seed=1)


CHALLENGER: Any = SimpleNamespace(evaluation={"n": 3})


class TestJudging:
    @pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 150])
    def test_in_chunks_scores_every_answer_in_its_order(self, n: int) -> None:
        model: Any = Judged()
        found = judge(the_lesson(n, 0), CHALLENGER, model)
        assert found.probabilities.shape == (n, 2)
        assert found.probabilities.argmax(axis=1).tolist() == found.labels.tolist() == [i % 2 for i in range(n)]
        assert max(model.chunks) <= lesson.CHUNK
        assert found.verdict.n == n

    def test_tells_how_far_it_is_with_challenger_and_incumbent(self) -> None:
        told: list[tuple[str, float]] = []
        incumbent: Any = Judged(right=False)
        found = judge(
            the_lesson(130, 70, incumbent),
            CHALLENGER,
            Judged(),
            lambda *step: told.append(step),  # type: ignore[arg-type]
        )
        shares = [0.0, 64 / 130, 128 / 130]
        assert told == [
            *[("judge", share) for share in shares],
            *[("judge incumbent", share) for share in shares],
        ]
        assert found.verdict.promote
        assert found.verdict.agreement_incumbent == 0.0
        assert set(found.evaluation) == {"n", "judge"}

    def test_ends_with_what_progress_raises(self) -> None:
        def lost(stage: str, share: float) -> None:
            if share > 0:
                raise InterruptedError(stage)

        model: Any = Judged()
        with pytest.raises(InterruptedError, match="judge"):
            judge(the_lesson(200, 0), CHALLENGER, model, lost)
        assert model.chunks == [64]


@pytest.mark.parametrize("twin", ["text 2", " text 2\n", "te\u0301xt 2"])
def test_no_training_text_and_no_replayed_one_equals_a_held_out_one(twin: str) -> None:
    spec = classifier.parse({"name": "n", "labels": ["x", "y"], "instruction": "i"})
    stored = [*answers(range(1, 5)), StoredAnswer(9, 9, twin, "y", None, Role.JUDGE, "")]
    if "\u0301" in twin:
        stored[1] = replace(stored[1], text="t\u00e9xt 2")
    stored.append(StoredAnswer(10, 10, "text 3", "y", None, Role.FIT, ""))
    made = prepare(spec, stored, [stored[1].text + " ", "text 3", "text 7"], None, learned_up_to=0, seed=1)
    assert [answer.text for answer in made.answers.train] == ["text 1", "text 4"]
    assert made.replay == ["text 7"]
