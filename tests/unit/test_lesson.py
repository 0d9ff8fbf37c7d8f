"""Which answers a distillation that goes on from the incumbent learns from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from datashunt import classifier
from datashunt.items import Role
from datashunt.pipeline import lesson
from datashunt.pipeline.lesson import increment, prepare
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


def test_from_the_base_the_newest_answers_fill_the_lesson() -> None:
    assert [answer.id for answer in increment(answers(range(1, 101)), 0, most=30, seed=3)] == list(range(71, 101))


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
