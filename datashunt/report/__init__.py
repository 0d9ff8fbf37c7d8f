"""What a run came to: figures, a picture, a page. Imports items and errors only.

`build` makes the figures (report.json), `series` what is drawn along the stream; both are pure. `write_json`,
`write_png` and `write_html` put them into files. matplotlib is imported only when a picture is drawn.
"""

from __future__ import annotations

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
from datashunt.report.words import About

__all__ = [
    "About",
    "BundleRecord",
    "DistillationRecord",
    "ItemRecord",
    "Report",
    "Series",
    "build",
    "series",
    "write_html",
    "write_json",
    "write_png",
]
