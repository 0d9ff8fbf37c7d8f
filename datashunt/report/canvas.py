"""What the pictures of a report share: size, style, palette, titles, names of lines. Imports report parts only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datashunt.errors import UsageError, install
from datashunt.report.figures import DistillationFigures, Report
from datashunt.report.series import Floats
from datashunt.report.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[str, Floats, str]
"""Name, values and colour of one line of a panel."""

# Okabe and Ito (2008): told apart with any colour vision, and in grey by their lightness.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, MUTED = "#1a1f24", "#5b6570"
LEFT = 0.06
"""Where titles and panels begin, as a fraction of the width."""

LEGEND = "Vertical lines: a distillation ended (solid: its bundle serves from here; dotted: it does not)"
_RULE, _LIGHT = "#c9d0d6", "#e9edf0"
_FLAG = 0.0684
"""Width that the name of a distillation takes, as a fraction of the picture's."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LIGHT,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
}


def save(path: Path, extra: str, draw: Callable[[Figure], None]) -> None:
    """Write the 1600 × 900 pixels that `draw` puts on an empty figure.

    Args:
        path: the PNG.
        extra: the extra of datashunt that brings matplotlib to this picture's users.
        draw: gets the figure, with the style in force.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"a picture needs matplotlib: {install(extra)}") from None
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it
        figure = Figure(figsize=(16, 9), dpi=100, facecolor="white")
        draw(figure)
        figure.savefig(path, metadata={"Software": None})


def title(figure: Figure, headline: str, subline: str, origin: str, legend: str = LEGEND) -> None:
    """The three lines above the panels, and the legend below them."""
    for text, height, size, weight, colour in (
        (headline, 0.955, 23, "bold", INK),
        (subline, 0.908, 14, "normal", INK),
        (origin, 0.873, 12, "normal", MUTED),
        (legend, 0.028, 11, "normal", MUTED),
    ):
        figure.text(LEFT, height, text, fontsize=size, weight=weight, color=colour, va="center", parse_math=False)


def name(panel: Axes, text: str, pad: float) -> None:
    """Name a panel, `pad` points above it."""
    panel.set_title(text, loc="left", fontsize=14, color=INK, pad=pad)


def count_along(panel: Axes, most: int) -> None:
    """Let the panel's width count from 0 to `most`."""
    panel.set_xlim(0, max(1, most))
    panel.locator_params(axis="x", integer=True)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def share_up(panel: Axes, lines: Sequence[Line] = ()) -> None:
    """Let the panel's height be a share: from just below the lowest value of the lines, or 0, to 1."""
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if not lines:
        panel.set_ylim(0, 1.02)
        return
    known = np.concatenate([values[~np.isnan(values)] for _, values, _ in lines])
    lowest = float(known.min()) if len(known) else 0.0
    panel.set_ylim(max(0.0, np.floor(lowest * 20 - 0.5) / 20), 1.0)
    panel.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])


def ends(panel: Axes, lines: Sequence[Line]) -> None:
    """Name each line at its right end, moved apart where the names would overlap."""
    low, high = panel.get_ylim()
    least = 0.15 * (high - low) * (1.0 if panel.get_position().height < 0.35 else 0.6)
    placed: list[float] = []
    known = [(called, values[~np.isnan(values)], colour) for called, values, colour in lines]
    for called, values, colour in sorted(known, key=lambda line: -(line[1][-1] if len(line[1]) else 0.0)):
        if not len(values):
            continue
        height = min([float(values[-1]), *(other - least for other in placed)])
        placed.append(height)
        panel.annotate(
            f"{called} {percent(float(values[-1]))}",
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def distillations(panels: Sequence[Axes], report: Report) -> None:
    """A line through all panels where each distillation ended; a name where there is room, promoted first."""
    room = _FLAG / panels[0].get_position().width * max(1, report["items"])
    named: list[int] = []
    for distillation in sorted(report["distillations"], key=lambda entry: entry["state"] != "promoted"):
        promoted = distillation["state"] == "promoted"
        place = distillation["at_item"]
        for panel in panels:
            style = "-" if promoted else ":"
            panel.axvline(place, color=INK if promoted else MUTED, linewidth=1.0, linestyle=style, zorder=1)
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
            color=INK if promoted else MUTED,
            ha="center",
        )


def _flag(distillation: DistillationFigures) -> str:
    bundle, state = distillation["bundle"], distillation["state"]
    if state == "promoted":
        return f"bundle {bundle}"
    return state if bundle is None else f"{bundle} {state}"
