"""What a benchmark found: as a table to look at, as JSON, and as rows of docs/benchmarks.md. Pure but for `machine`."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import psutil
from rich.table import Table

BEGIN = "<!-- figures: written by `python -m benchmarks --docs docs/benchmarks.md` -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure.

    Attributes:
        name: its key in the JSON.
        what: what it is, in words.
        unit: what `value` counts; "" for a share.
        target: what it must reach, or None.
        at_most: the target is an upper bound.
    """

    name: str
    what: str
    value: float
    unit: str = ""
    target: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def cells(self) -> tuple[str, str, str, str]:
        """What, value, target, verdict."""
        verdict = {None: "", True: "reached", False: "missed"}[self.reached]
        bound = "" if self.target is None else f"{'≤' if self.at_most else '≥'} {_number(self.target, self.unit)}"
        return self.what, _number(self.value, self.unit), bound, verdict


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found. `series`: rows of a curve, each with the same keys."""

    benchmark: str
    full: bool
    seconds: float
    measures: Sequence[Measure]
    series: Sequence[Mapping[str, float]] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Keys: benchmark, full, seconds, machine, measures (name → value, unit, target, reached), series."""
        measures = {
            one.name: {"value": one.value, "unit": one.unit, "target": one.target, "reached": one.reached}
            for one in self.measures
        }
        return {
            "benchmark": self.benchmark,
            "full": self.full,
            "seconds": round(self.seconds, 1),
            "machine": machine(),
            "measures": measures,
            "series": [dict(row) for row in self.series],
        }


def table(result: Result) -> Table:
    """The result for a terminal."""
    made = Table("measure", title=f"{result.benchmark} ({_counts(result.full)}, {result.seconds:.0f} s)")
    made.add_column("value", justify="right")
    made.add_column("target", justify="right")
    made.add_column("")
    for measure in result.measures:
        made.add_row(*measure.cells())
    return made


def series_table(result: Result) -> Table:
    """The curve for a terminal; call it only if there is one."""
    made = Table(title=f"{result.benchmark}: the curve")
    for name in result.series[0]:
        made.add_column(name.replace("_", " "), justify="right")
    for row in result.series:
        made.add_row(*(f"{value:,.1f}".removesuffix(".0") for value in row.values()))
    return made


def markdown(results: Sequence[Result]) -> str:
    """The results as a section of docs/benchmarks.md, without its markers."""
    lines = [f"{_counts_of(results).capitalize()}, on {machine()}.", ""]
    lines += ["| benchmark | measure | value | target | |", "|---|---|---:|---:|---|"]
    lines += [f"| {one.benchmark} | {' | '.join(m.cells())} |" for one in results for m in one.measures]
    return "\n".join(lines)


def refreshed(page: str, section: str, begin: str = BEGIN) -> str:
    """The page with another section between its two markers.

    Raises:
        ValueError: the page has not both markers, in order.
    """
    before, found, rest = page.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"the page has no section between {begin!r} and {END!r}: add both lines where it shall stand")
    return f"{before}{begin}\n{section}\n{END}{after}"


def machine() -> str:
    """The machine in general terms: cores, memory, instruction set, versions."""
    import torch

    memory = round(psutil.virtual_memory().total / 2**30)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "celery"))
    return (
        f"{cores()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), {memory} GB,"
        f" Python {platform.python_version()}, {versions}"
    )


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _counts_of(results: Sequence[Result]) -> str:
    reduced = [one.benchmark for one in results if not one.full]
    if reduced and len(reduced) < len(results):
        return f"{_counts(True)}, but reduced ones of {', '.join(reduced)}"
    return _counts(not reduced)


def _counts(full: bool) -> str:
    return "full counts" if full else "reduced counts"


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 1000 or isinstance(value, int) else 1 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}" + (f" {unit}" if unit else "")
