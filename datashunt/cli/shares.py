"""What people say of outcomes, as `review --quality`, `certificate` and `status` show it."""

from __future__ import annotations

import math
from typing import Any

from datashunt import quality
from datashunt.cli.tables import table as columns
from datashunt.pipeline import people
from datashunt.pipeline.people import DELTA, Quality, Share


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
    estimate = one.interval.estimate
    return {
        "of": one.what,
        "labelled": one.n,
        "share": None if math.isnan(estimate) else estimate,
        "low": one.interval.low,
        "high": one.interval.high,
        "method": one.method,
    }
