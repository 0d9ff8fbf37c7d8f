"""`datashunt what-if`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from datashunt import whatif
from datashunt.certificate import NotYet
from datashunt.cli.context import out, print_json, runtime
from datashunt.cli.tables import table as columns
from datashunt.errors import UsageError
from datashunt.pipeline.whatif import Past, Price, past
from datashunt.report import Mark, write_whatif_png
from datashunt.report.words import usd
from datashunt.whatif import Point, Scope

HYPOTHETICAL = (
    "hypothetical: these audits have been looked at before; a certificate of its own needs fresh ones, and spends δ"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user wants to know."""

    of: Scope
    alpha: float | None
    delta: float
    calls_per_day: float | None


@dataclass(frozen=True, slots=True)
class Answered:
    """What there is to say: the table, names of thresholds in it, and sentences below it."""

    points: list[Point]
    names: dict[float, str]
    notes: list[str]


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("what-if")(what_if)


def what_if(
    name: str,
    alpha: float | None = typer.Option(None, "--alpha", help="The threshold at which at most this share differs."),
    delta: float = typer.Option(0.1, "--delta", help="Chance that more does."),
    of: Scope = typer.Option(Scope.KEPT, "--of", help="Share of the kept items, or of all."),
    budget: float | None = typer.Option(None, "--budget", help="The threshold that spends so many USD a day."),
    calls: float | None = typer.Option(None, "--calls", help="The threshold that makes so many calls a day."),
    price: tuple[float, float] | None = typer.Option(
        None, "--llm-price", metavar="IN OUT", help="Another price, in USD per million tokens."
    ),
    days: int = typer.Option(7, "--days", min=1, max=3_650, help="How far back to look."),
    file: Path | None = typer.Option(None, "--out", help="Also draw it, to this .png."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Show what past traffic would have cost, and how often it would differ from the LLM, at other thresholds."""
    _check(budget, calls, price, file)
    with runtime() as made:
        found = past(made.store, name, days=days, price=None if price is None else Price(*price))
    answered = _answer(found, Asked(of, alpha, delta, _calls_of(found, budget, calls)))
    if file is not None:
        marks = [Mark(text, whatif.at(found.traffic, threshold, of)) for threshold, text in answered.names.items()]
        try:
            write_whatif_png(whatif.curve(found.traffic, of), marks, _about(found), of, file)
        except OSError as error:
            raise UsageError(f"{file}: cannot be written: {error.strerror or error}") from None
    if as_json:
        print_json(_json(found, answered, days))
    else:
        _show(found, answered, of, days)


def _check(budget: float | None, calls: float | None, price: tuple[float, float] | None, file: Path | None) -> None:
    if budget is not None and calls is not None:
        raise UsageError("expected one of --budget and --calls, found both")
    for option, value in (("--budget", budget), ("--calls", calls)):
        if value is not None and not (0 < value < math.inf):
            raise UsageError(f"{option}: expected more than 0 a day, found {value:g}")
    if price is not None and not all(0 <= value < math.inf for value in price):
        raise UsageError(f"--llm-price: expected two prices of 0 or more, found {price[0]:g} and {price[1]:g}")
    if file is not None and file.suffix.lower() != ".png":
        raise UsageError(f"{file}: unknown kind of picture: expected .png")


def _calls_of(found: Past, budget: float | None, calls: float | None) -> float | None:
    if budget is None:
        return calls
    if found.traffic.usd_per_call == 0:
        raise UsageError(
            f"a call of {found.known.spec.llm.model} costs nothing, or nobody knows its price: give it (--llm-price IN"
            " OUT), or a number of calls (--calls)"
        )
    return budget / found.traffic.usd_per_call


def _answer(found: Past, asked: Asked) -> Answered:
    traffic, names, notes = found.traffic, {found.threshold: "in force"}, []
    if asked.alpha is not None:
        proven = whatif.certified(traffic, asked.alpha, asked.delta, asked.of)
        if isinstance(proven, NotYet):
            notes.append(f"no threshold would be certified: {proven}")
        else:
            names[proven.threshold] = f"α = {asked.alpha:g}"
            seen = proven.findings[0]
            notes.append(
                f"α = {asked.alpha:g} at {proven.threshold:.4f}: {seen.k} of {seen.n} judge answers in scope differ"
            )
        notes.append(HYPOTHETICAL)
    if asked.calls_per_day is not None:
        names[whatif.affordable(traffic, asked.calls_per_day)] = "budget"
    return Answered(whatif.table(traffic, names, asked.of), names, notes)


def _about(found: Past) -> list[str]:
    """What the figures rest on, in parts of one line."""
    traffic = found.traffic
    return [
        f"bundle {found.bundle.version} of {found.known.name}",
        f"{len(traffic.confidence):,} items in {traffic.days:.1f} days",
        f"{len(traffic.audits):,} audits at {traffic.audit_rate:.1%} of all items",
        f"{usd(traffic.usd_per_call)} a call",
    ]


def _show(found: Past, answered: Answered, of: Scope, days: int) -> None:
    shown = columns("threshold", "", "kept", "calls/day", "USD/day", "differ", "95 % interval", "audits")
    for point in answered.points:
        shown.add_row(
            f"{point.threshold:.4f}" if math.isfinite(point.threshold) else "ask all",
            answered.names.get(point.threshold, ""),
            f"{point.kept:.1%}",
            f"{point.calls:,.1f}",
            usd(point.usd),
            f"{point.disagreement:.1%}" if point.audited else "–",
            f"{100 * point.low:.1f} to {point.high:.1%}",
            f"{point.differ}/{point.audited}",
        )
    out.print(shown)
    share = "of the kept items" if of is Scope.KEPT else "of all items, those kept"
    print(f"differ: {share} on which the LLM says another label, as so many audits show")
    print(f"past traffic of at most {days} days: {', '.join(_about(found))}")
    if found.left_out:
        print(f"{found.left_out} audits drawn at a higher rate are left out, so that all had one chance")
    for note in answered.notes:
        print(note)


def _json(found: Past, answered: Answered, days: int) -> dict[str, Any]:
    traffic = found.traffic
    return {
        "classifier": found.known.name,
        "bundle": found.bundle.version,
        "days_asked": days,
        "days": traffic.days,
        "items": len(traffic.confidence),
        "audits": len(traffic.audits),
        "audits_left_out": found.left_out,
        "audits_open": found.open,
        "audit_rate": traffic.audit_rate,
        "usd_per_call": traffic.usd_per_call,
        "points": [{**point.to_json(), "name": answered.names.get(point.threshold)} for point in answered.points],
        "notes": answered.notes,
    }
