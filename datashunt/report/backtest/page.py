"""The page of a backtest: that of a run, with what calls bought and what was certified."""

from __future__ import annotations

from pathlib import Path

from datashunt.report.backtest.figures import BacktestReport
from datashunt.report.page import render, table, uncalled
from datashunt.report.words import About, backtest_subline, percent


def write_backtest_html(report: BacktestReport, about: About, picture: Path, path: Path) -> None:
    """Write the page, with the PNG that `write_backtest_png` made inside it."""
    note = uncalled(
        f"The answers are recorded ones of {about.llm}; each was read only when the policy asked for it. Calls and"
        " money are what those asks would have taken."
    )
    if report["left_out"]:
        note += f'<p class="note"><strong>Lines left out: {report["left_out"]:,}.</strong> They hold no item.</p>'
    if report["unanswered"]:
        note += (
            f'<p class="note"><strong>Items without an answer: {report["unanswered"]:,}.</strong> The record holds no'
            " usable answer for them: no outcome agrees with that, and the LLM alone is not right there.</p>"
        )
    page = render(report, about, picture, backtest_subline(report), note, _highlights(report), _sections(report))
    path.write_text(page, encoding="utf-8")


def _highlights(report: BacktestReport) -> list[tuple[str, str]]:
    return [
        (f"{report['llm_calls']:,}", f"calls for {report['items']:,} items"),
        (percent(report["accuracy"]), f"accuracy; the LLM alone {percent(report['llm_accuracy'])}"),
        (percent(report["agreement"]), "of all outcomes agree with the LLM"),
        (percent(report["kept_disagreement"]), "of the kept items differ from the LLM"),
    ]


def _sections(report: BacktestReport) -> str:
    return f"""<h2>What calls bought</h2>
<p class="muted">All outcomes so far when so many calls had been spent, in stream order; the last row is the end of the
stream. Accuracy is against the right labels, agreement with the LLM.</p>
<div class="scroll">{_by_calls(report)}</div>
<h2>Labels</h2>
<p class="muted">Recall: of the items to which the LLM gives the label, those that are done with it. Precision: of those
done with it, the items to which the LLM gives it. What the small model kept, apart.</p>
<div class="scroll">{_labels(report)}</div>
<h2>Certificates</h2>
<p class="muted">Where items are kept from this threshold on, at most α of the kept ones, or of all, disagree with the
LLM, with probability of at least 1 − δ, as n held-out answers show, of which k disagree. That speaks of items drawn
like those, not of any drift.</p>
<div class="scroll">{_certificates(report)}</div>"""


def _by_calls(report: BacktestReport) -> str:
    rows = [
        (f"{entry['calls']:,}", f"{entry['items']:,}", percent(entry["accuracy"]), percent(entry["agreement"]))
        for entry in report["accuracy_by_1000_calls"]
    ]
    return table(("calls", "items", "accuracy", "agreement"), rows, numbers=range(4), none="No items.")


def _labels(report: BacktestReport) -> str:
    rows = [
        (
            entry["label"],
            f"{entry['teacher']:,}",
            f"{entry['outcomes']:,}",
            percent(entry["recall"]),
            percent(entry["precision"]),
            f"{entry['kept']:,}",
            percent(entry["kept_recall"]),
        )
        for entry in report["labels"]
    ]
    header = ("", "by the LLM", "outcomes", "recall", "precision", "of the LLM's, kept", "recall of those")
    return table(header, rows, numbers=range(1, 7), none="No items.")


def _certificates(report: BacktestReport) -> str:
    rows = [
        (
            f"bundle {entry['bundle']}",
            f"{entry['at_item']:,}",
            f"{entry['threshold']:.3f}",
            entry["of"],
            f"{entry['alpha']:g}",
            f"{entry['delta']:.3g}",
            f"{entry['n']:,}",
            f"{entry['k']:,}",
            entry["method"],
        )
        for entry in report["certificates"]
    ]
    header = ("", "at item", "threshold", "of", "α", "δ", "n", "k", "bound")
    return table(header, rows, numbers=(1, 2, 4, 5, 6, 7), none="None was given.")
