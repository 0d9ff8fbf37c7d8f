"""`datashunt retention`."""

from __future__ import annotations

import typer

from datashunt.cli.context import runtime
from datashunt.errors import UsageError
from datashunt.pipeline.retention import MonthsFate, Removed


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(retention)


def retention(
    name: str | None = typer.Argument(None, help="One classifier."),
    everyone: bool = typer.Option(False, "--all", help="Of all classifiers."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be removed, and what is kept and why."),
) -> None:
    """Remove what was said of items that are older than policy.retention_days, and ids after policy.idempotency_days.

    Outcomes, counts and costs stay. This cannot be undone.
    """
    if everyone == (name is not None):
        raise UsageError("retention: expected either the name of a classifier, or --all")
    with runtime() as made:
        found = made.retention.run(name, dry_run=dry_run)
    for line in _lines(found, dry_run):
        print(line)


def _lines(found: Removed, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    lines = [line for month in found.months for line in _of_month(month, would)]
    lines += [f"{name}: {count:,} ids {would}removed" for name, count in found.ids.items()]
    return lines or ["nothing is old enough"]


def _of_month(month: MonthsFate, would: str) -> list[str]:
    lines = [
        f"{month.name} {part.classifier}: {part.items:,} items: "
        + (f"kept, {part.kept}" if part.kept else f"{would}removed")
        for part in month.parts
    ]
    if month.dropped:
        lines.append(f"{month.name}: {would}dropped, {month.size / 1e6:,.1f} MB")
    return lines
