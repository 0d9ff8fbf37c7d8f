"""The picture of a run: LLM share and accuracy along the stream, each distillation marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datashunt.errors import UsageError
from datashunt.report.figures import DistillationFigures, Report
from datashunt.report.series import Floats, Series
from datashunt.report.words import About, headline, origin, percent, subline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with any colour vision, and in grey by their lightness.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_INK, _MUTED, _RULE, _LIGHT = "#1a1f24", "#5b6570", "#c9d0d6", "#e9edf0"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LIGHT,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
}


def write_png(report: Report, series: Series, about: About, path: Path) -> None:
    """Draw 1600 × 900 pixels.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError('a picture needs matplotlib: pip install "datashunt[demo]"') from None
    with rc_context(_STYLE):
        figure = Figure(figsize=(16, 9), dpi=100, facecolor="white")
        rows = 1 if series.accuracy is None else 2
        grid = figure.add_gridspec(
            rows, 1, left=0.06, right=0.865, top=0.765, bottom=0.125, hspace=0.2, height_ratios=[3, 2][:rows]
        )
        panels = [figure.add_subplot(grid[row]) for row in range(rows)]
        _title(figure, report, about)
        _share(panels[0], series)
        if series.accuracy is not None:
            _accuracy(panels[1], series, series.accuracy, report["llm_accuracy"])
        for panel in panels:
            panel.set_xlim(0, max(1, report["items"]))
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            panel.tick_params(labelbottom=panel is panels[-1])
        _distillations(panels, report)
        panels[-1].set_xlabel(f"items in order of submission; each point is a mean over the last {series.window:,}")
        figure.savefig(path, metadata={"Software": None})


def _title(figure: Figure, report: Report, about: About) -> None:
    legend = "Vertical lines: a distillation ended (solid: its bundle serves from here; dotted: it does not)"
    for text, height, size, weight, colour in (
        (headline(report), 0.955, 23, "bold", _INK),
        (subline(report), 0.908, 14, "normal", _INK),
        (origin(about), 0.873, 12, "normal", _MUTED),
        (legend, 0.028, 11, "normal", _MUTED),
    ):
        figure.text(0.06, height, text, fontsize=size, weight=weight, color=colour, va="center", parse_math=False)


def _share(panel: Axes, series: Series) -> None:
    panel.fill_between(series.items, series.llm_share, color=_BLUE, alpha=0.14, linewidth=0)
    panel.plot(series.items, series.llm_share, color=_BLUE, linewidth=2.4)
    panel.set_ylim(0, 1.02)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _name(panel, "Share of items the LLM is asked about", pad=28)
    _ends(panel, [("LLM share", series.llm_share, _BLUE)])


def _accuracy(panel: Axes, series: Series, accuracy: Floats, llm_accuracy: float | None) -> None:
    lines = [("datashunt", accuracy, _GREEN)]
    if series.llm_accuracy is not None:
        lines.append(("LLM alone", series.llm_accuracy, _ORANGE))
    elif llm_accuracy is not None:
        lines.append(("LLM mean", np.full_like(accuracy, llm_accuracy), _ORANGE))
    for name, values, colour in reversed(lines):
        panel.plot(series.items, values, color=colour, linewidth=2.4 if name == "datashunt" else 1.5)
    known = np.concatenate([values[~np.isnan(values)] for _, values, _ in lines])
    lowest = float(known.min()) if len(known) else 0.0
    panel.set_ylim(max(0.0, np.floor(lowest * 20 - 0.5) / 20), 1.0)
    panel.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _name(panel, "Accuracy of the outcomes, against the LLM's own", pad=8)
    _ends(panel, lines)


def _name(panel: Axes, text: str, pad: float) -> None:
    panel.set_title(text, loc="left", fontsize=14, color=_INK, pad=pad)


def _ends(panel: Axes, lines: list[tuple[str, Floats, str]]) -> None:
    """Name each line at its right end, moved apart where the names would overlap."""
    low, high = panel.get_ylim()
    least = 0.15 * (high - low) * (1.0 if panel.get_position().height < 0.35 else 0.6)
    placed: list[float] = []
    known = [(name, values[~np.isnan(values)], colour) for name, values, colour in lines]
    for name, values, colour in sorted(known, key=lambda line: -(line[1][-1] if len(line[1]) else 0.0)):
        if not len(values):
            continue
        height = min([float(values[-1]), *(other - least for other in placed)])
        placed.append(height)
        panel.annotate(
            f"{name} {percent(float(values[-1]))}",
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _distillations(panels: list[Axes], report: Report) -> None:
    """A line through all panels where each distillation ended; a name where there is room, promoted first."""
    room = 0.085 * max(1, report["items"])
    named: list[int] = []
    for distillation in sorted(report["distillations"], key=lambda entry: entry["state"] != "promoted"):
        promoted = distillation["state"] == "promoted"
        place = distillation["at_item"]
        for panel in panels:
            style = "-" if promoted else ":"
            panel.axvline(place, color=_INK if promoted else _MUTED, linewidth=1.0, linestyle=style, zorder=1)
        if any(abs(place - other) < room for other in named):
            continue
        named.append(place)
        panels[0].annotate(
            _flag(distillation),
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=11,
            color=_INK if promoted else _MUTED,
            ha="center",
        )


def _flag(distillation: DistillationFigures) -> str:
    bundle, state = distillation["bundle"], distillation["state"]
    if state == "promoted":
        return f"bundle {bundle}"
    return state if bundle is None else f"{bundle} {state}"
