"""What a backtest came to: its ledger as the records of a report, and the files of its folder.

Imports the ledger, options, recording, report and llm. No engine is needed: a run that ended is written as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from datashunt import llm, report
from datashunt.backtest.ledger import Decision, Trained, Tried
from datashunt.backtest.options import Options
from datashunt.backtest.recording import Recorded
from datashunt.classifier import Spec
from datashunt.items import ItemState, Reason, Role, Source
from datashunt.policy import TargetPolicy
from datashunt.report import (
    About,
    BacktestReport,
    BundleRecord,
    CertificateFigures,
    DistillationRecord,
    ItemRecord,
)

REPORT, PICTURE, PAGE, OUTCOMES = "report.json", "report.png", "report.html", "outcomes.jsonl"


@dataclass(frozen=True, slots=True)
class Finished:
    """A whole run.

    Attributes:
        spec: the classifier, with the threshold of the run.
        stream: the items in the order in which they were decided.
        decisions: one for each of them. trained: the distillations that ended. tried: the trials.
        options: how it ran.
        seconds: how long it took.
        left_out: lines of the file that hold no items.
    """

    spec: Spec
    stream: Sequence[Recorded]
    decisions: Sequence[Decision]
    trained: Sequence[Trained]
    tried: Sequence[Tried]
    options: Options
    seconds: float
    left_out: int = 0


def write(run: Finished, about: About, folder: Path) -> BacktestReport:
    """Write report.json, outcomes.jsonl, report.png and report.html; what stood there is replaced.

    Raises:
        UsageError: matplotlib is not installed.
    """
    made = records(run.stream, run.decisions)
    figures = build(run, made)
    with (folder / OUTCOMES).open("w", encoding="utf-8", newline="\n") as sink:
        sink.writelines(f"{line}\n" for line in outcomes(run.decisions))
    report.write_json(figures, folder / REPORT)
    report.write_backtest_png(figures, report.backtest_series(made), about, folder / PICTURE)
    report.write_backtest_html(figures, about, folder / PICTURE, folder / PAGE)
    return figures


def build(run: Finished, made: Sequence[ItemRecord]) -> BacktestReport:
    """The figures of a run, from its records."""
    return report.build_backtest(
        made,
        certificates=certificates(run.tried, run.options.of),
        llm_calls=sum(decision.calls for decision in run.decisions),
        cost_usd=sum((Decimal(str(decision.cost_usd)) for decision in run.decisions), Decimal(0)),
        cost_if_all_llm_usd=sum((llm.estimate(run.spec, item.text) for item in run.stream), Decimal(0)),
        bundles=bundles(run),
        distillations=distillations(run.trained),
        seconds=run.seconds,
        left_out=run.left_out,
        labels=run.spec.label_names,
    )


def records(stream: Sequence[Recorded], decisions: Sequence[Decision]) -> list[ItemRecord]:
    """What became of each item, with what the LLM and whoever knows better say of it.

    Raises:
        ValueError: there is not one decision for each item.
    """
    return [_record(item, decision) for item, decision in zip(stream, decisions, strict=True)]


def _record(item: Recorded, decision: Decision) -> ItemRecord:
    return ItemRecord(
        id=decision.id,
        position=decision.position,
        state=state(decision),
        label=decision.label,
        source=None if decision.source is None else Source(decision.source),
        bundle=decision.bundle,
        small_label=decision.small_label,
        escalated=decision.reason == Reason.ESCALATION,
        audited=decision.audited,
        llm_label=decision.answer,
        teacher=item.teacher,
        recorded=True,
        gold=item.gold,
        confidence=decision.small_confidence,
        calls=decision.calls,
    )


def state(decision: Decision) -> ItemState:
    """Done with a label; dead if it was asked and nothing came; held if nobody could be asked."""
    if decision.label is not None:
        return ItemState.DONE
    return ItemState.HELD if decision.reason is None else ItemState.DEAD


def outcomes(decisions: Sequence[Decision]) -> Iterator[str]:
    """One JSON line for each item in the order of deciding; all but the id is null where it has no outcome.

    As in `datashunt results`, `bundle` is the one whose label was kept, and null if the label is the LLM's.
    """
    for decision in decisions:
        outcome = {
            "id": decision.id,
            "label": decision.label,
            "source": decision.source,
            "confidence": decision.confidence,
            "bundle": decision.bundle if decision.source == Source.SMALL else None,
        }
        yield json.dumps(outcome, ensure_ascii=False)


def bundles(run: Finished) -> list[BundleRecord]:
    """Every bundle that served, with the threshold that it served at.

    Where calls were limited, each batch had a threshold of its own: the lowest confidence that was kept stands for
    them. With a target a bundle without a certificate kept nothing, which is 1, unless the file says that it keeps.
    """
    policy = run.spec.policy
    unproven = 1.0 if run.options.alpha is not None else None
    if isinstance(policy, TargetPolicy) and policy.on_uncertified == "keep":
        unproven = policy.threshold
    kept: dict[int, float] = {}
    for decision in run.decisions if run.options.max_calls is not None else ():
        if decision.source == Source.SMALL and decision.bundle is not None and decision.confidence is not None:
            kept[decision.bundle] = min(decision.confidence, kept.get(decision.bundle, 1.0))

    def threshold(one: Trained) -> float:
        if unproven is not None:
            return one.certificate["threshold"] if one.certificate else unproven
        return kept.get(one.number, one.threshold)

    return [BundleRecord(one.number, one.recipe, threshold(one)) for one in run.trained if one.state == "promoted"]


def distillations(trained: Sequence[Trained]) -> list[DistillationRecord]:
    """Every distillation, in order."""
    return [
        DistillationRecord(
            at_item=one.at_item,
            state=one.state,
            reason=one.verdict["reason"],
            bundle=one.number if one.folder else None,
            recipe=one.recipe or None,
            answers=one.counts[Role.TRAIN] + one.counts[Role.FIT] if one.folder else 0,
            judged=one.counts[Role.JUDGE],
            agreement=one.verdict.get("agreement_challenger"),
            incumbent_agreement=one.verdict.get("agreement_incumbent"),
            seconds=one.seconds,
        )
        for one in trained
    ]


def certificates(tried: Sequence[Tried], of: Literal["kept", "all"]) -> list[CertificateFigures]:
    """Every certificate that a bundle got, in order."""
    granted = [(one, each) for one in tried for each in one.granted]
    return [
        {
            "bundle": one.bundle,
            "threshold": each["threshold"],
            "alpha": each["alpha"],
            "of": of,
            "delta": each["delta"],
            "n": each["n"],
            "k": each["k"],
            "method": each["method"],
            "at_item": each["at_item"],
        }
        for one, each in sorted(granted, key=lambda pair: pair[1]["at_item"])
    ]
