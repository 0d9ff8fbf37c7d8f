"""Micro-batches by tokens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.small.batching import few_shapes, pad, token_batches, token_counts

LENGTHS = st.lists(st.integers(0, 200), max_size=80)


@given(LENGTHS, st.integers(1, 1_000))
def test_every_item_is_in_exactly_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(1, *(lengths[i] for i in batch), 1)
        assert len(batch) == 1 or longest * len(batch) <= budget


@given(LENGTHS, st.integers(1, 1_000))
def test_batches_hold_neighbours_in_length_and_no_two_could_be_one(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(order)
    for one, following in pairwise(batches):
        assert max(1, lengths[following[0]]) * (len(one) + 1) > budget


def test_sorting_keeps_a_long_text_from_padding_short_ones() -> None:
    assert [batch.tolist() for batch in token_batches([100, 5, 5, 5], 100)] == [[1, 2, 3], [0]]


def test_padding_marks_the_real_tokens() -> None:
    ids, mask = pad([[7, 8, 9], [5], []], 1, "cpu")
    assert ids.tolist() == [[7, 8, 9], [5, 1, 1], [1, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("rows", [[[]], [[], []]])
def test_texts_without_tokens_still_make_a_batch(rows: list[list[int]]) -> None:
    ids, mask = pad(rows, 0, "cpu")
    assert ids.shape == (len(rows), 1)
    assert np.asarray(mask).sum() == 0


def test_training_rounds_lengths_up_less() -> None:
    assert few_shapes(16, 17, step=4) == (16, 20)
    assert few_shapes(16, 17) == (16, 24)
    ids, mask = pad([[1] * 17] * 9, 0, "cpu", few=True, step=4)
    assert ids.shape == mask.shape == (16, 20)


def test_few_shapes_round_rows_and_tokens_up_and_the_rows_that_fill_have_one_token() -> None:
    ids, mask = pad([[7, 8, 9, 4, 2], [5], [6]], 1, "cpu", few=True)
    assert ids.shape == mask.shape == (4, 8)
    assert ids[0].tolist() == [7, 8, 9, 4, 2, 1, 1, 1]
    assert mask.sum(dim=1).tolist() == [5, 1, 1, 1]


BUDGET = 1_024


@given(st.lists(st.integers(0, 256), max_size=300), st.one_of(st.just(BUDGET), st.integers(256, BUDGET)))
def test_batches_of_few_shapes_are_within_the_budget_and_have_few_numbers_of_tokens(
    lengths: list[int], budget: int
) -> None:
    batches = token_batches(lengths, budget, few=True)
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        rows, tokens = few_shapes(len(batch), max(1, *(lengths[i] for i in batch), 1))
        assert rows >= len(batch)
        assert tokens >= max(lengths[i] for i in batch)
        assert rows * tokens <= budget
        assert rows * tokens in token_counts(BUDGET, 256)


def test_full_batches_of_few_shapes_are_not_padded_with_rows() -> None:
    """Eighteen texts of 56 tokens fit the budget, and would be padded to thirty-two."""
    assert [len(batch) for batch in token_batches([56] * 50, BUDGET, few=True)] == [16, 16, 16, 2]
    assert [len(batch) for batch in token_batches([100] * 12, BUDGET, few=True)] == [8, 4]


def test_a_text_beyond_the_budget_is_a_batch_of_its_own_in_few_shapes_too() -> None:
    assert [batch.tolist() for batch in token_batches([3_000, 2_000], BUDGET, few=True)] == [[1], [0]]


def test_there_are_few_numbers_of_tokens() -> None:
    counts = token_counts(BUDGET, 256)
    assert len(counts) <= 24
    assert (counts[0], counts[-1]) == (8, BUDGET)


@pytest.mark.parametrize(("rows", "padded"), [(1, 1), (2, 2), (3, 4), (9, 16), (16, 16), (17, 32), (33, 48)])
def test_few_rows_are_not_padded_to_many(rows: int, padded: int) -> None:
    ids, mask = pad([[5]] * rows, 1, "cpu", few=True)
    assert ids.shape == (padded, 8)
    assert mask.sum() == padded
