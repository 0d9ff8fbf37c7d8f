"""The picture of past traffic."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from datashunt.report import Mark, write_whatif_png
from datashunt.report.whatif import _headline
from datashunt.whatif import Point, Scope


def points(n: int, usd: float = 0.002) -> list[Point]:
    """A curve: the more is kept, the more differs, and the less it costs."""
    made = []
    for step in range(n):
        kept = (step + 1) / n
        differ = round(kept * 40)
        made.append(
            Point(1 - kept, kept, 1_000 * (1.05 - kept), 1_000 * (1.05 - kept) * usd, 400, differ, kept * 0.06, 0.15)
        )
    return made


@pytest.mark.parametrize("usd", [0.002, 0.0])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_a_picture_has_its_size_whatever_is_known(tmp_path: Path, n: int, usd: float) -> None:
    file = tmp_path / "what-if.png"
    nobody_knows = Point(2.0, 0.0, 50.0, 0.0, 0, 0, 0.0, 1.0)
    marks = [Mark("in force", points(10, usd)[3]), Mark("budget", nobody_knows)]
    write_whatif_png(points(n, usd), marks, ["bundle 1 of x", "1,000 items"], Scope.KEPT, file)
    assert struct.unpack(">II", file.read_bytes()[16:24]) == (1600, 900)


def test_the_headline_is_of_the_last_mark() -> None:
    marks = [Mark("in force", points(10)[0]), Mark("α = 0.05", points(10)[4])]
    assert _headline(marks, Scope.KEPT, priced=True) == (
        "α = 0.05: 50.0% kept for $1.10 a day, 5.0% of the kept differ from the LLM"
    )
    assert "550 calls a day" in _headline(marks, Scope.ALL, priced=False)
