"""`datashunt backtest`: what would it have saved? The product's decisions over logs that exist already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from filelock import FileLock, Timeout

from datashunt import classifier, llm, report, shunt
from datashunt import settings as settings_module
from datashunt.classifier import Spec
from datashunt.cli.backtest_progress import Progress
from datashunt.cli.context import err, out
from datashunt.errors import UsageError, install
from datashunt.items import FEWEST_JUDGES
from datashunt.policy import FixedPolicy, TargetPolicy

if TYPE_CHECKING:
    from datashunt.backtest.engine import Engine
    from datashunt.backtest.options import Options

SHOWN = 20
"""Most notes of the recording that are printed."""
Order = Literal["file", "random"]
Scope = Literal["kept", "all"]
NAME = 40
"""Most characters of a file's or column's name in a report."""
RUN = "run"
"""The folder inside --out that the engine goes on from."""


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(backtest)


def backtest(
    spec: Path = typer.Argument(..., metavar="SPEC", help="A classifier file (YAML)."),
    stream: Path = typer.Argument(..., metavar="STREAM", help="Items with the LLM's labels: .csv, .jsonl, .parquet."),
    id_column: str = typer.Option("id", "--id", help="Field or column that holds the id."),
    text_column: str = typer.Option("text", "--text", help="Field or column that holds the text."),
    teacher_column: str = typer.Option(..., "--teacher", help="Field or column that holds what the LLM said."),
    gold_column: str | None = typer.Option(None, "--gold", help="Field or column that holds the right label."),
    order: Order = typer.Option("random", "--order", help="Shuffled by the seed, or as the file has them."),
    seed: int = typer.Option(0, "--seed", help="Of the order, the audit draws and the training."),
    max_calls: int | None = typer.Option(None, "--max-calls", help="Spend at most so many calls."),
    threshold: float | None = typer.Option(None, "--threshold", help="Keep from this confidence on."),
    alpha: float | None = typer.Option(None, "--alpha", help="Let at most this share of items disagree."),
    delta: float | None = typer.Option(None, "--delta", help="With --alpha: chance that this fails; default 0.1."),
    of: Scope | None = typer.Option(None, "--of", help="With --alpha: of the kept items (default), or of all."),
    gates: int = typer.Option(1, "--gates", help="2: the first bundle is asked before the newest."),
    folder: Path = typer.Option(..., "--out", help="Folder for the report, the outcomes and the run."),
) -> None:
    """Run a classifier over recorded LLM answers, and report what it would have saved; calls no LLM."""
    _one_mode(max_calls, threshold, alpha, delta, of)
    loaded = classifier.load(spec)
    whole = isinstance(loaded.policy, TargetPolicy) and max_calls is None and threshold is None and alpha is None
    if isinstance(loaded.policy, TargetPolicy) and whole:
        alpha, delta, of = loaded.policy.alpha, loaded.policy.delta, loaded.policy.of
    target: dict[str, Any] = {"alpha": alpha, "delta": delta, "of": of or "kept"}
    options = _options(order=order, seed=seed, max_calls=max_calls, gates=gates, **target)
    _require_pictures()
    read = loaded if whole else _untargeted(loaded)
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
    _notes([*_unseen(loaded, options, whole=whole), *_few(max_calls, len(recorded.items)), *recorded.notes])
    from datashunt.backtest.engine import Engine

    asked_for = read if threshold is None else _with_threshold(read, threshold)
    with _alone(folder / RUN):
        engine = Engine(asked_for, recorded, options, settings, folder / RUN)
        about = _about(read, stream, teacher_column, options)
        figures = _run(engine, asked_for, options, about, folder, recorded.left_out)
    out.print(report.summary(figures))
    err.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _run(
    engine: Engine, spec: Spec, options: Options, about: report.About, folder: Path, left_out: int
) -> report.BacktestReport:
    """Decide what is left of the stream, and write the files."""
    from datashunt.backtest import output
    from datashunt.backtest.stopwatch import Stopwatch

    watch = Stopwatch(folder / RUN / "seconds.txt")
    done = len(engine.ledger.decisions)
    if done:
        _say(f"going on after {done:,} items" if done < len(engine.stream) else f"all {done:,} items are decided")
    before = done, len(engine.ledger.trained)
    with Progress(err, engine, watch) as progress:
        engine.run(progress.show)
    if (len(engine.ledger.decisions), len(engine.ledger.trained)) != before:
        watch.note()
    engine.ledger.close()
    finished = output.Finished(
        spec=spec,
        stream=engine.stream,
        decisions=engine.ledger.decisions,
        trained=engine.ledger.trained,
        tried=engine.ledger.tried,
        options=options,
        seconds=watch.noted,
        left_out=left_out,
    )
    return output.write(finished, about, folder)


# what was given


def _one_mode(
    max_calls: int | None, threshold: float | None, alpha: float | None, delta: float | None, of: str | None
) -> None:
    """One thing decides what is kept.

    Raises:
        UsageError: two were given, --delta or --of without --alpha, or a threshold that is no confidence.
    """
    modes = {"--max-calls": max_calls, "--threshold": threshold, "--alpha": alpha}
    chosen = [name for name, value in modes.items() if value is not None]
    if len(chosen) > 1:
        raise UsageError(f"found {' and '.join(chosen)}, expected one of --max-calls, --threshold and --alpha")
    if delta is not None and alpha is None:
        raise UsageError(f"--delta: found {delta:g} alone, expected --alpha beside it")
    if of is not None and alpha is None:
        raise UsageError(f"--of: found {of} alone, expected --alpha beside it")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold: found {threshold:g}, expected a confidence in [0, 1]")


def _options(*, delta: float | None, **given: Any) -> Options:
    from datashunt.backtest.options import Options

    return Options(**given) if delta is None else Options(delta=delta, **given)


def _untargeted(spec: Spec) -> Spec:
    """The classifier without its target, which the options of a backtest stand for."""
    policy = spec.policy
    if not isinstance(policy, TargetPolicy):
        return spec
    fixed = FixedPolicy(threshold=policy.threshold, audit_rate=policy.audit_rate)
    return spec.model_copy(update={"policy": fixed})


def _with_threshold(spec: Spec, threshold: float) -> Spec:
    return spec.model_copy(update={"policy": spec.policy.model_copy(update={"threshold": threshold})})


def _about(spec: Spec, stream: Path, teacher_column: str, options: Options) -> report.About:
    order = "in the order of the file" if options.order == "file" else f"shuffled by seed {options.seed}"
    prices = f", at the prices of {spec.llm.model}" if llm.estimate(spec, "") else ""
    return report.About(
        classifier=spec.name,
        data=f"{_shown(stream.name)}, {order}",
        llm=f"column {_shown(teacher_column)}{prices}",
        simulated=False,
        recorded=True,
    )


def _shown(name: str) -> str:
    """A name of any length and bytes, as a line of a picture can show it."""
    readable = name.encode("utf-8", "replace").decode("utf-8")
    half = NAME // 2
    return readable if len(readable) <= NAME else f"{readable[: half - 1]}…{readable[-half:]}"


# what is said and refused


def _require_pictures() -> None:
    """Find out before the run, not after it."""
    if find_spec("matplotlib") is None:
        raise UsageError(f"a backtest draws a picture with matplotlib: {install('backtest')}")


def _few(max_calls: int | None, items: int) -> Iterator[str]:
    """That the calls go before anything is learned from them."""
    first = round(FEWEST_JUDGES / (shunt.COLD_START_AUDIT_RATE / 2))
    if max_calls is not None and max_calls < min(2 * first, items):
        yield (
            f"--max-calls {max_calls}: a first bundle takes about {first} answers, so that few calls or none are left"
            " after it; items that come when none is left and no bundle serves get no label"
        )


def _unseen(spec: Spec, options: Options, *, whole: bool) -> Iterator[str]:
    """What the classifier's file says and this run passes over."""
    if spec.policy.mode == "budget" and options.max_calls is None and options.alpha is None:
        yield "policy.mode: budget: a record has no days to spend it on: the run keeps by a fixed threshold"
    if isinstance(spec.policy, TargetPolicy) and not whole and spec.policy.labels:
        yield "policy.labels: passed over: targets of labels count only where the file's own target is run"
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
