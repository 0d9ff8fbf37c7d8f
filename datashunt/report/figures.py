"""The one schema of report.json, and the one function that fills it. Pure but for `write_json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

from datashunt.errors import DatashuntError
from datashunt.items import ItemState, Source


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """What became of one item.

    Attributes:
        position: its place in the order of submission; only the order counts.
        label: its current outcome, None unless done. source: whom that is from.
        bundle: version of the small model that scored it last, and small_label: that model's first choice.
        escalated: asked because its outcome waited for the answer. audited: drawn for the audit.
        llm_label: what the LLM answered, if it was asked and did.
        teacher: what the LLM says to the full prompt, where that is known without asking (a simulation).
        recorded: whether what the LLM says is known even where it is no answer, which no label agrees with.
        gold: the right label, where somebody knows it.
        confidence: the small model's calibrated confidence in its first choice at its last score, in [0, 1].
        calls: requests spent on it, where that is known; else one is taken for each item asked.
    """

    id: str
    position: int
    state: ItemState
    label: str | None = None
    source: Source | None = None
    bundle: int | None = None
    small_label: str | None = None
    escalated: bool = False
    audited: bool = False
    llm_label: str | None = None
    teacher: str | None = None
    recorded: bool = False
    gold: str | None = None
    confidence: float | None = None
    calls: int | None = None

    @property
    def asked(self) -> bool:
        """Whether the LLM was asked, for any reason."""
        return self.escalated or self.audited

    @property
    def spent(self) -> int:
        """Requests spent on it. An item that got the answer of an earlier, equal one is asked and spends none."""
        return int(self.asked) if self.calls is None else self.calls

    @property
    def kept(self) -> bool:
        """Whether it is done with the small model's label."""
        return self.state is ItemState.DONE and self.source is Source.SMALL

    @property
    def reference(self) -> str | None:
        """The LLM's label, or None. Of kept items only audits count, since they are drawn at random."""
        if self.teacher is not None:
            return self.teacher
        return self.llm_label if self.audited or not self.kept else None

    @property
    def compared(self) -> bool:
        """Whether it is known what the LLM says, be it that it gives no answer."""
        return self.recorded or self.reference is not None

    def agrees(self, label: str | None) -> bool | None:
        """Whether the LLM says this label; None where nobody knows."""
        return label == self.reference if label is not None and self.compared else None


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """A bundle that served, with the threshold it served at."""

    version: int
    recipe: str
    threshold: float


@dataclass(frozen=True, slots=True)
class DistillationRecord:
    """One distillation that ended.

    Attributes:
        at_item: how many items had been scored when it ended: its place along the stream.
        state: promoted, rejected, overtaken or failed. reason: the verdict or error in words.
        bundle: version of the challenger, if there was one.
        answers: LLM answers it learned from. judged: held-out answers it was judged on.
        agreement: of the challenger with those. incumbent_agreement: of the bundle that served.
        seconds: how long it took.
    """

    at_item: int
    state: str
    reason: str
    bundle: int | None
    recipe: str | None
    answers: int
    judged: int
    agreement: float | None
    incumbent_agreement: float | None
    seconds: float


class BundleFigures(TypedDict):
    """One bundle: items it scored last, those kept, and its own first choice against gold and the LLM."""

    version: int
    recipe: str
    threshold: float
    scored: int
    kept: int
    accuracy: float | None
    agreement: float | None


class DistillationFigures(TypedDict):
    """A `DistillationRecord` as JSON."""

    at_item: int
    state: str
    reason: str
    bundle: int | None
    recipe: str | None
    answers: int
    judged: int
    agreement: float | None
    incumbent_agreement: float | None
    seconds: float


class Report(TypedDict):
    """report.json. Shares and accuracies are fractions of 1, null where nothing is known; money is USD.

    | field | meaning |
    |---|---|
    | items, done, dead, held | items submitted, and those in these states |
    | kept | done with the small model's label |
    | escalated, audited | asked because the outcome waited; drawn for the audit (one item can be both) |
    | llm_calls | HTTP requests the LLM served |
    | llm_share | items asked for any reason ÷ items; the answer of an earlier, equal text is no question |
    | llm_share_by_tenth | the same for each tenth of the stream, in order of submission |
    | accuracy | right labels ÷ done items with gold |
    | llm_accuracy | what the LLM alone would score on the very same items |
    | agreement | share of done items whose label is the LLM's |
    | kept_disagreement | share of kept items whose label is not the LLM's |
    | bundles | each that served: items scored and kept, accuracy and agreement of its own first choice |
    | distillations | each that ended, with its place along the stream and its verdict |
    | cost_usd, cost_if_all_llm_usd | what was paid; what asking about every item would have cost |
    | seconds | wall clock of the run |

    Where the LLM's label is not known for all items, these are estimates, unbiased while the audit rate does
    not change: audits stand for all kept items, answered items for all others, each group with its true size
    (post-stratification). llm_accuracy is accuracy plus the estimated difference, since that varies little.
    """

    items: int
    done: int
    dead: int
    held: int
    kept: int
    escalated: int
    audited: int
    llm_calls: int
    llm_share: float | None
    llm_share_by_tenth: list[float | None]
    accuracy: float | None
    llm_accuracy: float | None
    agreement: float | None
    kept_disagreement: float | None
    bundles: list[BundleFigures]
    distillations: list[DistillationFigures]
    cost_usd: float
    cost_if_all_llm_usd: float
    seconds: float


def build(
    records: Iterable[ItemRecord],
    *,
    llm_calls: int,
    cost_usd: Decimal,
    cost_if_all_llm_usd: Decimal,
    bundles: Iterable[BundleRecord],
    distillations: Iterable[DistillationRecord],
    seconds: float,
) -> Report:
    """The figures of a run.

    Raises:
        DatashuntError: the records contradict themselves, so no figure from them could be trusted.
    """
    stream = in_order(records)
    done = [record for record in stream if record.state is ItemState.DONE]
    rated = [record for record in done if record.gold is not None]
    return {
        "items": len(stream),
        "done": len(done),
        "dead": _count(record.state is ItemState.DEAD for record in stream),
        "held": _count(record.state is ItemState.HELD for record in stream),
        "kept": _count(record.kept for record in stream),
        "escalated": _count(record.escalated for record in stream),
        "audited": _count(record.audited for record in stream),
        "llm_calls": llm_calls,
        "llm_share": _mean(record.spent > 0 for record in stream),
        "llm_share_by_tenth": [_mean(record.spent > 0 for record in part) for part in _tenths(stream)],
        "accuracy": _mean(record.label == record.gold for record in rated),
        "llm_accuracy": _llm_accuracy(rated),
        "agreement": _estimate(done, lambda record: record.agrees(record.label)),
        "kept_disagreement": _kept_disagreement(done),
        "bundles": [_bundle(bundle, stream) for bundle in bundles],
        "distillations": [_distillation(distillation) for distillation in distillations],
        "cost_usd": _usd(cost_usd),
        "cost_if_all_llm_usd": _usd(cost_if_all_llm_usd),
        "seconds": round(seconds, 3),
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report with its fields in the order of the schema."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def in_order(records: Iterable[ItemRecord]) -> list[ItemRecord]:
    """The records in the order of submission.

    Raises:
        DatashuntError: an item or a position stands twice, or an item is done without a label or the reverse.
    """
    stream = sorted(records, key=lambda record: record.position)
    seen: set[str] = set()
    for before, record in zip([None, *stream], stream, strict=False):
        if record.id in seen or (before is not None and before.position == record.position):
            raise DatashuntError(f"no report: item {record.id!r} or its position stands twice in the records")
        seen.add(record.id)
        is_done = record.state is ItemState.DONE
        if is_done != (record.label is not None) or is_done != (record.source is not None):
            raise DatashuntError(
                f"no report: item {record.id!r} is {record.state} with label {record.label!r} from"
                f" {record.source}: an item has an outcome if and only if it is done"
            )
    return stream


def _tenths(stream: Sequence[ItemRecord]) -> list[Sequence[ItemRecord]]:
    edges = [len(stream) * part // 10 for part in range(11)]
    return [stream[start:end] for start, end in pairwise(edges)]


def _llm_accuracy(rated: Sequence[ItemRecord]) -> float | None:
    """Accuracy of the outcomes plus the mean of (LLM right - outcome right): outcomes are known for all."""

    def gain(record: ItemRecord) -> int | None:
        if not record.compared:
            return None
        return (record.reference == record.gold) - (record.label == record.gold)

    accuracy, difference = _mean(r.label == r.gold for r in rated), _estimate(rated, gain)
    return None if accuracy is None or difference is None else round(accuracy + difference, 6)


def _kept_disagreement(done: Sequence[ItemRecord]) -> float | None:
    agreement = _estimate([record for record in done if record.kept], lambda record: record.agrees(record.label))
    return None if agreement is None else round(1.0 - agreement, 6)


def _bundle(bundle: BundleRecord, stream: Sequence[ItemRecord]) -> BundleFigures:
    scored = [record for record in stream if record.bundle == bundle.version]
    return {
        "version": bundle.version,
        "recipe": bundle.recipe,
        "threshold": bundle.threshold,
        "scored": len(scored),
        "kept": _count(record.kept for record in scored),
        "accuracy": _mean(r.small_label == r.gold for r in scored if r.gold is not None),
        "agreement": _estimate(scored, lambda record: record.agrees(record.small_label)),
    }


def _distillation(record: DistillationRecord) -> DistillationFigures:
    return {
        "at_item": record.at_item,
        "state": record.state,
        "reason": record.reason,
        "bundle": record.bundle,
        "recipe": record.recipe,
        "answers": record.answers,
        "judged": record.judged,
        "agreement": _rounded(record.agreement),
        "incumbent_agreement": _rounded(record.incumbent_agreement),
        "seconds": round(record.seconds, 3),
    }


def _estimate(records: Sequence[ItemRecord], value: Callable[[ItemRecord], int | None]) -> float | None:
    """Mean of a value known for some: what is known of kept and of other items stands for each group."""
    total = 0.0
    for kept in (True, False):
        group = [value(record) for record in records if record.kept is kept]
        known = [found for found in group if found is not None]
        if group and not known:
            return None
        total += len(group) * sum(known) / max(1, len(known))
    return round(total / len(records), 6) if records else None


def _mean(values: Iterable[bool]) -> float | None:
    found = list(values)
    return round(sum(found) / len(found), 6) if found else None


def _count(values: Iterable[bool]) -> int:
    return sum(values)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _usd(amount: Decimal) -> float:
    return float(round(amount, 6))
