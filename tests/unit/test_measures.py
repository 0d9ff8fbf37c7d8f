"""What `make coverage` and `make mutation` count, and when they fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from coverage import Coverage

from tests.measures import coverage, mutation

CODE = "def sign(x):\n    if x > 0:\n        return 1\n    return -1\n"


def test_lines_and_branches_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four lines, three of which ran; of the two ways of the `if` one was gone."""
    (tmp_path / "sign.py").write_text(CODE)
    (tmp_path / "config").write_text("[run]\nbranch = true\n")
    data = tmp_path / "data"
    measured = Coverage(data_file=str(data), config_file=str(tmp_path / "config"), include=[f"{tmp_path}/*"])
    lines = measured.get_data()
    lines.add_arcs({str(tmp_path / "sign.py"): [(-1, 1), (1, -1), (-1, 2), (2, 3), (3, -1)]})
    monkeypatch.chdir(tmp_path)
    assert coverage.totals(measured) == {"lines": (3, 4), "branches": (1, 2)}


@pytest.mark.parametrize(("name", "ran", "enough"), [("lines", 94, False), ("lines", 95, True), ("branches", 90, True)])
def test_a_total_says_whether_it_is_enough(
    name: str, ran: int, enough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert coverage.said(name, ran, 100) is enough
    assert capsys.readouterr().out.startswith(f"{name}: {ran} of 100, {ran}.00%; at least 9")


def test_a_change_is_found_if_a_test_notices_it_or_never_ends(capsys: pytest.CaptureFixture[str]) -> None:
    states = {
        "datashunt.shunt.x_decide__mutmut_1": "killed",
        "datashunt.shunt.x_decide__mutmut_2": "survived",
        "datashunt.shunt.x_decide__mutmut_3": "timeout",
        "datashunt.shunt.x_decide__mutmut_4": "no tests",
        "datashunt.shunting.x_other__mutmut_1": "killed",
    }
    assert mutation.share("datashunt.shunt", states) == 0.5
    assert capsys.readouterr().out.split() == ["datashunt.shunt", "2", "of", "4", "50.0%"]
