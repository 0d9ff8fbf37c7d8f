"""`datashunt dead list | retry`."""

from __future__ import annotations

import typer

from datashunt.cli.context import err, out, print_json, runtime
from datashunt.cli.tables import table as columns
from datashunt.errors import BrokerError, UsageError
from datashunt.store import classifiers
from datashunt.store import dead as letters

app = typer.Typer(help="See and replay what could not be finished.", no_args_is_help=True)


@app.command("list")
def list_(name: str, as_json: bool = typer.Option(False, "--json", help="For programs.")) -> None:
    """List dead letters with their reasons."""
    with runtime() as made, made.store.begin() as tx:
        found = letters.listed(tx, classifiers.current(tx, name).id)
    if as_json:
        print_json(
            [
                {
                    "id": one.id,
                    "kind": one.kind,
                    "reason": one.reason,
                    "detail": one.detail,
                    "created_at": one.created_at.isoformat(),
                }
                for one in found
            ]
        )
        return
    table = columns("id", "kind", "reason", "detail", "since")
    for one in found:
        table.add_row(one.id, one.kind, one.reason, one.detail, f"{one.created_at:%Y-%m-%d %H:%M:%S}")
    out.print(table)


@app.command()
def retry(name: str, ids: list[str] = typer.Argument(None, help="Item ids; default: all dead letters.")) -> None:
    """Give dead letters another life."""
    with runtime() as made:
        publisher = made.publisher  # a setting that is missing is told before anything is changed
        with made.store.begin() as tx:
            known = classifiers.current(tx, name)
            alive = sorted(set(ids or ()) - {letter.id for letter in letters.listed(tx, known.id)})
            if alive:
                raise UsageError(f"{name} has no dead letter of {', '.join(alive)}: nothing was replayed")
            wakes = letters.replay(tx, known.id, name, ids or None)
        try:
            publisher.publish(wakes)
        except BrokerError as error:
            err.print(f"datashunt: {error}; they will be found within seconds all the same", markup=False)
    print(f"{sum(len(wake.ids) for wake in wakes)} replayed")
