"""`datashunt certificate NAME`: what is promised, what is proven, and how well the outcomes agree at present."""

from __future__ import annotations

from typing import Any

import typer

from datashunt.cli import shares
from datashunt.cli.context import out, print_json, runtime
from datashunt.cli.tables import table as columns
from datashunt.pipeline import standing
from datashunt.pipeline.standing import Standing
from datashunt.quality import Agreement


def certificate(
    name: str,
    days: float = typer.Option(shares.DAYS, "--days", min=0.01, help="How far back the agreement is measured."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Show what is proven of a classifier, what is missing, and how well outcomes agree with the LLM and people."""
    with runtime() as made:
        found = standing.read(made.store, made.settings, name, since_s=days * 86_400.0)
    if as_json:
        print_json(_document(found))
        return
    for line in lines(found):
        print(line)
    print(f"\nagreement with the LLM, audits of the last {days:g} days ({100 * (1 - standing.DELTA):.0f} % intervals):")
    table = columns("items", "agree", "interval", "audits")
    for what, one in shares.rows(found.live):
        table.add_row(what, *_cells(one))
    out.print(table)
    if found.people is not None:
        print(f"\nagreement with people, sample {found.people.sample.seed}:")
        out.print(*shares.lines(found.people), sep="\n")
    print(f"audits of kept items: {found.cost.asks:,}, ${found.cost.usd:.4f}")
    if found.live.unanswered:
        print(f"{found.live.unanswered} audits were never answered; they agree with nothing")
    for told in found.events:
        print(f"{told.at:%Y-%m-%d %H:%M} {told.kind}: {told.detail}")


def lines(found: Standing) -> list[str]:
    """What is promised, proven and missing, in words."""
    told = [found.promise or "no target: policy.mode is not target, so nothing is promised"]
    if found.certificate is not None:
        one = found.certificate
        told.append(
            f"certified: bundle {one.bundle} from a confidence of {one.threshold:.4f} on, for items like those audited"
            f" since {one.valid_from:%Y-%m-%d %H:%M}"
        )
        told += [f"  {each['target']}: {each['k']} of {each['n']} miss" for each in one.findings]
        told.append(f"  by {one.method}; of {one.llm_model} ({', '.join(one.fingerprints)}), prompt {one.prompt_hash}")
    for trial in found.trials:
        if trial.note is not None:
            told.append(f"bundle {trial.bundle}: {trial.note}; {trial.n} judge answers read")
    if found.promise and found.certificate is None and not found.trials:
        told.append("no trial is under way: it begins with a bundle that serves and its first fit answers")
    if found.promise:
        told.append(f"audited: {found.rate:.2%} of all items")
    return told


def _document(found: Standing) -> dict[str, Any]:
    return {
        "classifier": found.name,
        "promise": found.promise,
        "certificate": None if found.certificate is None else found.certificate.to_json(),
        "trials": [trial.to_json() for trial in found.trials],
        "audit_rate": found.rate,
        "agreement": shares.agreement(found.live),
        "agreement_with_people": shares.document(found.people),
        "unanswered": found.live.unanswered,
        "audits_of_kept": {"asks": found.cost.asks, "cost_usd": float(found.cost.usd)},
        "events": [{"kind": one.kind, "detail": one.detail, "at": one.at.isoformat()} for one in found.events],
    }


def _cells(one: Agreement) -> tuple[str, str, str]:
    low, high = one.interval.low, one.interval.high
    return f"{one.interval.estimate:.1%}" if one.n else "–", f"{low:.1%} to {high:.1%}", str(one.n)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(certificate)
