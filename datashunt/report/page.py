"""The page of a run: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from datashunt.report.figures import Report
from datashunt.report.words import About, headline, origin, percent, subline, usd


def write_html(report: Report, about: About, picture: Path, path: Path) -> None:
    """Write the page, with the PNG that `write_png` made inside it."""
    page = render(report, about, picture, subline(report), _simulated(about), _highlights(report))
    path.write_text(page, encoding="utf-8")


def render(
    report: Report,
    about: About,
    picture: Path,
    figures: str,
    note: str,
    highlights: Sequence[tuple[str, str]],
    sections: str = "",
) -> str:
    """The page of a report.

    Args:
        report: its figures.
        about: what it speaks of.
        picture: a PNG, which goes into the page.
        figures: the line of figures below the headline, in plain text.
        note: HTML of what a reader must know first, or "".
        highlights: figure and meaning of each tile, in plain text.
        sections: HTML of further sections.
    """
    template = Template((files("datashunt.report") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        classifier=escape(about.classifier),
        headline=escape(headline(report)),
        subline=escape(figures),
        origin=escape(origin(about)),
        note=note,
        tiles="\n".join(_tile(value, name) for value, name in highlights),
        alt=escape(f"{headline(report)}. {figures}."),
        picture=base64.b64encode(picture.read_bytes()).decode("ascii"),
        distillations=_distillations(report),
        bundles=_bundles(report),
        sections=sections,
        tenths=_tenths(report),
        figures=_figures(report),
    )


def _simulated(about: About) -> str:
    if not about.simulated:
        return ""
    return uncalled(
        f"A simulation answered in its place; money is what the same tokens would cost at the prices of {about.llm}."
    )


def uncalled(why: str) -> str:
    """The HTML of the note that no LLM was called; `why` is plain text."""
    return f'<p class="note"><strong>No LLM was called.</strong> {escape(why)}</p>'


def _highlights(report: Report) -> list[tuple[str, str]]:
    paid, whole = report["cost_usd"], report["cost_if_all_llm_usd"]
    saved = f", {percent(1 - paid / whole)} less" if whole > paid else ""
    return [
        (percent(report["llm_share"]), "of all items asked of the LLM"),
        (percent(report["accuracy"]), f"accuracy; the LLM alone {percent(report['llm_accuracy'])}"),
        (usd(paid), f"paid, instead of {usd(whole)}{saved}"),
        (percent(report["kept_disagreement"]), "of the kept items differ from the LLM"),
    ]


def _tile(value: str, name: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def _distillations(report: Report) -> str:
    rows = []
    for entry in report["distillations"]:
        bundle = "" if entry["bundle"] is None else f"bundle {entry['bundle']}, "
        rows.append(
            (
                f"{bundle}{entry['state']}",
                f"{entry['at_item']:,}",
                f"{entry['answers']:,}",
                f"{entry['judged']:,}",
                percent(entry["agreement"]),
                percent(entry["incumbent_agreement"]),
                f"{entry['seconds']:.1f} s",
                entry["reason"],
            )
        )
    header = ("", "at item", "learned from", "judged on", "agreement", "incumbent's", "took", "verdict")
    promoted = [entry["state"] == "promoted" for entry in report["distillations"]]
    return table(header, rows, numbers=range(1, 7), marked=promoted, none="None ended.")


def _bundles(report: Report) -> str:
    rows = [
        (
            f"bundle {entry['version']}",
            entry["recipe"],
            f"{entry['threshold']:.3f}",
            f"{entry['scored']:,}",
            f"{entry['kept']:,}",
            percent(entry["accuracy"]),
            percent(entry["agreement"]),
        )
        for entry in report["bundles"]
    ]
    header = ("", "recipe", "threshold", "scored", "kept", "accuracy", "agreement with the LLM")
    return table(header, rows, numbers=range(2, 7), none="None served: every item was asked.")


def _tenths(report: Report) -> str:
    header = [f"{tenth}." for tenth in range(1, 11)]
    shares = report["llm_share_by_tenth"]
    return table(header, [tuple(percent(share) for share in shares)], numbers=range(10))


def _figures(report: Report) -> str:
    """Every plain figure of the report, whatever the schema comes to hold."""
    plain = [(name, value) for name, value in report.items() if not isinstance(value, list)]
    rows = [(name, "n/a" if value is None else f"{value:,}") for name, value in plain]
    return table(("figure", "value"), rows, numbers=range(1, 2))


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Iterable[int],
    marked: Sequence[bool] = (),
    none: str = "",
) -> str:
    """An HTML table; columns in `numbers` are aligned right, rows `marked` stand out."""
    if not rows:
        return f'<p class="muted">{escape(none)}</p>'
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="n">{escape(cell)}</{tag}>' if place in right else f"<{tag}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "\n".join(
        f"<tr{' class=promoted' if place < len(marked) and marked[place] else ''}>{line(row, 'td')}</tr>"
        for place, row in enumerate(rows)
    )
    return f"<table>\n<tr>{line(header, 'th')}</tr>\n{body}\n</table>"
