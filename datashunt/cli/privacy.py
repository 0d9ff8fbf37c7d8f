"""`datashunt forget`."""

from __future__ import annotations

import typer

from datashunt.cli.context import runtime
from datashunt.errors import UsageError
from datashunt.store import classifiers
from datashunt.store import forget as forgetting

DAY_S = 86_400.0


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(forget)


def forget(
    name: str,
    ids: list[str] = typer.Argument(None, help="Ids of items."),
    older_than: float | None = typer.Option(
        None,
        "--older-than",
        help="Instead: only texts of all items that ended so many days ago.",
        min=0,
        max=36_500,
    ),
) -> None:
    """Remove what items said and what was said of them; keep what they cost. This cannot be undone."""
    if (older_than is None) == (not ids):
        raise UsageError("forget: expected either ids of items, or --older-than DAYS")
    with runtime() as made, made.store.begin() as tx:
        known = classifiers.id_of(tx, name)
        if older_than is not None:
            count = forgetting.old_texts(tx, known, older_than * DAY_S)
            found = None
        else:
            found = forgetting.forget(tx, known, name, ids)
    if found is None:
        print(f"{count} texts removed")
        return
    print(f"{found.items} forgotten")
    if found.in_flight:
        print(f"{found.in_flight} of them were being worked on: run this again in a minute, for what a call left")
    if found.bundles:
        versions = ", ".join(map(str, found.bundles))
        print(f"bundles that may have learnt from them: {versions}; see docs/security.md")
    if found.distilling:
        print("a distillation that runs may be learning from them: run this again when it has ended, for its bundle")
