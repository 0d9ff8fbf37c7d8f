"""`datashunt forget`."""

from __future__ import annotations

import typer

from datashunt.cli.context import runtime
from datashunt.errors import UsageError
from datashunt.store import Store, classifiers, texts
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
    yes: bool = typer.Option(False, "--yes", help="Do not ask, which --older-than does."),
) -> None:
    """Remove what items said and what was said of them; keep what they cost. This cannot be undone."""
    if (older_than is None) == (not ids):
        raise UsageError("forget: expected either ids of items, or --older-than DAYS")
    if older_than is not None and not yes:
        typer.confirm(f"This removes the texts of all items of {name} that ended so long ago. Go on?", abort=True)
    with runtime() as made:
        if older_than is not None:
            print(f"{_remove_old(made.store, name, older_than * DAY_S)} texts removed")
            return
        with made.store.begin() as tx:
            found = forgetting.forget(tx, classifiers.id_of(tx, name), name, ids)
    print(f"{found.items} forgotten")
    if found.in_flight:
        print(f"{found.in_flight} of them were being worked on: run this again in a minute, for what a call left")
    if found.bundles:
        versions = ", ".join(map(str, found.bundles))
        print(f"bundles that may have learnt from them: {versions}; see docs/security.md")
    if found.distilling:
        print("a distillation that runs may be learning from them: run this again when it has ended, for its bundle")


def _remove_old(store: Store, name: str, older_s: float) -> int:
    """Remove them some thousand at a time; returns how many."""
    count, after = 0, 0
    while True:
        with store.begin() as tx:
            removed, last = texts.remove_old(tx, classifiers.id_of(tx, name), older_s, after=after)
        count += removed
        if last is None:
            return count
        after = last
