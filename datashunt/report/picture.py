"""The picture of a run: LLM share and accuracy along the stream, each distillation marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datashunt.report import canvas
from datashunt.report.canvas import BLUE, GREEN, LEFT, ORANGE
from datashunt.report.figures import Report
from datashunt.report.series import Floats, Series
from datashunt.report.words import About, headline, origin, subline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_png(report: Report, series: Series, about: About, path: Path) -> None:
    """Draw 1600 × 900 pixels.

    Raises:
        UsageError: matplotlib is not installed.
    """

    def draw(figure: Figure) -> None:
        rows = 1 if series.accuracy is None else 2
        grid = figure.add_gridspec(
            rows, 1, left=LEFT, right=0.865, top=0.765, bottom=0.125, hspace=0.2, height_ratios=[3, 2][:rows]
        )
        panels = [figure.add_subplot(grid[row]) for row in range(rows)]
        canvas.title(figure, headline(report), subline(report), origin(about))
        _share(panels[0], series)
        if series.accuracy is not None:
            _accuracy(panels[1], series, series.accuracy, report["llm_accuracy"])
        for panel in panels:
            canvas.count_along(panel, report["items"])
            panel.tick_params(labelbottom=panel is panels[-1])
        canvas.distillations(panels, report)
        panels[-1].set_xlabel(f"items in order of submission; each point is a mean over the last {series.window:,}")

    canvas.save(path, "demo", draw)


def _share(panel: Axes, series: Series) -> None:
    panel.fill_between(series.items, series.llm_share, color=BLUE, alpha=0.14, linewidth=0)
    panel.plot(series.items, series.llm_share, color=BLUE, linewidth=2.4)
    canvas.share_up(panel)
    canvas.name(panel, "Share of items the LLM is asked about", pad=28)
    canvas.ends(panel, [("LLM share", series.llm_share, BLUE)])


def _accuracy(panel: Axes, series: Series, accuracy: Floats, llm_accuracy: float | None) -> None:
    lines = [("datashunt", accuracy, GREEN)]
    if series.llm_accuracy is not None:
        lines.append(("LLM alone", series.llm_accuracy, ORANGE))
    elif llm_accuracy is not None:
        lines.append(("LLM mean", np.full_like(accuracy, llm_accuracy), ORANGE))
    for name, values, colour in reversed(lines):
        panel.plot(series.items, values, color=colour, linewidth=2.4 if name == "datashunt" else 1.5)
    canvas.share_up(panel, lines)
    canvas.name(panel, "Accuracy of the outcomes, against the LLM's own", pad=8)
    canvas.ends(panel, lines)
