"""Micro-batches: which texts go through the model together. Imports numpy and torch only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

_ROWS = 16
_TOKENS = 8
_SMALL_ROWS = (1, 2, 4, 8)
_SMALL_TOKENS = (8, 16, 24, 32, 48, 64)
_LONG_TOKENS = 32


def few_shapes(rows: int, longest: int, *, step: int = _TOKENS) -> tuple[int, int]:
    """The shape that a batch is padded to where a kernel is compiled, and kept, for each number of tokens.

    More than eight rows: multiples of 16, and of `step` tokens. Fewer: a power of two, and coarser steps of the
    length; a single item must not cost as much as sixteen.
    """
    if rows > _SMALL_ROWS[-1]:
        return -(-rows // _ROWS) * _ROWS, -(-longest // step) * step
    tokens = next((some for some in _SMALL_TOKENS if some >= longest), -(-longest // _LONG_TOKENS) * _LONG_TOKENS)
    return 1 << (rows - 1).bit_length(), tokens


def token_counts(budget: int, longest: int) -> list[int]:
    """All numbers of padded tokens, ascending, that batches of `few_shapes` within a budget have.

    Args:
        budget: padded tokens of a batch; a longer text, which is a batch of its own, is not counted.
        longest: tokens of the longest text.
    """
    rows = (*_SMALL_ROWS, *range(_ROWS, budget // _TOKENS + 1, _ROWS))
    counts = {math.prod(few_shapes(some, tokens)) for some in rows for tokens in range(1, longest + 1)}
    return sorted(count for count in counts if count <= budget)


def token_batches(lengths: Sequence[int], budget: int, *, few: bool = False) -> list[NDArray[np.intp]]:
    """Cut items, sorted by length, into batches of at most `budget` padded tokens (items × longest).

    Every item is in exactly one batch; one longer than the budget is a batch of its own. Sorting by length is what
    keeps padding from being most of the work.

    Args:
        lengths: tokens of each item, ≥ 0.
        budget: padded tokens, ≥ 1.
        few: they will be padded to `few_shapes`, which shall be within the budget, too.

    Returns:
        Index arrays, shortest items first.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.intp), kind="stable")
    batches, start, end = [], 0, 0
    while start < len(order):
        if end < len(order) and (end == start or _size(end + 1 - start, lengths[order[end]], few) <= budget):
            end += 1
            continue
        rows = end - start
        while few and rows > 1 and math.prod(few_shapes(rows, max(lengths[order[start + rows - 1]], 1))) > budget:
            rows = _fewer(rows)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _fewer(rows: int) -> int:
    """The next smaller number of rows to which none are added."""
    return (rows - 1) // _ROWS * _ROWS if rows > _ROWS else 1 << ((rows - 1).bit_length() - 1)


def _size(rows: int, longest: int, few: bool) -> int:
    steps = _TOKENS if few else 1
    return rows * max(1, -(-longest // steps)) * steps


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: str, *, few: bool = False, step: int = _TOKENS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, longest) and the mask of real tokens, both int64 on `device`.

    Args:
        rows: n token lists.
        pad_id: the token that fills.
        device: where to.
        few: they are padded to `few_shapes`, with rows of one token at the end.
        step: what lengths of more than eight rows are multiples of then, in tokens.
    """
    shape = len(rows), max(1, *map(len, rows))
    count, longest = few_shapes(*shape, step=step) if few else shape
    ids = np.full((count, longest), pad_id, dtype=np.int64)
    mask = np.zeros((count, longest), dtype=np.int64)
    mask[len(rows) :, 0] = 1
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return _to(ids, device), _to(mask, device)


def _to(values: NDArray[np.int64], device: str) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device != "cpu" else tensor
