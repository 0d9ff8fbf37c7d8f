"""The command line that every benchmark shares."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import figures
from benchmarks.figures import Result
from datashunt.errors import DatashuntError

Benchmark = Callable[[bool], Result]
"""Takes whether to run the full counts."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all of them take."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--full", action="store_true", help="the documented counts instead of reduced ones")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    return made


def main(benchmark: Benchmark, description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Run one benchmark as a program: table on stdout, figures to `--json`; a failure is one sentence, exit code 1."""
    options = parser(description).parse_args(arguments)
    result = run([benchmark], full=options.full)[0]
    if options.json:
        write(options.json, result.to_json())


def run(benchmarks: Sequence[Benchmark], *, full: bool) -> list[Result]:
    """Run and show benchmarks one after another.

    Raises:
        SystemExit: one failed (1), or was interrupted (130, 143); all that was started is stopped before.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    results = []
    try:
        for benchmark in benchmarks:
            result = benchmark(full)
            if result.series:
                console.print(figures.series_table(result))
            console.print(figures.table(result))
            results.append(result)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except DatashuntError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        raise SystemExit(error.exit_code) from None
    return results


def write(path: Path, document: object) -> None:
    """Write figures as JSON."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
