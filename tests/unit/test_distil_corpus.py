"""What is learned from, and in which steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from datashunt.distil import Example
from datashunt.distil.corpus import STEP_TOKENS, answers, steps
from datashunt.errors import ModelError


class Words:
    """A tokenizer that counts words."""

    model_max_length = 128

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * len(text.split()) for text in texts]}


def an_example(target: Sequence[float], known: Sequence[int] = (1, 1, 1), weight: float = 1.0) -> Example:
    return Example("a text", np.array(target, np.float32), weight, np.array(known, np.bool_))


def test_targets_become_distributions_over_the_offered_labels() -> None:
    made = answers([an_example([2, 1, 1]), an_example([0.5, 0.25, 0.25], known=(1, 1, 0))], Words(), 3)
    assert made.target.tolist() == [[0.5, 0.25, 0.25], [pytest.approx(2 / 3), pytest.approx(1 / 3), 0]]
    assert made.known.tolist() == [[True, True, True], [True, True, False]]
    assert made.rows == [[1, 1], [1, 1]]


def test_answers_that_cannot_teach_are_left_out() -> None:
    nothing = an_example([0, 0, 0])
    unoffered = an_example([0, 0, 1], known=(1, 1, 0))
    weightless = an_example([1, 0, 0], weight=0.0)
    good = an_example([0, 1, 0], weight=0.4)
    made = answers([nothing, unoffered, weightless, good], Words(), 3)
    assert made.target.tolist() == [[0, 1, 0]]
    assert made.weight.tolist() == [pytest.approx(0.4)]


def test_nothing_to_learn_from_is_an_error_that_says_so() -> None:
    for examples in ([], [an_example([0, 0, 0])]):
        with pytest.raises(ModelError, match="no answer to learn from"):
            answers(examples, Words(), 3)


def test_answers_of_other_labels_are_refused() -> None:
    with pytest.raises(ModelError, match="other labels than the 4"):
        answers([an_example([1, 0, 0])], Words(), 4)


def test_steps_hold_every_row_once_within_their_bounds() -> None:
    rng = np.random.default_rng(0)
    rows = [[1] * int(n) for n in rng.integers(1, 600, 500)]
    cut = steps(rows, 16, rng)
    assert sorted(int(i) for step in cut for i in step) == list(range(500))
    for step in cut:
        assert len(step) <= 16
        assert len(step) == 1 or len(step) * max(len(rows[i]) for i in step) <= STEP_TOKENS


def test_steps_waste_little_on_padding_and_differ_between_epochs() -> None:
    rng = np.random.default_rng(0)
    rows = [[1] * int(n) for n in rng.integers(1, 100, 1_000)]
    first, second = steps(rows, 16, rng), steps(rows, 16, rng)
    padded = sum(len(step) * max(len(rows[i]) for i in step) for step in first)
    assert padded < 1.15 * sum(map(len, rows))
    assert {frozenset(step.tolist()) for step in first} != {frozenset(step.tolist()) for step in second}


def test_only_sure_answers_are_smoothed_and_only_over_what_was_offered() -> None:
    sure, unsure = an_example([0, 1, 0], known=(1, 1, 0)), an_example([0.5, 0.25, 0.25])
    made = answers([sure, unsure], Words(), 3, smoothing=0.1)
    assert made.target[0].tolist() == pytest.approx([0.05, 0.95, 0.0])
    assert made.target[1].tolist() == pytest.approx([0.5, 0.25, 0.25])
