"""`datashunt review | label`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from datashunt import streams
from datashunt.bootstrap import Runtime
from datashunt.cli import shares
from datashunt.cli.context import err, out, runtime
from datashunt.cli.tables import table as columns
from datashunt.errors import UsageError
from datashunt.pipeline import people
from datashunt.store import classifiers, reviews
from datashunt.store.reviews import Look
from datashunt.streams import BadRow

CUT = 60
"""Characters of a text in a table."""
SHOWN = 20
MOST_SEED = 2**63 - 1
BLANK = ("id", "text", "label", "by")
"""Columns of a file to fill in; a sample has no others, so that nobody is led by what the models said."""
HINTS = ("current", "source", "small_label", "small_confidence", "llm_label", "why")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(review)
    app.command()(label)


def review(
    name: str,
    take: int = typer.Option(50, "--take", min=1, help="How many items."),
    file: Path | None = typer.Option(None, "--out", help="Write them to this .csv or .jsonl, to fill in."),
    sample: int | None = typer.Option(None, "--sample", min=1, help="Instead: draw so many finished items at random."),
    seed: int | None = typer.Option(None, "--seed", min=0, max=MOST_SEED, help="Names the sample (default 1)."),
    show_quality: bool = typer.Option(False, "--quality", help="Instead: how good outcomes are by people's labels."),
) -> None:
    """Show what a person should look at first; draw a sample for people; say what their labels prove."""
    if file is not None and file.suffix.lower() not in {".csv", ".jsonl"}:
        raise UsageError(f"{file}: unknown kind of file: expected .csv or .jsonl")
    if show_quality and (sample is not None or file is not None):
        raise UsageError("--quality: expected neither --sample nor --out with it: it draws and writes nothing")
    if seed is not None and sample is None and not show_quality:
        raise UsageError("--seed: expected --sample or --quality with it: it names a sample")
    with runtime() as made:
        if show_quality:
            out.print(*shares.lines(people.measure(made.store, name, seed)), sep="\n")
        elif sample is not None:
            _show_sample(made, name, sample, 1 if seed is None else seed, file)
        else:
            with made.store.begin() as tx:
                found = reviews.queue(tx, classifiers.current(tx, name), take)
            _show_queue(found, file)


def _show_queue(found: Sequence[Look], file: Path | None) -> None:
    table = columns("id", "text", "label", "source", "small", "LLM", "why")
    for one in found:
        small = "–" if one.small_label is None else f"{one.small_label} {one.confidence or 0.0:.2f}"
        table.add_row(one.id, _cut(one.text), one.label or "–", one.source or "–", small, one.llm_label or "–", one.why)
    out.print(table)
    if file is not None:
        _write(file, (*BLANK, *HINTS), (_hinted(one) for one in found))


def _hinted(one: Look) -> tuple[Any, ...]:
    confidence = None if one.confidence is None else round(one.confidence, 4)
    return (one.id, one.text, "", "", one.label, one.source, one.small_label, confidence, one.llm_label, one.why)


def _show_sample(made: Runtime, name: str, size: int, seed: int, file: Path | None) -> None:
    drawn = people.sample(made.store, name, size, seed)
    with made.store.begin() as tx:
        left = reviews.unlabelled(tx, drawn)
    if file is not None:
        _write(file, BLANK, ((key, text, "", "") for key, text in left))
    else:
        table = columns("id", "text")
        for key, text in left:
            table.add_row(key, _cut(text))
        out.print(table)
    print(f"sample {seed}: {drawn.size} of {drawn.population} finished items, {len(left)} without a person's label")


def _write(file: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    try:
        with file.open("x", encoding="utf-8", newline="") as made:
            if file.suffix.lower() == ".csv":
                writer = csv.writer(made)
                writer.writerow(names)
                writer.writerows(rows)
            else:
                for row in rows:
                    made.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
    except FileExistsError:
        raise UsageError(f"{file}: is there already, perhaps filled in: give another name, or move it away") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror or error}") from None


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CUT else line[: CUT - 1] + "…"


def label(
    name: str,
    file: Path,
    by: str | None = typer.Option(None, "--by", help="Who gave all of these labels; else the column `by` says it."),
) -> None:
    """Take people's labels from a .csv, .jsonl or .parquet file with the columns id, label and by."""
    rows = streams.read(file, text_column="label", columns=() if by is not None else ("by",))
    new = known = blank = refused = 0
    try:
        with runtime() as made:
            for part in people.label(made.store, name, rows, by=by):
                new, known, blank = new + part.new, known + part.known, blank + part.blank
                for bad in part.refused[: max(0, SHOWN - refused)]:
                    _complain(bad)
                refused += len(part.refused)
    finally:  # what was committed is told, even if the file or a server breaks off in the middle
        if refused > SHOWN:
            err.print(f"… and {refused - SHOWN} more")
        if new or known or blank or refused:
            print(f"{new} labelled, {known} known already, {blank} not filled in, {refused} refused")
    if refused:
        raise typer.Exit(1)


def _complain(bad: BadRow) -> None:
    detail = bad.detail.removeprefix(f"line {bad.line}: ")
    err.print(f"line {bad.line}: {bad.reason}: {detail}", markup=False, highlight=False, soft_wrap=True)
