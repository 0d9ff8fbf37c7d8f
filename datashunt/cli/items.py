"""`datashunt submit | wait | results`."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, cast

import typer

from datashunt import streams
from datashunt.bootstrap import Runtime
from datashunt.cli.context import err, load, runtime
from datashunt.client import Client
from datashunt.errors import UsageError
from datashunt.items import Item, Refusal
from datashunt.pipeline.submit import deadline_of, fault_of_priority
from datashunt.store import classifiers, results
from datashunt.streams import BadRow, Row

CALL = 20_000
"""Lines of one submission; each is one transaction."""
SHOWN = 20
TIMED_OUT = 3
REST_S = 0.2
"""How long `wait` rests at least between two looks."""
RESTS = 10
"""And how many times as long as the last look took: it counts all open items, of which there may be millions."""
READABLE_S = 5.0
"""How long `wait` waits for other transactions of the server, so that `results` then gives every outcome."""


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(submit)
    app.command()(wait)
    app.command("results")(results_)


def submit(
    name: str,
    file: Path,
    id_column: str = typer.Option("id", "--id", help="Field or column that holds the id."),
    text_column: str = typer.Option("text", "--text", help="Field or column that holds the text."),
    deadline: str | None = typer.Option(
        None, "--deadline", help="When outcomes are wanted: seconds from now, or a moment (ISO 8601, with time zone)."
    ),
    deadline_column: str | None = typer.Option(
        None, "--deadline-column", help="Field or column that holds a deadline of the item's own."
    ),
    priority: int = typer.Option(0, "--priority", help="Lower ones are scored and asked first: -100 to 100."),
    at_bound: str | None = typer.Option(
        None, "--at-bound", help="refuse or wait, while DATASHUNT_MAX_QUEUED items are queued (DATASHUNT_AT_BOUND)."
    ),
    wait_: bool = typer.Option(False, "--wait", help="Wait until each item of the file is done, dead or held."),
) -> None:
    """Submit the items of a .jsonl, .csv or .parquet file (the first two also .gz); accepted means committed."""
    wanted = _checked(deadline, priority, at_bound)
    columns_ = () if deadline_column is None else (deadline_column,)
    rows = streams.read(file, id_column=id_column, text_column=text_column, columns=columns_)
    calls = accepted = known = refused = 0
    taken: list[list[str]] = []
    ids_since: datetime | None = None
    broken_off = True
    try:
        with Client(load()) as client:
            for lines, entries in _calls(rows, wanted, deadline_column, priority):
                receipt = client.submit(name, entries, at_bound=cast(Any, at_bound))
                calls += 1
                accepted += receipt.accepted
                known += receipt.known
                ids_since = receipt.ids_since or ids_since
                if wait_:
                    bad = {entry.position for entry in receipt.refused}
                    taken.append([one.id for n, one in enumerate(entries) if n not in bad and one.id is not None])
                for entry in receipt.refused:
                    refused += 1
                    if refused <= SHOWN:
                        _complain(lines[entry.position], entry)
        broken_off = False
    finally:  # what was committed is told, even if the file or a server breaks off in the middle
        if refused > SHOWN:
            err.print(f"… and {refused - SHOWN} more; all reasons are in the table refusals")
        if calls or not broken_off:
            print(f"{accepted} accepted, {known} known already, {refused} refused")
        if accepted and ids_since is not None:
            by = ids_since.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
            print(f"ids of items that ended by {by} UTC may have been removed: such an item is a new one")
    if wait_:
        _wait_for(name, taken)
    if refused:
        raise typer.Exit(1)


def _checked(deadline: str | None, priority: int, at_bound: str | None) -> float | datetime | None:
    """The deadline that is meant, if all three can be."""
    try:
        wanted = deadline_of(deadline)
    except ValueError as error:
        raise UsageError(f"--deadline: {error}") from None
    if at_bound not in {None, "refuse", "wait"}:
        raise UsageError(f"--at-bound: expected refuse or wait, found {at_bound!r}")
    fault = fault_of_priority(priority)
    if fault is not None:
        raise UsageError(f"--priority: {fault[1]}")
    return wanted


def _wait_for(name: str, calls: Iterable[list[str]]) -> None:
    """Wait until none of these items moves any more, whatever else comes in, and tell how they ended."""
    ended: Counter[str] = Counter()
    with Client(load()) as client:
        for ids in calls:
            ended.update(client.wait(name, ids, math.inf).values())
    give_up = time.monotonic() + READABLE_S
    with runtime() as made:
        while not _readable(made, name) and time.monotonic() < give_up:
            time.sleep(REST_S)
    print(f"{name}: {ended['done']} done, {ended['dead']} dead, {ended['held']} held")


def _readable(made: Runtime, name: str) -> bool:
    with made.store.begin() as tx:
        return results.all_readable(tx, classifiers.id_of(tx, name))


def _complain(line: int, entry: Refusal) -> None:
    detail = entry.detail.removeprefix(f"line {line}: ")
    err.print(f"line {line}: {entry.reason}: {detail}", markup=False, highlight=False)


def _calls(
    rows: Iterable[Row | BadRow],
    deadline: float | datetime | None = None,
    column: str | None = None,
    priority: int = 0,
) -> Iterator[tuple[list[int], list[Item | Refusal]]]:
    """Submissions of bounded size, with the line of each entry; a deadline of its own comes before the common one."""
    stream = iter(rows)
    while chunk := list(islice(stream, CALL)):
        entries = [_entry(n, row, deadline, column, priority) for n, row in enumerate(chunk)]
        yield [row.line for row in chunk], entries


def _entry(
    position: int, row: Row | BadRow, deadline: float | datetime | None, column: str | None, priority: int
) -> Item | Refusal:
    if isinstance(row, BadRow):
        return Refusal(position, row.id, row.reason, row.detail)  # which names the line itself
    own = row.fields[column] if column is not None else None
    try:
        return Item(row.id, row.text, row.meta, deadline_of(own or None) or deadline, priority)
    except ValueError as error:
        return Refusal(position, row.id, "bad_deadline", f"line {row.line}: {error}")


def wait(
    name: str,
    timeout_s: float | None = typer.Option(None, "--timeout-s", help="Give up after so many seconds (exit 3)."),
    audits: bool = typer.Option(False, "--audits", help="Wait for the audits that are under way, too."),
) -> None:
    """Wait until no item of a classifier is queued, scoring or asked."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    done_at = None
    with runtime() as made:
        while True:
            began = time.monotonic()
            found, readable = _open(made, name)
            now = time.monotonic()
            left = found.moving + (found.audits if audits else 0)
            done_at = done_at or (now if left == 0 else None)
            if left == 0 and (readable or (done_at and now - done_at > READABLE_S)):
                break
            if deadline is not None and now >= deadline:
                err.print(f"datashunt: {left} items of {name} are still on their way after {timeout_s:g} s")
                raise typer.Exit(TIMED_OUT)
            rest_s = max(REST_S, RESTS * (now - began))
            time.sleep(rest_s if deadline is None else min(rest_s, deadline - now))
        with made.store.begin() as tx:
            state = results.status(tx, classifiers.current(tx, name).id)
    dead, held = state["states"].get("dead", 0), found.held
    print(f"{name}: {state['states'].get('done', 0)} done, {dead} dead, {held} held")


def _open(made: Runtime, name: str) -> tuple[results.Open, bool]:
    """What is on its way, and whether `results` gives all the outcomes there are."""
    with made.store.begin() as tx:
        known = classifiers.current(tx, name)
        return results.still_open(tx, known.id), results.all_readable(tx, known.id)


def results_(
    name: str,
    after: str | None = typer.Option(None, "--after", help="Cursor of the last result that you have."),
    follow: bool = typer.Option(False, "--follow", help="Go on with new results as they come."),
) -> None:
    """Print outcomes as JSON lines, none twice and none skipped."""
    cursor = after
    with Client(load()) as client:
        while True:
            for result in client.results(name, cursor):
                print(json.dumps(result.to_json(), ensure_ascii=False), flush=follow)
                cursor = result.cursor
            if not follow:
                return
            time.sleep(0.5)
