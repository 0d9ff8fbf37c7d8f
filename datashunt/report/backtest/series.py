"""Figures along the stream of a backtest and of its small model's confidence, for table and picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datashunt.confidence import Bin, expected_calibration_error, reliability
from datashunt.items import ItemState
from datashunt.report.figures import ItemRecord, in_order
from datashunt.report.series import Floats, places_of, rolling, window_of

_SETTLED = 50
"""Outcomes below which a mean over all so far jumps too much to be drawn."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What the outcomes were worth after each item, in order of submission: arrays of shape (items,).

    Attributes:
        calls: spent up to and with this item.
        outcomes: items done.
        accuracy: right labels ÷ done items with gold; NaN where there is none.
        agreement: share of done items whose label is the LLM's, estimated as in the report; NaN where unknown.
    """

    calls: NDArray[np.int64]
    outcomes: NDArray[np.int64]
    accuracy: Floats
    agreement: Floats


@dataclass(frozen=True, slots=True)
class BacktestSeries:
    """What the picture of a backtest draws.

    Attributes:
        window: items in one mean of `kept_share`.
        items: places along the stream, counted from 1; all arrays have this length.
        kept_share: share of items kept.
        calls, accuracy, agreement: as in `Spending`, of all outcomes so far; NaN while there are few.
        bars: the reliability diagram: confidence against agreement with the teacher.
        error: the expected calibration error over 15 bins, in [0, 1]; NaN if nothing was scored.
        scored: items behind both: scored by a bundle, and with a known teacher label.
    """

    window: int
    items: NDArray[np.int64]
    kept_share: Floats
    calls: NDArray[np.int64]
    accuracy: Floats
    agreement: Floats
    bars: tuple[Bin, ...]
    error: float
    scored: int


def spending(records: Iterable[ItemRecord]) -> Spending:
    """Accuracy and agreement of all outcomes so far, beside the calls spent so far.

    Raises:
        DatashuntError: the records contradict themselves.
    """
    stream = in_order(records)
    done = [record.state is ItemState.DONE for record in stream]
    rated = [is_done and record.gold is not None for record, is_done in zip(stream, done, strict=True)]
    return Spending(
        calls=np.cumsum([record.spent for record in stream], dtype=np.int64),
        outcomes=np.cumsum(done, dtype=np.int64),
        accuracy=_running_mean([record.label == record.gold for record in stream], rated),
        agreement=_agreement(stream, done),
    )


def backtest_series(records: Iterable[ItemRecord], *, window: int | None = None) -> BacktestSeries:
    """What happened along the stream, and how far confidence could be believed.

    Args:
        records: all items of the backtest.
        window: items in one mean; default a twentieth of the stream, at least 50.

    Raises:
        DatashuntError: the records contradict themselves.
    """
    stream = in_order(records)
    spent = spending(stream)
    width = window or window_of(len(stream))
    kept = rolling([record.kept for record in stream], [True] * len(stream), width, least=1)
    settled = spent.outcomes >= min(_SETTLED, len(stream) // 20)
    places = places_of(len(stream))
    pairs = [
        (record.confidence, record.small_label == record.teacher)
        for record in stream
        if record.bundle is not None and record.confidence is not None and record.teacher is not None
    ]
    confidence, agrees = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return BacktestSeries(
        window=width,
        items=places + 1,
        kept_share=kept[places],
        calls=spent.calls[places],
        accuracy=np.where(settled, spent.accuracy, np.nan)[places],
        agreement=np.where(settled, spent.agreement, np.nan)[places],
        bars=tuple(reliability(confidence, agrees)),
        error=expected_calibration_error(confidence, agrees),
        scored=len(pairs),
    )


def _agreement(stream: Sequence[ItemRecord], done: Sequence[bool]) -> Floats:
    """Of kept and of other outcomes, those with a known LLM label stand for their group (post-stratification)."""
    same = [record.label == record.reference and record.label is not None for record in stream]
    total = np.zeros(len(stream))
    for kept in (True, False):
        group = [is_done and record.kept is kept for record, is_done in zip(stream, done, strict=True)]
        known = [inside and record.compared for record, inside in zip(stream, group, strict=True)]
        size = np.cumsum(group)
        total += np.where(size > 0, size * _running_mean(same, known), 0.0)
    return _ratio(total, np.cumsum(done))


def _running_mean(values: Sequence[bool], counted: Sequence[bool]) -> Floats:
    """Mean of the counted values so far; NaN before the first."""
    hits = np.cumsum(np.logical_and(values, counted), dtype=np.float64)
    return _ratio(hits, np.cumsum(counted))


def _ratio(above: Floats, below: NDArray[np.int64]) -> Floats:
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)
