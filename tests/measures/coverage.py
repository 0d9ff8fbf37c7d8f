"""Runs the suite under coverage.py, and every process that a test starts; prints each module, and the totals."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coverage import Coverage

LEAST = {"lines": ("covered_lines", "num_statements", 0.95), "branches": ("covered_branches", "num_branches", 0.90)}
"""What must be reached: the names of two counts in coverage.py's report, and the share."""


def main(arguments: Sequence[str]) -> int:
    """Pass arguments on to pytest. 1 if a test fails or too little is reached."""
    coverage = Coverage()
    coverage.erase()
    tested = subprocess.run([sys.executable, "-m", "coverage", "run", "-m", "pytest", *arguments], check=False)
    coverage.combine()
    coverage.save()
    coverage.report(show_missing=True)
    reached = [said(name, *totals(coverage)[name]) for name in LEAST]
    return tested.returncode or int(not all(reached))


def totals(coverage: Coverage) -> dict[str, tuple[int, int]]:
    """Lines and branches of all modules together, apart from each other: those that ran, and all there are."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(file))
        found: dict[str, Any] = json.loads(file.read_text())["totals"]
    return {name: (found[ran], found[there]) for name, (ran, there, _) in LEAST.items()}


def said(name: str, ran: int, there: int) -> bool:
    """Print one total; whether it is enough."""
    least = LEAST[name][2]
    print(f"{name}: {ran:,} of {there:,}, {ran / there:.2%}; at least {least:.0%} is wanted")
    return ran >= least * there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
