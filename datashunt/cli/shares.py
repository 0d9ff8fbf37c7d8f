"""What the LLM and people say of outcomes, as `certificate`, `status` and `review --quality` show it."""

from __future__ import annotations

import math
from typing import Any

from datashunt import quality
from datashunt.cli.tables import table as columns
from datashunt.pipeline import people
from datashunt.pipeline.people import DELTA, Quality, Share
from datashunt.quality import Agreement, Interval, Live

DAYS = 7.0
"""How far back agreement with the LLM is measured, unless one asks for another time."""


def rows(live: Live, *, labels: bool = True) -> list[tuple[str, Agreement]]:
    """Agreement with the LLM of what, with `labels` also label by label."""
    found = [("kept", live.kept), ("kept, text not trained on", live.kept_unseen), ("all", live.all)]
    for label, one in live.labels.items() if labels else ():
        found += [(f"kept as {label}", one.precision), (f"{label} for the LLM: found", one.recall)]
    return found


def agreement(live: Live, *, labels: bool = True) -> dict[str, Any]:
    """The same as JSON values."""
    return {what: {**_share(one.interval), "audits": one.n} for what, one in rows(live, labels=labels)}


def agreement_line(state: dict[str, Any]) -> str:
    """One line of that document."""
    kept, every = (
        f"{one['share']:.1%} ({one['low']:.1%} to {one['high']:.1%})" for one in (state["kept"], state["all"])
    )
    return f"agreement with the LLM, {DAYS:g} days: {kept} of kept items, {every} of all"


def lines(found: Quality) -> list[Any]:
    """The table of a sample's quality, and what it rests on."""
    drawn, judged = found.sample, found.judged
    table = columns("outcomes", "labelled", "right", f"{1 - DELTA:.0%} interval", "method")
    for one in people.shares(found):
        low, high = one.interval.low, one.interval.high
        right = f"{one.interval.estimate:.1%}" if one.n else "–"
        table.add_row(one.what, str(one.n), right, f"{low:.1%} to {high:.1%}", one.method)
    told: list[Any] = [table, f"{len(judged)} labelled of {drawn.size} drawn from {drawn.population} finished items"]
    if found.powered is None:
        told.append(f"fewer than {quality.FEWEST} labels: no prediction-powered interval")
    if len(judged) < drawn.size:
        told.append("the intervals suppose that what is not labelled yet is no harder than what is")
    return told


def document(found: Quality | None) -> dict[str, Any] | None:
    """The same as JSON values; None without a sample."""
    if found is None:
        return None
    return {
        "seed": found.sample.seed,
        "drawn_at": found.sample.created_at.isoformat(),
        "size": found.sample.size,
        "labelled": len(found.judged),
        "right": [_numbers(one) for one in people.shares(found)],
    }


def line(state: dict[str, Any]) -> str:
    """One line of that document."""
    overall, told = state["right"][0], ""
    if state["labelled"]:
        told = f": {overall['share']:.1%} right ({overall['low']:.1%} to {overall['high']:.1%})"
    return f"people: {state['labelled']} of a sample of {state['size']} labelled{told}"


def _numbers(one: Share) -> dict[str, Any]:
    return {"of": one.what, "labelled": one.n, **_share(one.interval), "method": one.method}


def _share(found: Interval) -> dict[str, float | None]:
    return {
        "share": None if math.isnan(found.estimate) else found.estimate,
        "low": found.low,
        "high": found.high,
    }
