"""The picture of a backtest: what calls bought, what was kept, and whether confidence meant what it said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datashunt.confidence import Bin
from datashunt.report import canvas
from datashunt.report.backtest.figures import BacktestReport
from datashunt.report.backtest.series import BacktestSeries
from datashunt.report.canvas import BLUE, GREEN, INK, LEFT, MUTED, ORANGE
from datashunt.report.words import About, backtest_subline, headline, origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_backtest_png(report: BacktestReport, series: BacktestSeries, about: About, path: Path) -> None:
    """Draw 1600 × 900 pixels, in three panels.

    Raises:
        UsageError: matplotlib is not installed.
    """

    def draw(figure: Figure) -> None:
        place = {"top": 0.785, "bottom": 0.125}
        along = figure.add_gridspec(2, 1, left=LEFT, right=0.5, hspace=0.62, **place)
        calls, kept = figure.add_subplot(along[0]), figure.add_subplot(along[1])
        trust = figure.add_subplot(figure.add_gridspec(1, 1, left=0.685, right=0.97, **place)[0])
        canvas.title(figure, headline(report), backtest_subline(report), origin(about))
        _calls(calls, series, report["llm_accuracy"])
        _kept(kept, series, report)
        _reliability(trust, series)

    canvas.save(path, "backtest", draw)


def _calls(panel: Axes, series: BacktestSeries, llm_accuracy: float | None) -> None:
    lines = [("agreement", series.agreement, BLUE), ("accuracy", series.accuracy, GREEN)]
    for _, values, colour in lines:
        panel.plot(series.calls, values, color=colour, linewidth=2.4, clip_on=False)
    if llm_accuracy is not None:
        panel.axhline(llm_accuracy, color=ORANGE, linewidth=1.5, linestyle="--")
        lines.append(("LLM alone", np.array([llm_accuracy]), ORANGE))
    canvas.share_up(panel, lines)
    canvas.count_along(panel, int(series.calls[-1]) if len(series.calls) else 0)
    rated = "" if np.isnan(series.accuracy).all() else ", and accuracy"
    canvas.name(panel, f"Agreement of all outcomes with the LLM{rated}", pad=8)
    canvas.ends(panel, lines)
    panel.set_xlabel("calls spent; each point is a mean over all outcomes so far")


def _kept(panel: Axes, series: BacktestSeries, report: BacktestReport) -> None:
    panel.fill_between(series.items, series.kept_share, color=BLUE, alpha=0.14, linewidth=0)
    panel.plot(series.items, series.kept_share, color=BLUE, linewidth=2.4)
    canvas.share_up(panel)
    canvas.count_along(panel, report["items"])
    canvas.name(panel, "Share of items kept by the small model", pad=28)
    canvas.ends(panel, [("kept", series.kept_share, BLUE)])
    canvas.distillations([panel], report)
    panel.set_xlabel(f"items in stream order; each point is a mean over the last {series.window:,}")


def _reliability(panel: Axes, series: BacktestSeries) -> None:
    """Bars of agreement over confidence, each with its number of items; on the diagonal confidence is true."""
    error = "" if math.isnan(series.error) else f": ECE {series.error:.3f}"
    canvas.name(panel, f"Reliability of the small model{error}", pad=8)
    if series.bars:
        panel.plot([0, 1], [0, 1], color=ORANGE, linewidth=1.5, linestyle="--", zorder=3)
    else:
        panel.text(0.5, 0.5, "no bundle scored an item", color=MUTED, ha="center", va="center")
    for bar in series.bars:
        _bar(panel, bar)
    panel.set_xlim(0, 1)
    canvas.share_up(panel)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.set_xlabel(f"confidence (at the last score; {series.scored:,} items)")
    panel.set_ylabel("agreement of its first choice with the LLM")


def _bar(panel: Axes, bar: Bin) -> None:
    middle, width = (bar.low + bar.high) / 2, bar.high - bar.low
    panel.bar(middle, bar.accuracy, width * 0.92, color=BLUE, alpha=0.3, zorder=2)
    panel.plot([bar.confidence], [bar.accuracy], marker="o", markersize=6, color=BLUE, zorder=4, clip_on=False)
    count = f"{bar.n:,}" if bar.n < 10_000 else f"{bar.n / 1000:,.0f}k"
    panel.annotate(
        count, (middle, 0), xytext=(0, 7), textcoords="offset points", fontsize=9.5, color=INK, ha="center", zorder=5
    )
