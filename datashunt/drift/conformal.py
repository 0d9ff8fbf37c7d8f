"""Conformal p-values: where a new item stands among all before it. Pure; numpy only.

Of n exchangeable items the last is as likely to be any of them, so that its randomised rank

    p = (items in cells below its own + U · items in its own cell, itself included) / n,   U uniform in [0, 1)

is uniform, and the p-values of all items are independent of each other: exactly, for any n, any distribution and any
number of ties. A reference that is too small is no source of error, only of weakness, since it is ranked among itself
and goes on to grow. Source: Vovk, Nouretdinov, Gammerman, *Testing exchangeability on-line* (ICML 2003), theorem 1;
Vovk, *Testing randomness online* (Statistical Science 36, 2021, arXiv 1906.09256).

The independence is of p-values, not of items: whoever bets may know the p-values before, not the items. The cells are
therefore fixed beforehand, and so are the bets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PER_DECADE, DECADES = 20, 5
CONFIDENCE_CELLS = PER_DECADE * DECADES
"""Cells of confidence: twenty for each tenth part of doubt, down to a doubt of 10⁻⁵."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Cells = NDArray[np.intp]


def confidence_cells(confidence: NDArray[np.floating]) -> Cells:
    """(n,) cells from 0, the least sure, to CONFIDENCE_CELLS − 1, of confidences in [0, 1]."""
    doubt = np.maximum(1.0 - confidence.astype(np.float64), 10.0**-DECADES)
    place = np.floor(-PER_DECADE * np.log10(doubt)).astype(np.intp)
    return np.asarray(np.minimum(place, CONFIDENCE_CELLS - 1), dtype=np.intp)


def ranked(before: Counts, cells: Cells, uniforms: Floats) -> tuple[Floats, Counts]:
    """The p-values of items in the order in which they came, and the counts after them.

    Args:
        before: (c,) how many items of each cell came before.
        cells: (n,) in [0, c).
        uniforms: (n,) in [0, 1), drawn for these items and used for nothing else.

    Returns:
        (n,) in [0, 1), and (c,).
    """
    items = np.arange(len(cells))
    counts = np.zeros((len(cells), len(before)), dtype=np.int64)
    counts[items, cells] = 1
    counts = before + counts.cumsum(axis=0)
    own = counts[items, cells]
    up_to = counts.cumsum(axis=1)
    p = (up_to[items, cells] - own + uniforms * own) / up_to[:, -1]
    return p, counts[-1] if len(cells) else before


def uniforms(seed: int, position: int, items: int, streams: int) -> Floats:
    """(items, streams) numbers in [0, 1) that belong to the items from this position on, however they are cut up."""
    source = np.random.PCG64(seed).advance(position * streams)
    return np.random.Generator(source).random((items, streams))
