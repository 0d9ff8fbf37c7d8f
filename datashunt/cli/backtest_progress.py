"""What a person sees while a backtest runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from datashunt.backtest.engine import Engine
    from datashunt.backtest.stopwatch import Stopwatch

PLAIN_EVERY_S = 10.0
"""How often a line is printed where the output is no terminal."""
NOTE_EVERY_S = 1.0
"""How often the seconds of the run are written down."""


class Progress:
    """Shows how far an engine is."""

    def __init__(self, console: Console, engine: Engine, watch: Stopwatch) -> None:
        self._console = console
        self._engine = engine
        self._watch = watch
        self._total = len(engine.stream)
        self._seen = self._asked = 0
        self._printed = self._noted = -float("inf")
        self._bar = Bar(
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=self._total)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            done = len(self._engine.ledger.decisions)
            self._print(f"stopped after {done:,} of {self._total:,} items: the same command goes on from there")

    def show(self, items: int, calls: int, doing: str) -> None:
        """Show that so many items are decided and calls made, and what is being done."""
        now = time.monotonic()
        if now - self._noted >= NOTE_EVERY_S and items < self._total:
            self._noted = now
            self._watch.note()
        words = f"{calls:,} calls · LLM asked about {self._share():.0%} · {doing}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=items, description=words)
        elif now - self._printed >= PLAIN_EVERY_S or items == self._total:
            self._printed = now
            self._print(f"{items:,} of {self._total:,} items · {words}")

    def _share(self) -> float:
        decisions = self._engine.ledger.decisions
        self._asked += sum(decision.reason is not None for decision in decisions[self._seen :])
        self._seen = len(decisions)
        return self._asked / max(1, self._seen)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
