"""Which answers a distillation that goes on from the incumbent learns from."""

from __future__ import annotations

from datashunt.items import Role
from datashunt.pipeline.lesson import increment
from datashunt.store.distillations import StoredAnswer


def answers(ids: range) -> list[StoredAnswer]:
    return [StoredAnswer(n, n, f"text {n}", "x", None, Role.TRAIN, "") for n in ids]


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
