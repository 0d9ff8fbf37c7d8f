"""Figures along the stream, for the picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt.items import ItemState
from datashunt.report.figures import ItemRecord, in_order

POINTS = 1_500
"""Most points of one line: more than a picture has columns."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """Means over the `window` items up to each place. NaN where too few of them are known.

    Attributes:
        items: places along the stream, counted from 1; all arrays have this length.
        llm_share: share of items asked for any reason.
        accuracy: right labels among done items with gold; None if no item has gold.
        llm_accuracy: the LLM alone, on the same items; None unless its label is known for all of them.
    """

    window: int
    items: NDArray[np.int64]
    llm_share: Floats
    accuracy: Floats | None
    llm_accuracy: Floats | None


def series(records: Iterable[ItemRecord], *, window: int | None = None) -> Series:
    """What happened along the stream, in order of submission.

    Args:
        records: all items of the run.
        window: items in one mean; default a twentieth of the stream, at least 50.

    Raises:
        DatashuntError: the records contradict themselves.
    """
    stream = in_order(records)
    width = window or window_of(len(stream))
    rated = [record.state is ItemState.DONE and record.gold is not None for record in stream]
    pairs = [record for record, is_rated in zip(stream, rated, strict=True) if is_rated]
    all_known = all(record.reference is not None for record in pairs)
    share = rolling([record.asked for record in stream], [True] * len(stream), width, least=1)
    accuracy = rolling([record.label == record.gold for record in stream], rated, width, least=width // 2)
    llm = rolling([record.reference == record.gold for record in stream], rated, width, least=width // 2)
    places = places_of(len(stream))
    return Series(
        window=width,
        items=places + 1,
        llm_share=share[places],
        accuracy=accuracy[places] if pairs else None,
        llm_accuracy=llm[places] if pairs and all_known else None,
    )


def window_of(items: int) -> int:
    """Items in one mean, unless somebody says otherwise: a twentieth of the stream, at least 50."""
    return max(50, items // 20)


def places_of(items: int) -> NDArray[np.int64]:
    """At most POINTS places of a stream, counted from 0, evenly spread and with both ends."""
    return np.unique(np.linspace(0, items - 1, min(POINTS, items)).round().astype(np.int64))


def rolling(values: Sequence[bool], counted: Sequence[bool], width: int, *, least: int) -> Floats:
    """Mean of the counted values among the last `width`, NaN where fewer than `least` are counted."""
    weights = np.asarray(counted, dtype=np.float64)
    sums = _windowed(np.asarray(values, dtype=np.float64) * weights, width)
    counts = _windowed(weights, width)
    enough = counts >= max(1, least)
    return np.where(enough, sums / np.maximum(counts, 1.0), np.nan)


def _windowed(values: Floats, width: int) -> Floats:
    totals = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(totals))
    windowed: Floats = totals[ends] - totals[np.maximum(0, ends - width)]
    return windowed
