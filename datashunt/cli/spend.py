"""`datashunt spend [NAME] --by day | model`."""

from __future__ import annotations

from enum import StrEnum

import typer

from datashunt.cli.context import out, print_json, runtime
from datashunt.cli.tables import table as columns
from datashunt.store import classifiers
from datashunt.store import spend as ledger


class By(StrEnum):
    """What the rows are of."""

    DAY = "day"
    MODEL = "model"


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(spend)


def spend(
    name: str | None = typer.Argument(None, help="One classifier; default: all."),
    by: By = typer.Option(By.DAY, "--by", help="A row for each day (UTC), or for each model."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Show what the LLM cost: calls, tokens, USD, and the answers that cost nothing because they were reused."""
    with runtime() as made, made.store.begin() as tx:
        known = classifiers.current(tx, name) if name else None
        found = ledger.spent(tx, by.value, known.id if known else None)
    if as_json:
        print_json([row.to_json(by.value) for row in found])
        return
    table = columns("classifier", by.value, "calls", "in", "cached", "out", "USD", "reused", "unknown")
    for row in found:
        tokens = (row.tokens_in, row.tokens_cached, row.tokens_out)
        counts = [str(number) for number in (row.calls, *tokens)]
        table.add_row(row.classifier, row.group, *counts, f"{row.usd:.6f}", str(row.reused), str(row.unknown))
    out.print(table)
