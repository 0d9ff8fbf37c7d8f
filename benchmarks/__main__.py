"""`python -m benchmarks`: all benchmarks, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    budget,
    ceiling,
    classifiers,
    command,
    decision,
    distil,
    figures,
    history,
    latency,
    llm_faults,
    llm_lane,
    memory,
    rival,
    score_lane,
    submit,
)

ALL: tuple[command.Benchmark, ...] = (
    submit.benchmark,
    score_lane.benchmark,
    ceiling.benchmark,
    classifiers.benchmark,
    latency.benchmark,
    history.benchmark,
    rival.benchmark,
    llm_lane.benchmark,
    llm_faults.benchmark,
    memory.benchmark,
    distil.benchmark,
    budget.benchmark,
    decision.benchmark,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them all; `--docs FILE` writes the table in a page of the documentation again."""
    parser = command.parser("Run all benchmarks.")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the table in FILE, between its markers, again")
    options = parser.parse_args(arguments)
    results = command.run(ALL, full=options.full)
    if options.json:
        command.write(options.json, [result.to_json() for result in results])
    if options.docs:
        page = figures.refreshed(options.docs.read_text(encoding="utf-8"), figures.markdown(results))
        options.docs.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
