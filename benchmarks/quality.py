"""How good the method is on recorded streams: accuracy and agreement at given numbers of calls, and ablations.

Each case is one backtest in its own folder below `bench-quality/`: a run that was interrupted goes on. The figures of
what is done stand in `benchmarks/quality.jsonl`, with the commit that was measured; no machine runs it again. Whoever
changes the method deletes the lines that it may change; a run that was begun by other code begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import datashunt
from benchmarks.cases import CHANGES, Case, ablations, agreements, defaults, larger
from benchmarks.figures import refreshed
from benchmarks.recorded import STREAMS, beginning
from datashunt import settings
from datashunt.backtest.engine import Engine
from datashunt.backtest.options import Options
from datashunt.confidence import expected_calibration_error
from datashunt.errors import DatashuntError

OUT = Path("bench-quality")
RESULTS = Path(__file__).with_name("quality.jsonl")
BEGIN = "<!-- figures: written by `python -m benchmarks.quality --docs docs/method.md` -->"
BEGIN_CASCADES = "<!-- cascades: written by the same -->"
SEEDS = range(3)
Row = dict[str, Any]


def run(case: Case, out: Path, threads: int = 0) -> Row:
    """One backtest, from where it stopped; its figures as JSON values.

    Args:
        case: what to run.
        out: the folder of all runs.
        threads: of torch; 0: as the settings have it.
    """
    stream = STREAMS[case.stream]
    spec = stream.spec()
    spec = spec.model_copy(update={"small_model": spec.small_model.model_copy(update={"base": case.base})})
    if case.threshold is not None:
        spec = spec.model_copy(update={"policy": spec.policy.model_copy(update={"threshold": case.threshold})})
    recorded = beginning(stream.read(), case.seed, case.items)
    options = Options(order="file", seed=case.seed, **case.options)
    known = settings.load()
    known = known.model_copy(update={"threads": threads or known.threads})
    started = time.monotonic()
    _begun_by(_code(), out / case.key)
    engine = Engine(spec, recorded, options, known, out / case.key)
    engine.run(lambda *_: None)
    engine.ledger.close()
    encoder = {} if case.base == "auto" else {"base": Path(case.base).name}
    return {"key": case.key, **encoder, **figures(engine), "seconds": round(time.monotonic() - started, 1)}


def _code() -> str:
    """Of all code that decides what a run comes to."""
    digest = hashlib.sha256()
    for path in sorted(Path(datashunt.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _begun_by(code: str, folder: Path) -> None:
    """Empty the folder of a run that other code began: its figures would have two origins."""
    note = folder / "code"
    if folder.exists() and (not note.exists() or note.read_text(encoding="ascii") != code):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(code, encoding="ascii")


def figures(engine: Engine) -> Row:
    """Accuracy, agreement, calls and calibration of a run. Items without an outcome count as wrong."""
    decisions, stream = engine.ledger.decisions, engine.stream
    pairs = list(zip(decisions, stream, strict=True))
    kept = [(d, i) for d, i in pairs if d.source == "small"]
    scored = [(d, i) for d, i in pairs if d.small_confidence is not None and i.teacher is not None]
    return {
        "items": len(pairs),
        "calls": sum(d.calls for d in decisions),
        "accuracy": mean(d.label is not None and d.label == i.gold for d, i in pairs),
        "llm_accuracy": mean(i.teacher is not None and i.teacher == i.gold for _, i in pairs),
        "agreement": mean(d.label is not None and d.label == i.teacher for d, i in pairs),
        "kept": len(kept) / len(pairs),
        "kept_accuracy": mean(d.label == i.gold for d, i in kept) if kept else None,
        "ece": expected_calibration_error(
            [d.small_confidence for d, _ in scored], [d.small_label == i.teacher for d, i in scored]
        )
        if scored
        else None,
        "bundles": sum(one.state == "promoted" for one in engine.ledger.trained),
        "distillations": len(engine.ledger.trained),
    }


def collect(cases: Sequence[Case], out: Path, results: Path, console: Console, jobs: int = 1) -> list[tuple[Case, Row]]:
    """Run what has no line in `results` yet, `jobs` at once, and show it; return all cases with their figures."""
    out.mkdir(parents=True, exist_ok=True)
    done = read(results)
    commit = _commit()
    for row in _rows([case for case in cases if case.key not in done], out, jobs):
        done[row["key"]] = {**row, "commit": commit}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[row["key"]]) + "\n")
        console.print(
            f"{row['key']}: accuracy {row['accuracy']:.4f}, agreement {row['agreement']:.4f}, {row['calls']:,} calls,"
            f" {row['seconds']:.0f} s"
        )
    return [(case, done[case.key]) for case in cases]


def _rows(cases: Sequence[Case], out: Path, jobs: int) -> Iterator[Row]:
    """The figures of each case, as they come. Two with a core each take less time than one after the other."""
    if jobs == 1:
        yield from (run(case, out) for case in cases)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    cases = sorted(cases, key=lambda case: -case.options.get("max_calls", 0))  # the longest first
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            for one in as_completed([pool.submit(run, case, out, threads) for case in cases]):
                yield one.result()
        finally:
            pool.shutdown(cancel_futures=True)


def read(results: Path) -> dict[str, Row]:
    """The figures of what is done, by the key of the case."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def _commit() -> str:
    """The commit that is measured, `+` behind it if code was changed since; empty outside of a repository."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "../datashunt", "*.py")
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    folder, say = Path(__file__).parent, subprocess.DEVNULL
    told = subprocess.run(["git", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=say, text=True, check=False)
    return told.stdout.strip()


def summary(found: Sequence[tuple[Case, Row]]) -> list[tuple[str, ...]]:
    """One line for each case over its seeds: mean ± standard deviation.

    An ablation is compared with `as it is` seed by seed, since a seed makes more of a difference than most of them.
    """
    unchanged = {case.seed: row for case, row in found if case.group == UNCHANGED}
    by_case: dict[tuple[str, str, str], dict[int, Row]] = defaultdict(dict)
    for case, row in found:
        by_case[case.group, case.stream, case.name][case.seed] = row
    return [
        (
            *names,
            str(len(rows)),
            f"{mean(row['calls'] for row in rows.values()):,.0f}",
            *(_spread([row[name] for row in rows.values()]) for name in MEASURES),
            *(_gain(rows, unchanged, name) if names[0] in ABLATED else "" for name in MEASURES[:2]),
        )
        for names, rows in by_case.items()
    ]


def _gain(rows: Mapping[int, Row], unchanged: Mapping[int, Row], name: str) -> str:
    """Mean difference ± standard deviation over the seeds that both have, in points."""
    gains = [100 * (row[name] - unchanged[seed][name]) for seed, row in rows.items() if seed in unchanged]
    if not gains:
        return "–"
    return f"{mean(gains):+.1f}" + (f" ± {stdev(gains):.1f}" if len(gains) > 1 else "")


def _known(results: Path) -> list[tuple[Case, Row]]:
    """All cases that are done, whichever were asked for."""
    done = read(results)
    bases = sorted({row["base"] for row in done.values() if "base" in row})
    others = [case for base in bases for case in larger(base, SEEDS)]
    every = [*defaults(SEEDS), *others, *agreements(SEEDS), *ablations(SEEDS)]
    return [(case, done[case.key]) for case in every if case.key in done]


UNCHANGED = "as it is"
ABLATED = CHANGES.keys() - {UNCHANGED}
MEASURES = ("accuracy", "agreement", "ece")
HEADER = (
    "what",
    "stream",
    "",
    "seeds",
    "calls",
    "accuracy",
    "agreement",
    "ECE",
    "accuracy, points",
    "agreement, points",
)


def markdown(found: Sequence[tuple[Case, Row]]) -> str:
    """The same as a table of docs/method.md."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in summary(found))])


def cascades(done: Mapping[str, Row]) -> str:
    """What agreement on HEADLINES costs the plain cascade, seed by seed, beside the defaults, as a table."""
    lines = [
        "| seed | plain cascade, calls: agreement in % | 95 % costs it | 98 % costs it |"
        " defaults, calls: agreement in % (of what that costs it) |",
        "|---:|---|---:|---:|---|",
    ]
    for seed in SEEDS:
        plain = sorted((row["agreement"], row["calls"]) for row in _of(done, "plain-cascade", seed))
        ours = sorted((row["calls"], row["agreement"]) for row in _of(done, "defaults", seed))
        if len(plain) < 2:
            continue
        agreement, calls = zip(*plain, strict=True)
        cells = [
            str(seed),
            ", ".join(f"{cost:,}: {100 * share:.2f}" for share, cost in plain),
            *(f"{np.interp(share, agreement, calls):,.0f}" for share in (0.95, 0.98)),
            ", ".join(
                f"{cost:,}: {100 * share:.2f} ({100 * cost / np.interp(share, agreement, calls):.0f} %)"
                for cost, share in ours
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(done: Mapping[str, Row], group: str, seed: int) -> list[Row]:
    return [row for key, row in done.items() if fnmatch(key, f"{group}.headlines.*.{seed}")]


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{mean(known):.4f}" + (f" ± {stdev(known):.4f}" if len(known) > 1 else "")


def _asked_for(options: argparse.Namespace) -> list[Case]:
    seeds = SEEDS if options.full else range(1)
    if options.base:
        return list(larger(options.base, seeds))
    cases = [] if options.ablations else list(defaults(seeds))
    if options.full:
        cases += agreements(SEEDS)
    if options.full or options.ablations:
        cases += ablations(SEEDS)
    return cases


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases, show them, and with `--docs FILE` write the table of that page again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="three seeds, more of HEADLINES, and the ablations")
    parser.add_argument("--ablations", action="store_true", help="only the ablations, three seeds")
    parser.add_argument("--base", help="only ISEAR, with this encoder: a hub id or folder")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the figures of what is done")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once, each with its part of the cores")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="only cases whose key is like it: 'loss.*.0'")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write all that is done into FILE's table")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs: found {options.jobs}, expected 1 or more")
    cases = _asked_for(options)
    console = Console()
    cases = [one for one in cases if fnmatch(one.key, options.only)]
    try:
        found = collect(cases, options.out, options.results, console, options.jobs)
    except DatashuntError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        raise SystemExit(error.exit_code) from None
    table = Table(*HEADER)
    for cells in summary(found):
        table.add_row(*cells)
    console.print(table)
    if options.docs:
        options.docs.write_text(
            refreshed(
                refreshed(options.docs.read_text(encoding="utf-8"), markdown(_known(options.results)), BEGIN),
                cascades(read(options.results)),
                BEGIN_CASCADES,
            ),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
