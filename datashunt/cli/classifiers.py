"""`datashunt classifier apply | list | show`."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from datashunt import certificate, classifier, prompts
from datashunt.cli.context import out, runtime
from datashunt.cli.tables import table as columns
from datashunt.pipeline import budget, promise
from datashunt.policy import TargetPolicy
from datashunt.store import classifiers, trials

app = typer.Typer(help="Declare classification problems.", no_args_is_help=True)


@app.command()
def apply(file: Path = typer.Argument(..., help="A classifier file (YAML).")) -> None:
    """Make a classifier file the current version of its classifier."""
    spec = classifier.load(file)
    budget.check_price(spec)
    promise.check(spec)
    with runtime() as made, made.store.begin() as tx:
        done = classifiers.apply(tx, spec, prompts.prompt_hash(spec))
        begun = trials.renewals(tx, classifiers.current(tx, spec.name).id)
    if done.created:
        print(f"{spec.name}: created, version {done.version}")
    elif not done.changed:
        print(f"{spec.name}: unchanged, version {done.version}")
    else:
        print(f"{spec.name}: version {done.version}")
    if isinstance(spec.policy, TargetPolicy):
        for line in promise.takes(spec, spec.policy, certificate.Ledger(spec.policy.delta, begun).next):
            print(line)
    if done.labels_changed:
        print("the labels changed: bundles of the old labels are retired, and everything is asked again")


@app.command("list")
def list_() -> None:
    """List the classifiers."""
    with runtime() as made, made.store.begin() as tx:
        known = classifiers.everyone(tx)
    table = columns("name", "version", "labels", "bundle", "threshold", "LLM")
    for one in known:
        table.add_row(
            one.name,
            str(one.version),
            str(len(one.spec.labels)),
            str(one.incumbent.version) if one.incumbent else "none yet",
            _threshold(one),
            one.spec.llm.model,
        )
    out.print(table)


def _threshold(known: classifiers.Registered) -> str:
    threshold = promise.stand(known).shown
    return "none proven" if threshold is None else f"{threshold:g}"


@app.command()
def show(name: str) -> None:
    """Show a classifier with all defaults filled in, as YAML."""
    with runtime() as made, made.store.begin() as tx:
        known = classifiers.current(tx, name)
    print(f"# version {known.version}, hash {known.spec.spec_hash}")
    document = classifiers.stored_document(known.spec.document())
    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")
