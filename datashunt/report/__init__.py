"""What a run came to: figures, a picture, a page. Imports confidence, items, errors and whatif only.

`build` makes the figures (report.json), `series` what is drawn along the stream; both are pure. `write_json`,
`write_png` and `write_html` put them into files. matplotlib is imported only when a picture is drawn. A backtest
has `build_backtest`, `backtest_series`, `write_backtest_png` and `write_backtest_html` in their place.
`summary` is the table at the end of a command; `write_whatif_png` the picture of past traffic.
"""

from __future__ import annotations

from datashunt.report.backtest.figures import BacktestReport, CallsFigures, CertificateFigures, build_backtest
from datashunt.report.backtest.page import write_backtest_html
from datashunt.report.backtest.picture import write_backtest_png
from datashunt.report.backtest.series import BacktestSeries, backtest_series
from datashunt.report.figures import (
    BundleRecord,
    DistillationRecord,
    ItemRecord,
    Report,
    build,
    write_json,
)
from datashunt.report.page import write_html
from datashunt.report.picture import write_png
from datashunt.report.series import Series, series
from datashunt.report.table import summary
from datashunt.report.whatif import Mark, write_whatif_png
from datashunt.report.words import About

__all__ = [
    "About",
    "BacktestReport",
    "BacktestSeries",
    "BundleRecord",
    "CallsFigures",
    "CertificateFigures",
    "DistillationRecord",
    "ItemRecord",
    "Mark",
    "Report",
    "Series",
    "backtest_series",
    "build",
    "build_backtest",
    "series",
    "summary",
    "write_backtest_html",
    "write_backtest_png",
    "write_html",
    "write_json",
    "write_png",
    "write_whatif_png",
]
