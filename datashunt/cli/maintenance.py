"""`datashunt db upgrade | downgrade | current`, `datashunt doctor` and `datashunt healthy`."""

from __future__ import annotations

import socket

import typer
from rich.markup import escape

from datashunt import doctor as examine
from datashunt.cli.context import load, out, runtime
from datashunt.errors import UsageError
from datashunt.pipeline import liveness
from datashunt.store import migrate
from datashunt.store import roles as roles_

db = typer.Typer(help="The database's schema.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(doctor)
    app.command()(healthy)


@db.command()
def upgrade(revision: str = typer.Argument("head", help="Up to which revision.")) -> None:
    """Create or update the tables."""
    with runtime() as made:
        before, after = migrate.upgrade(made.store, revision)
    print(f"database: {before or 'empty'} → {after}" if before != after else f"database: already at {after}")


@db.command()
def downgrade(
    revision: str = typer.Argument(..., help="Down to which revision; `base` drops everything."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Take the tables back to an older revision; what that has no place for is lost."""
    if not yes:
        lost = "all tables and everything in them" if revision == "base" else f"what {revision} has no place for"
        typer.confirm(f"This drops {lost}, for good. Go on?", abort=True)
    with runtime() as made:
        before, after = migrate.downgrade(made.store, revision)
    print(f"database: {before or 'empty'} → {after or 'empty'}")


@db.command()
def current() -> None:
    """Show the revision of the tables, and the one that this release expects."""
    with runtime() as made, made.store.begin() as tx:
        found = migrate.current(tx)
    print(f"database: {found or 'empty'}; this release: {migrate.head()}")


@db.command()
def roles(apply: bool = typer.Option(False, "--apply", help="Run it on the database instead.")) -> None:
    """Print the SQL that makes roles of least privilege: producer, worker, reader, migrator."""
    if not apply:
        print(roles_.script())
        return
    with runtime() as made:
        roles_.apply(made.store)
    print(f"database: {', '.join(roles_.ROLES)}; grant them to your logins")


def doctor(
    deep: bool = typer.Option(False, "--deep", help="Prove instead that nothing in the database is lost or at odds."),
) -> None:
    """Say what is wrong with settings, servers, migrations, models and the LLM endpoint; or with the data."""
    findings = examine.examine_data(load()) if deep else examine.examine(load())
    for finding in findings:
        mark = "[green]ok  [/]" if finding.ok else "[red]bad [/]"
        out.print(mark, escape(f"{finding.what}: {finding.detail}"), highlight=False)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def healthy(
    queue: str = typer.Option(..., "--queue", help="score, llm, intake or distil."),
    host: str = typer.Option(socket.gethostname(), "--host", help="Whose workers.", show_default="this one"),
) -> None:
    """Say whether this host's worker of a queue still takes messages: exit code 0 or 1, and a sentence."""
    if queue not in liveness.QUEUES:
        raise UsageError(f"--queue: expected {', '.join(liveness.QUEUES)}, found {queue!r}")
    with runtime() as made:
        found = liveness.examine(made.store, made.publisher, made.settings, queue, host)
    print(found.why)
    if not found.ok:
        raise typer.Exit(1)
