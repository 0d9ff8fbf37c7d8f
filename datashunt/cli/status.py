"""`datashunt status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.markup import escape

from datashunt.cli import shares
from datashunt.cli.context import err, out, print_json, runtime
from datashunt.cli.tables import table as columns
from datashunt.day import day_at
from datashunt.pipeline import liveness, people, promise, pruning, standing
from datashunt.policy import BudgetPolicy
from datashunt.settings import Settings
from datashunt.store import batches, budgets, classifiers, results, workers
from datashunt.store.workers import Sign


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(status)


def status(
    name: str | None = typer.Argument(None, help="One classifier; default: all."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
    of_workers: bool = typer.Option(False, "--workers", help="The workers alone: what each took, and when."),
) -> None:
    """Show counts by state and source, the backlog, the LLM's share and cost, what serves, and who works.

    Ends with 1 if a worker lives and takes no message, though some wait.
    """
    with runtime() as made:
        with made.store.begin() as tx:
            signs, settings = workers.listed(tx), made.settings
            if not of_workers:
                known = [classifiers.current(tx, name)] if name else classifiers.everyone(tx)
                found = {one.name: _status(tx, one, settings) for one in known}
        stuck = liveness.stuck(made.store, made.publisher, settings) if settings.broker_url else []
    if of_workers:
        _print_workers(signs, settings, as_json)
    elif as_json:
        print_json(found[name] if name else found)
    else:
        _print(found)
        _print_workers(signs, settings, False)
    for why in stuck:
        err.print(f"[red]{escape(why)}[/]")
    if stuck:
        raise typer.Exit(1)


def _print(found: Mapping[str, dict[str, Any]]) -> None:
    table = columns("classifier", "items", "done", "backlog", "dead", "LLM", "cost", "bundle")
    for one, state in found.items():
        share = state["llm_share"]
        table.add_row(
            one,
            str(state["items"]),
            str(state["states"].get("done", 0)),
            str(state["backlog"]),
            str(state["states"].get("dead", 0)),
            "–" if share is None else f"{share:.1%}",
            f"${state['cost_usd']:.4f}",
            str(state["bundle"] or "none"),
        )
    out.print(table)
    for one, state in found.items():
        if state["promise"]:
            print(f"{one}: {_proof(state['promise'])}")
        if state["budget"]:
            print(f"{one}: {_spending(state['budget'])}")
        if state["pruning"]:
            print(f"{one}: {_pruning(state['pruning'])}")
        if state["agreement"]["kept"]["audits"]:
            print(f"{one}: {shares.agreement_line(state['agreement'])}")
        if state["people"]:
            print(f"{one}: {shares.line(state['people'])}")
        for batch in state["batches"]:
            age = f"{batch['age_s'] / 3600:.1f} h old"
            print(f"{one}: batch {batch['id']}: {batch['requests']} asks, {batch['state']}, {age}")


def _print_workers(signs: Sequence[Sign], settings: Settings, as_json: bool) -> None:
    """Who gave a sign of life within a day, and when each worked last."""
    if as_json:
        print_json([asdict(one) for one in signs])
        return
    table = columns("worker", "queues", "messages", "last worked", "last sign of life")
    for one in signs:
        seen = f"{one.age_s:.0f} s ago"
        table.add_row(
            one.name,
            ", ".join(one.queues),
            str(one.taken),
            f"{one.idle_s:.0f} s ago",
            f"[red]{seen}[/]" if liveness.is_silent(one, settings) else seen,
        )
    if signs:
        out.print(table)
    else:
        print("no worker has given a sign of life within a day")


def _status(tx: Any, known: classifiers.Registered, settings: Settings) -> dict[str, Any]:
    found = pruning.report(tx, known, promise.stand(known).threshold)
    live = standing.agreement(tx, known, settings, since_s=shares.DAYS * 86_400.0)
    return {
        "classifier": known.name,
        "spec_version": known.version,
        "bundle": known.incumbent.version if known.incumbent else None,
        "threshold": promise.stand(known).shown,
        "promise": _promise(tx, known),
        **results.status(tx, known.id),
        "budget": _budget(tx, known),
        "pruning": None if found is None else asdict(found),
        "agreement": shares.agreement(live, labels=False),
        "people": shares.document(people.alone(tx, known)),
        "batches": [asdict(batch) for batch in batches.in_flight(tx, known.id)],
    }


def _promise(tx: Any, known: classifiers.Registered) -> dict[str, Any] | None:
    """What is promised, proven and missing; None without a target."""
    promised = standing.promised(known)
    if promised is None:
        return None
    proven = standing.proven(tx, known)
    return {
        "promised": promised,
        "certified": None
        if proven is None
        else f"certified from a confidence of {proven.threshold:.4f} on, for items like those audited since"
        f" {proven.valid_from:%Y-%m-%d %H:%M}",
        "trials": [one.to_json() for one in standing.on_trial(tx, known)],
        "audit_rate": standing.audit_rate(known),
    }


def _proof(state: dict[str, Any]) -> str:
    """One line about a promise."""
    open_ = [f"bundle {one['bundle']}: {one['note']}" for one in state["trials"] if one["note"] is not None]
    told = [state["certified"] or "no certificate yet", *open_]
    return f"{state['promised']}; {'; '.join(told)}"


def _budget(tx: Any, known: classifiers.Registered) -> dict[str, Any] | None:
    """Today's budget, or None without one; a day on which nothing was decided yet is all free."""
    policy = known.spec.policy
    if not isinstance(policy, BudgetPolicy):
        return None
    today = day_at(budgets.now(tx), policy.timezone).date
    found = budgets.on_day(tx, known.id, today, policy.unit) or {}
    return {
        "day": today.isoformat(),
        "timezone": policy.timezone,
        "unit": policy.unit,
        "per_day": float(policy.per_day),
        "used": float(found.get("spent", 0)),
        "reserved": float(found.get("reserved", 0)),
        "items": found.get("items", 0),
        "threshold": found.get("threshold"),
        "at_cap": policy.at_cap,
    }


def _spending(state: dict[str, Any]) -> str:
    """One line about a day's budget."""
    money = "${:,.4f}" if state["unit"] == "usd" else "{:,.0f}"
    per_day, used, reserved = (money.format(state[name]) for name in ("per_day", "used", "reserved"))
    calls = "" if state["unit"] == "usd" else " calls"
    threshold = "none yet" if state["threshold"] is None else f"{state['threshold']:.3f}"
    return (
        f"budget of {state['day']} ({state['timezone']}): {used} of {per_day}{calls} used, {reserved} reserved,"
        f" threshold {threshold}"
    )


def _pruning(state: dict[str, Any]) -> str:
    """One line about hard pruning: what is missing, or how often the LLM's label is offered and what it saves."""
    if not state["active"]:
        if state["missing"]:
            return (
                f"pruning: {state['missing']:,} more fit answers to escalated items are missing; no label is left out"
            )
        return "pruning: no label is left out until the next distillation"
    told = f"pruning: no audited item has escalated yet; target {state['target']:g}"
    if state["audited"]:
        told = (
            f"pruning: {state['coverage']:.1%} of {state['audited']:,} audited items that escalate are covered"
            f" (95 %: {state['low']:.1%} to {state['high']:.1%}), target {state['target']:g}"
        )
    if not state["asks"]:
        return told
    return (
        f"{told}; {state['asks']:,} pruned, of which {state['fell_back']:,} asked again over all labels:"
        f" {state['tokens'] / state['tokens_full']:.1%} of the tokens"
    )
