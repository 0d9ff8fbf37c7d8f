"""`datashunt backtest`: what would it have saved? The product's decisions over logs that exist already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from filelock import FileLock, Timeout

from datashunt import classifier, report
from datashunt import settings as settings_module
from datashunt.classifier import Spec
from datashunt.cli.backtest_progress import Progress
from datashunt.cli.context import err, out
from datashunt.errors import UsageError

if TYPE_CHECKING:
    from datashunt.backtest.engine import Engine, Options

SHOWN = 20
"""Most notes of the recording that are printed."""
DELTA = 0.1
"""Chance that a certificate is wrong, unless --delta says otherwise."""
RUN = "run"
"""The folder inside --out that the engine goes on from."""


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(backtest)


@dataclass(frozen=True, slots=True)
class _Given:
    """The options that say how to run, as they were given."""

    order: str
    seed: int
    gates: int
    max_calls: int | None
    threshold: float | None
    alpha: float | None
    delta: float | None


def backtest(
    spec: Path = typer.Argument(..., metavar="SPEC", help="A classifier file (YAML)."),
    stream: Path = typer.Argument(..., metavar="STREAM", help="Items with the LLM's labels: .csv, .jsonl, .parquet."),
    id_column: str = typer.Option("id", "--id", help="Field or column that holds the id."),
    text_column: str = typer.Option("text", "--text", help="Field or column that holds the text."),
    teacher_column: str = typer.Option(..., "--teacher", help="Field or column that holds what the LLM said."),
    gold_column: str | None = typer.Option(None, "--gold", help="Field or column that holds the right label."),
    order: str = typer.Option("random", "--order", help="random: shuffled by the seed; file: as they stand."),
    seed: int = typer.Option(0, "--seed", help="Of the order, the audit draws and the training."),
    max_calls: int | None = typer.Option(None, "--max-calls", help="Spend at most so many calls."),
    threshold: float | None = typer.Option(None, "--threshold", help="Keep from this confidence on."),
    alpha: float | None = typer.Option(None, "--alpha", help="Let at most this share of kept items disagree."),
    delta: float | None = typer.Option(None, "--delta", help="With --alpha: chance that this fails; default 0.1."),
    gates: int = typer.Option(1, "--gates", help="2: the first bundle is asked before the newest."),
    folder: Path = typer.Option(..., "--out", help="Folder for the report, the outcomes and the run."),
) -> None:
    """Run a classifier over recorded LLM answers, and report what it would have saved; calls no LLM."""
    given = _checked(_Given(order, seed, gates, max_calls, threshold, alpha, delta))
    _require_pictures()
    read = classifier.load(spec)
    from datashunt.backtest import recording

    settings = settings_module.load()
    recorded = recording.read(
        stream,
        read.label_names,
        id_column=id_column,
        text_column=text_column,
        teacher_column=teacher_column,
        gold_column=gold_column,
        max_text_bytes=settings.max_text_bytes,
    )
    _notes([*recorded.notes, *_unseen(read)])
    from datashunt.backtest.engine import Engine, with_policy

    asked_for = read if threshold is None else with_policy(read, threshold=threshold)
    with _alone(folder / RUN):
        engine = Engine(asked_for, recorded, _options(given), settings, folder / RUN)
        figures = _run(engine, asked_for, given, _about(asked_for, stream, teacher_column, given), folder)
    out.print(report.summary(figures))
    err.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _run(engine: Engine, spec: Spec, given: _Given, about: report.About, folder: Path) -> report.BacktestReport:
    """Decide what is left of the stream, and write the files."""
    from datashunt.backtest import output
    from datashunt.backtest.stopwatch import Stopwatch

    watch = Stopwatch(folder / RUN / "seconds.txt")
    done = len(engine.ledger.decisions)
    if done:
        _say(f"going on after {done:,} items" if done < len(engine.stream) else f"all {done:,} items are decided")
    if done < len(engine.stream):
        with Progress(err, engine, watch) as progress:
            engine.run(progress.show)
        watch.note()
    engine.ledger.close()
    finished = output.Finished(
        spec=spec,
        stream=engine.stream,
        decisions=engine.ledger.decisions,
        trained=engine.ledger.trained,
        limited=given.max_calls is not None,
        seconds=watch.noted,
    )
    return output.write(finished, about, folder)


# what was given


def _checked(given: _Given) -> _Given:
    """The options, if they make sense.

    Raises:
        UsageError: one does not, or two contradict each other; the message names it, what was found and expected.
    """
    modes = {"--max-calls": given.max_calls, "--threshold": given.threshold, "--alpha": given.alpha}
    chosen = [name for name, value in modes.items() if value is not None]
    if len(chosen) > 1:
        raise UsageError(f"expected one of --max-calls, --threshold and --alpha, found {' and '.join(chosen)}")
    _expect("--max-calls", given.max_calls, "a whole number from 1 on", lambda n: n >= 1)
    _expect("--threshold", given.threshold, "a number in [0, 1]", lambda share: 0 <= share <= 1)
    _expect("--alpha", given.alpha, "a number inside (0, 1)", lambda share: 0 < share < 1)
    _expect("--delta", given.delta, "a number inside (0, 1)", lambda share: 0 < share < 1)
    if given.delta is not None and given.alpha is None:
        raise UsageError(f"--delta: expected --alpha beside it, found {given.delta:g} alone")
    _expect("--order", given.order, "file or random", lambda order: order in {"file", "random"})
    _expect("--gates", given.gates, "1 or 2", lambda gates: gates in {1, 2})
    _expect("--seed", given.seed, "a whole number from 0 on", lambda seed: seed >= 0)
    return given


def _expect(option: str, found: Any, expected: str, fits: Callable[[Any], bool]) -> None:
    if found is not None and not fits(found):
        raise UsageError(f"{option}: expected {expected}, found {found!r}")


def _options(given: _Given) -> Options:
    from datashunt.backtest.engine import Options

    mode: dict[str, Any] = {}
    if given.alpha is not None:
        mode = {"alpha": given.alpha, "delta": DELTA if given.delta is None else given.delta}
    return Options(order=given.order, seed=given.seed, max_calls=given.max_calls, gates=given.gates, **mode)


def _about(spec: Spec, stream: Path, teacher_column: str, given: _Given) -> report.About:
    order = "in the order of the file" if given.order == "file" else f"shuffled by seed {given.seed}"
    return report.About(
        classifier=spec.name,
        data=f"{stream.name}, {order}",
        llm=f"column {teacher_column}, at the prices of {spec.llm.model}",
        simulated=False,
        recorded=True,
    )


# what is said and refused


def _require_pictures() -> None:
    """Find out before the run, not after it."""
    if find_spec("matplotlib") is None:
        raise UsageError('a backtest draws a picture with matplotlib: pip install "datashunt[backtest]"')


def _unseen(spec: Spec) -> Iterator[str]:
    if spec.prompt.soft:
        yield (
            f"prompt.pruning: {spec.prompt.pruning}: run without the prior: recorded answers cannot show what the LLM"
            " would have said, had it been told the small model's probabilities"
        )


def _notes(notes: Sequence[str]) -> None:
    for note in notes[:SHOWN]:
        _say(note)
    if len(notes) > SHOWN:
        _say(f"… and {len(notes) - SHOWN:,} more")


def _say(line: str) -> None:
    err.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of the run's folder; the system takes the lock off a killed one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"{folder.parent}: another backtest is at work here: wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise UsageError(f"--out: cannot write to {folder.parent}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
