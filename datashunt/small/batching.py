"""Micro-batches: which texts go through the model together. Imports numpy and torch only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def token_batches(lengths: Sequence[int], budget: int) -> list[NDArray[np.intp]]:
    """Cut items, sorted by length, into batches of at most `budget` padded tokens (items × longest).

    Every item is in exactly one batch; one longer than the budget is a batch of its own. Sorting by length is what
    keeps padding from being most of the work.

    Args:
        lengths: tokens of each item, ≥ 0.
        budget: padded tokens, ≥ 1.

    Returns:
        Index arrays, shortest items first.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.intp), kind="stable")
    batches, start = [], 0
    for end, item in enumerate(order):
        longest = max(int(lengths[item]), 1)
        if end > start and longest * (end - start + 1) > budget:
            batches.append(order[start:end])
            start = end
    if start < len(order):
        batches.append(order[start:])
    return batches


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: str, *, grid: tuple[int, int] = (1, 1)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, longest) and the mask of real tokens, both int64 on `device`.

    Args:
        rows: n token lists.
        pad_id: the token that fills.
        device: where to.
        grid: n and the longest are rounded up to multiples of these, with rows of one token at the end: kernels that
            are compiled for each shape then meet few shapes. Fewer rows than one step are rounded up to a power of
            two: a single item must not cost as much as sixteen.
    """
    longest = -(-max(1, *map(len, rows)) // grid[1]) * grid[1]
    count = min(-(-len(rows) // grid[0]) * grid[0], 1 << (len(rows) - 1).bit_length())
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
