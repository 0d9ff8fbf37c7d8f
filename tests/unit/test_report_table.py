from __future__ import annotations

import io
from decimal import Decimal

from rich.console import Console

from datashunt import report
from datashunt.items import ItemState, Source
from datashunt.report import DistillationRecord, ItemRecord


def printed(*, held: int = 0, cost_if_all: int = 4) -> str:
    records = [ItemRecord(f"i{n}", n, ItemState.DONE, "a", Source.LLM, escalated=True, gold="a") for n in range(20)]
    records += [ItemRecord(f"h{n}", 20 + n, ItemState.HELD) for n in range(held)]
    run = DistillationRecord(10, "promoted", "no worse", 1, "head", 10, 30, 0.9, 0.8, 1.0)
    figures = report.build(
        records,
        llm_calls=21,
        cost_usd=Decimal(1),
        cost_if_all_llm_usd=Decimal(cost_if_all),
        bundles=[],
        distillations=[run, run, DistillationRecord(15, "rejected", "worse", 2, "full", 10, 30, 0.7, 0.9, 1.0)],
        seconds=61.4,
    )
    sink = io.StringIO()
    Console(file=sink, width=80).print(report.summary(figures))
    return sink.getvalue()


def test_the_table_holds_what_a_run_came_to_in_80_columns() -> None:
    shown = printed()
    for part in ("20 (20 done, 0 dead)", "20 escalated, 0 audited", "21", "100.0% → 100.0%", "$1.00 ($4.00)", "61"):
        assert part in shown
    assert "2 promoted, 1 rejected" in shown


def test_held_items_and_unknown_prices_are_not_hidden() -> None:
    assert "22 (20 done, 0 dead, 2 held)" in printed(held=2)
    assert "cost" not in printed(cost_if_all=0)
