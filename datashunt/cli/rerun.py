"""`datashunt rerun`."""

from __future__ import annotations

import typer

from datashunt.cli.context import err, runtime
from datashunt.errors import BrokerError


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(rerun)


def rerun(
    name: str,
    before: int | None = typer.Option(
        None, "--spec-before", help="Outcomes of versions of the file before this one; default: the current one."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Classify finished items again under the current file; people's labels stay."""
    from datashunt.pipeline import rerun as again

    with runtime() as made:
        publisher = made.publisher  # a setting that is missing is told before anything is changed
        plan = again.plan(made.store, name, before)
        if plan.items == 0:
            print(f"{name} has no outcome of a version before {plan.before}: nothing to do")
            return
        price = "at a price that nobody knows" if plan.cost_usd is None else f"at ${plan.cost_usd:.4f} at most"
        print(
            f"{plan.items} items of {name} will be classified again under version {plan.version}; if each of them goes"
            f" to the LLM, {price}, retries apart"
        )
        if not yes:
            typer.confirm("Go on?", abort=True)
        again.until_known(made.store, name, made.settings.reload_every_s)
        queued, lost = 0, None
        try:
            for wake in again.rerun(made.store, name, plan):
                queued += len(wake.ids)
                try:
                    publisher.publish([wake])
                except BrokerError as error:
                    lost = error
        finally:  # what was committed is told, also if it breaks off in the middle
            print(f"{queued} queued again")
    if lost is not None:
        err.print(f"datashunt: {lost}; they will be found within seconds all the same", markup=False)
