"""The picture of `what-if`: share kept and cost against the disagreement that is expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datashunt.report import canvas
from datashunt.report.canvas import BLUE, GREEN, INK, LEFT, ORANGE
from datashunt.report.words import percent, usd
from datashunt.whatif import Point, Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 20
"""Audits in scope below which a point of the curve jumps too much to be drawn."""

ORIGIN = "Each point of a line is a threshold, at which the past items are decided again"
LEGEND = "Shaded: exact 95 % intervals of what the audits show, each for its own threshold"


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that has a name."""

    name: str
    point: Point


def write_whatif_png(
    curve: Sequence[Point], marks: Sequence[Mark], about: Sequence[str], of: Scope, path: Path
) -> None:
    """Draw 1600 × 900 pixels, in two panels.

    Args:
        curve: points, the strictest first.
        marks: points with names; the last gives the headline.
        about: what the figures rest on.
        of: what the disagreement is a share of.
        path: the PNG.

    Raises:
        UsageError: matplotlib is not installed.
    """
    drawn = [point for point in curve if point.audited >= FEWEST]
    priced = any(point.usd > 0 for point in curve)

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(1, 2, left=LEFT, right=0.97, top=0.785, bottom=0.125, wspace=0.16)
        kept, cost = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
        canvas.title(figure, _headline(marks, of, priced), "  ·  ".join(about), ORIGIN, LEGEND)
        _panel(kept, drawn, marks, lambda point: point.kept, BLUE)
        _panel(cost, drawn, marks, lambda point: point.usd if priced else point.calls, GREEN)
        canvas.share_up(kept)
        canvas.name(kept, "Share of items kept by the small model", pad=8)
        cost.set_ylim(bottom=0)
        cost.yaxis.set_major_formatter(lambda value, _: f"${value:,.2f}" if priced else f"{value:,.0f}")
        canvas.name(cost, "Cost of a day" if priced else "Calls a day", pad=8)
        for panel in (kept, cost):
            panel.set_xlim(0, _widest(drawn, marks))
            panel.locator_params(axis="x", steps=[1, 2, 5, 10])
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            panel.set_xlabel(f"{_along(of)} from the LLM, as audits show it")

    canvas.save(path, "backtest", draw)


def _panel(
    panel: Axes, curve: Sequence[Point], marks: Sequence[Mark], height: Callable[[Point], float], colour: str
) -> None:
    heights = np.array([height(point) for point in curve])
    limits = np.array([(point.low, point.high) for point in curve]).reshape(-1, 2)
    panel.fill_betweenx(heights, limits[:, 0], limits[:, 1], color=colour, alpha=0.14, linewidth=0)
    panel.plot([point.disagreement for point in curve], heights, color=colour, linewidth=2.4)
    for mark in marks:
        if not mark.point.audited:
            continue
        place = (mark.point.disagreement, height(mark.point))
        panel.plot(*place, marker="o", markersize=9, color=ORANGE, zorder=4, clip_on=False)
        panel.annotate(
            mark.name,
            place,
            xytext=(11, -4),
            textcoords="offset points",
            fontsize=12,
            color=INK,
            weight="bold",
            zorder=5,
        )


def _widest(curve: Sequence[Point], marks: Sequence[Mark]) -> float:
    seen = [point.disagreement for point in (*curve, *(mark.point for mark in marks)) if point.audited]
    return 1.25 * max([0.04, *seen])


def _headline(marks: Sequence[Mark], of: Scope, priced: bool) -> str:
    point = marks[-1].point
    cost = f"{usd(point.usd)} a day" if priced else f"{point.calls:,.0f} calls a day"
    differ = "of the kept differ" if of is Scope.KEPT else "of all are kept and differ"
    known = f"{percent(point.disagreement)} {differ} from the LLM" if point.audited else "nothing kept is audited"
    return f"{marks[-1].name}: {percent(point.kept)} kept for {cost}, {known}"


def _along(of: Scope) -> str:
    return "share of the kept that differ" if of is Scope.KEPT else "share of all items that are kept and differ"
