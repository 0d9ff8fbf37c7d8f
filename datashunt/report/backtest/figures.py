"""The schema of a backtest's report.json, and the one function that fills it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal, TypedDict

import numpy as np

from datashunt.report.backtest.series import spending
from datashunt.report.figures import BundleRecord, DistillationRecord, ItemRecord, Report, build

STEP = 1_000
"""Calls between two rows of `accuracy_by_1000_calls`."""


class CallsFigures(TypedDict):
    """The outcomes up to the item that spent the last of these calls; in the last row, up to the stream's end."""

    calls: int
    items: int
    accuracy: float | None
    agreement: float | None


class LabelFigures(TypedDict):
    """What became of one label. Shares are null where there is nothing to count.

    | field | meaning |
    |---|---|
    | label | its name |
    | teacher, outcomes | items to which the LLM gives it; items that are done with it |
    | recall, precision | of the former, those done with it; of the latter, those to which the LLM gives it |
    | kept, kept_recall | kept items to which the LLM gives it; share of them that the small model gave it |
    """

    label: str
    teacher: int
    outcomes: int
    recall: float | None
    precision: float | None
    kept: int
    kept_recall: float | None


class CertificateFigures(TypedDict):
    """A certificate that a bundle got.

    | field | meaning |
    |---|---|
    | bundle, threshold | of what it speaks |
    | alpha, delta, of | at most alpha of the kept items, or of all, disagree with the LLM, probability ≥ 1 - delta |
    | n, k, method | on n held-out answers, k of which disagreed, by this bound |
    | at_item | how many items had been scored when it was given: its place along the stream |
    """

    bundle: int
    threshold: float
    alpha: float
    of: Literal["kept", "all"]
    delta: float
    n: int
    k: int
    method: str
    at_item: int


class BacktestReport(Report):
    """report.json of a backtest: that of a run, and five fields more. Shares are fractions of 1.

    | field | meaning |
    |---|---|
    | accuracy_by_1000_calls | the outcomes so far when 1,000, 2,000, … calls had been spent, and at the end |
    | … calls, items | calls spent; items up to there, in stream order |
    | … accuracy | right labels ÷ outcomes with gold |
    | … agreement | share of the outcomes whose label is the teacher's |
    | certificates | each that a bundle got |
    | labels | each label of the classifier |
    | unanswered | items for which the record holds no usable answer; no label agrees with that |
    | left_out | lines of the file that hold no item |
    """

    accuracy_by_1000_calls: list[CallsFigures]
    certificates: list[CertificateFigures]
    labels: list[LabelFigures]
    unanswered: int
    left_out: int


def build_backtest(
    records: Iterable[ItemRecord],
    *,
    certificates: Iterable[CertificateFigures],
    llm_calls: int,
    cost_usd: Decimal,
    cost_if_all_llm_usd: Decimal,
    bundles: Iterable[BundleRecord],
    distillations: Iterable[DistillationRecord],
    seconds: float,
    left_out: int = 0,
    labels: Sequence[str] = (),
) -> BacktestReport:
    """The figures of a backtest; all but `certificates`, `left_out` and `labels` is as for `build`.

    Raises:
        DatashuntError: the records contradict themselves.
    """
    stream = list(records)
    figures = build(
        stream,
        llm_calls=llm_calls,
        cost_usd=cost_usd,
        cost_if_all_llm_usd=cost_if_all_llm_usd,
        bundles=bundles,
        distillations=distillations,
        seconds=seconds,
    )
    return {
        **figures,
        "accuracy_by_1000_calls": _by_calls(stream),
        "certificates": list(certificates),
        "labels": [_label(label, stream) for label in labels],
        "unanswered": sum(record.teacher is None for record in stream),
        "left_out": left_out,
    }


def _label(label: str, records: Sequence[ItemRecord]) -> LabelFigures:
    meant = [record for record in records if record.teacher == label]
    got = [record for record in records if record.label == label]
    kept = [record for record in meant if record.kept]
    right = sum(record.label == label for record in meant)
    return {
        "label": label,
        "teacher": len(meant),
        "outcomes": len(got),
        "recall": _share(right, len(meant)),
        "precision": _share(right, len(got)),
        "kept": len(kept),
        "kept_recall": _share(sum(record.label == label for record in kept), len(kept)),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _by_calls(records: list[ItemRecord]) -> list[CallsFigures]:
    spent = spending(records)
    if not records:
        return []
    marks = np.arange(STEP, int(spent.calls[-1]) + 1, STEP)
    ends = {*np.searchsorted(spent.calls, marks).tolist(), len(records) - 1}
    return [
        {
            "calls": int(spent.calls[end]),
            "items": end + 1,
            "accuracy": _known(spent.accuracy[end]),
            "agreement": _known(spent.agreement[end]),
        }
        for end in sorted(ends)
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
