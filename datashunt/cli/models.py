"""`datashunt models list | promote | rollback | prune`."""

from __future__ import annotations

import typer

from datashunt.cli.context import out, print_json, runtime
from datashunt.cli.tables import table as columns
from datashunt.store import bundles, classifiers

app = typer.Typer(help="See and choose which small model serves.", no_args_is_help=True)


@app.command("list")
def list_(name: str, as_json: bool = typer.Option(False, "--json", help="For programs.")) -> None:
    """List the bundles of a classifier with their evaluation on held-out answers."""
    with runtime() as made, made.store.begin() as tx:
        known = classifiers.current(tx, name)
        found = bundles.listed(tx, known.id)
    serving = known.incumbent.id if known.incumbent else None
    if as_json:
        print_json(
            [
                {
                    "version": one.version,
                    "state": one.state,
                    "serves": one.id == serving,
                    "recipe": one.recipe,
                    "uri": one.uri,
                    "content_hash": one.content_hash,
                    "created_at": one.created_at.isoformat(),
                    "evaluation": one.evaluation,
                }
                for one in found
            ]
        )
        return
    table = columns(
        "version", "serves", "state", "recipe", "agreement", "kept", "judge answers", "bf16 changes", "created"
    )
    for one in found:
        judged = one.evaluation.get("judge", {})
        table.add_row(
            str(one.version),
            "●" if one.id == serving else "",
            f"{one.state}, files removed" if bundles.REMOVED in one.evaluation else one.state,
            one.recipe,
            _share(judged.get("agreement")),
            _share(judged.get("coverage")),
            str(judged.get("n", "–")),
            _share(one.evaluation.get("rounding", {}).get("changed_beyond")),
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
        )
    out.print(table)


@app.command()
def promote(name: str, version: int) -> None:
    """Let this bundle serve, whatever its evaluation says."""
    with runtime() as made, made.store.begin() as tx:
        bundle = bundles.promote_by_hand(tx, classifiers.current(tx, name), version)
    print(f"{name}: bundle {bundle.version} serves")


@app.command()
def rollback(name: str) -> None:
    """Let the bundle serve that served before the present one."""
    with runtime() as made, made.store.begin() as tx:
        bundle = bundles.rollback(tx, classifiers.current(tx, name))
    print(f"{name}: bundle {bundle.version} serves again")


@app.command()
def prune(
    name: str,
    keep: int = typer.Option(10, "--keep", min=1, help="So many of those that served last stay."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say which would go."),
) -> None:
    """Remove the files of bundles that nobody needs; what is written down of them stays.

    What serves, is on trial or waits for one stays, and whatever is younger than a day. This cannot be undone.
    """
    with runtime() as made:
        with made.store.begin() as tx:
            unneeded = bundles.unneeded(tx, classifiers.current(tx, name), keep)
            if not dry_run:
                bundles.note_removal(tx, unneeded)
        if dry_run:
            gone = [one for one in unneeded if bundles.REMOVED not in one.evaluation]
        else:  # those of a run that was killed, too
            gone = [one for one in unneeded if made.registry.remove(one.uri)]
    versions = ", ".join(str(one.version) for one in gone)
    would = "would be removed" if dry_run else "removed"
    print(f"{name}: the files of bundles {versions} {would}" if gone else f"{name}: every bundle's files are needed")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
