"""The figures of a report as a table for a terminal. Imports report parts only; rich when a table is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datashunt.report.figures import Report
from datashunt.report.words import percent, usd

if TYPE_CHECKING:
    from rich.table import Table


def summary(report: Report) -> Table:
    """What a run came to."""
    from rich.table import Table

    table = Table(show_header=False, title="What it came to", title_justify="left")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in _rows(report):
        table.add_row(name, value)
    return table


def _rows(report: Report) -> list[tuple[str, str]]:
    tenths = report["llm_share_by_tenth"]
    ends = [f"{report['done']:,} done", f"{report['dead']:,} dead"]
    if report["held"]:
        ends.append(f"{report['held']:,} held")
    rows = [
        ("items", f"{report['items']:,} ({', '.join(ends)})"),
        ("kept by the small model", f"{report['kept']:,}"),
        ("asked the LLM", f"{report['escalated']:,} escalated, {report['audited']:,} audited"),
        ("calls", f"{report['llm_calls']:,}"),
        ("LLM share, first tenth → last", f"{percent(tenths[0])} → {percent(tenths[-1])}"),
        ("agreement with the LLM", percent(report["agreement"])),
        ("kept items that differ from the LLM", percent(report["kept_disagreement"])),
        ("accuracy (the LLM alone)", f"{percent(report['accuracy'])} ({percent(report['llm_accuracy'])})"),
        ("distillations", _distillations(report)),
        ("cost (asking about everything)", f"{usd(report['cost_usd'])} ({usd(report['cost_if_all_llm_usd'])})"),
        ("seconds", f"{report['seconds']:.0f}"),
    ]
    return rows if report["cost_if_all_llm_usd"] else [row for row in rows if not row[0].startswith("cost")]


def _distillations(report: Report) -> str:
    """How many ended in which state, in the order in which the states came."""
    states = [entry["state"] for entry in report["distillations"]]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
