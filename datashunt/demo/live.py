"""What a person sees while the demo runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 15.0
"""How often a line is printed where the output is no terminal."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the run at one moment. Shares and accuracies are fractions of 1."""

    done: int
    kept: int
    asked: int
    open: int
    llm_share: float
    recent_share: float | None
    cost_usd: float
    cost_if_all_llm_usd: float
    bundle: int | None
    accuracy: float | None
    doing: str


class Progress:
    """Shows snapshots in place on a terminal, or as a line now and then elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._printed = -float("inf")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, snapshot: Snapshot, *, arrived: int) -> None:
        """Show this snapshot; `arrived` items have been submitted so far."""
        if self._console.is_terminal:
            self._live.update(_panel(snapshot, arrived, self._total))
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._console.print(_line(snapshot, self._total), highlight=False, soft_wrap=True)


def _rows(snapshot: Snapshot) -> list[tuple[str, str]]:
    recent = "–" if snapshot.recent_share is None else f"{snapshot.recent_share:.0%}"
    accuracy = "–" if snapshot.accuracy is None else f"{snapshot.accuracy:.1%}"
    return [
        ("kept by the small model", f"{snapshot.kept:,}"),
        ("asked the LLM", f"{snapshot.asked:,}"),
        ("LLM share", f"{snapshot.llm_share:.0%} so far, {recent} of the last 500"),
        ("cost", f"${snapshot.cost_usd:.4f}; asking about everything: ${snapshot.cost_if_all_llm_usd:.4f}"),
        ("small model", "none yet" if snapshot.bundle is None else f"bundle {snapshot.bundle}"),
        ("accuracy against the raters", accuracy),
        ("doing", snapshot.doing),
    ]


def _panel(snapshot: Snapshot, arrived: int, total: int) -> Group:
    table = Table.grid(padding=(0, 2))
    for name, value in _rows(snapshot):
        table.add_row(Text(name, style="dim"), value)
    head = Text(f"{snapshot.done:,} of {total:,} done, {arrived:,} arrived", style="bold")
    return Group(head, ProgressBar(total=total, completed=snapshot.done, width=60), table)


def _line(snapshot: Snapshot, total: int) -> str:
    recent = "–" if snapshot.recent_share is None else f"{snapshot.recent_share:.0%}"
    accuracy = "–" if snapshot.accuracy is None else f"{snapshot.accuracy:.1%}"
    return (
        f"{snapshot.done:5,} of {total:,} done · LLM share {snapshot.llm_share:.0%}, of the last 500 {recent}"
        f" · ${snapshot.cost_usd:.4f} of ${snapshot.cost_if_all_llm_usd:.4f}"
        f" · {'no bundle yet' if snapshot.bundle is None else f'bundle {snapshot.bundle}'}"
        f" · accuracy {accuracy} · {snapshot.doing}"
    )
