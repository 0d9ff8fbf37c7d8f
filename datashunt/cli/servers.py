"""`datashunt up | down | env | simulate-llm | demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from pydantic import SecretStr

from datashunt import settings as settings_module
from datashunt import telemetry
from datashunt.cli.context import err
from datashunt.errors import UsageError
from datashunt.settings import Settings
from datashunt.store import Store, migrate

if TYPE_CHECKING:
    from datashunt.embedded import Urls


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(up)
    app.command()(down)
    app.command()(env)
    app.command("simulate-llm")(simulate_llm)
    app.command()(demo)


DATA_DIR = typer.Option(None, "--data-dir", help="Folder of the servers; default: DATASHUNT_DATA_DIR or .datashunt")


def _data_dir(given: Path | None) -> Path:
    return given if given is not None else settings_module.load().data_dir


def up(
    detach: bool = typer.Option(False, "--detach", help="Return as soon as everything runs."),
    workers: bool = typer.Option(False, "--workers", help="Also run and supervise one worker of each lane, and beat."),
    data_dir: Path | None = DATA_DIR,
) -> None:
    """Start a PostgreSQL and a Valkey of our own; data is kept in one folder."""
    from datashunt import embedded

    folder = _data_dir(data_dir)
    if not detach:
        telemetry.configure(settings_module.load().log_level)  # of the supervisor's events; else its own process does
    embedded.up(folder, workers=workers, detach=detach, ready=lambda urls: _ready(folder, urls, detach, workers))


def _ready(folder: Path, urls: Urls, detach: bool, workers: bool) -> None:
    """Bring the tables up to date, and say how to go on."""
    store = Store(SecretStr(urls.database), pool_size=1)
    migrate.catch_up(store)
    store.close()
    given = settings_module.load()
    if given.database_url is not None and given.database_url.get_secret_value() == urls.database:
        print("workers run on the servers that DATASHUNT_DATABASE_URL and DATASHUNT_BROKER_URL name", flush=True)
    else:
        print(f"PostgreSQL and Valkey run; their data lie in {folder}", flush=True)
    if workers:
        print("a worker of each lane and beat are started; how they are: datashunt status --workers", flush=True)
    print(f"logs: {folder / 'logs'}", flush=True)
    where = "" if folder == Settings.model_fields["data_dir"].default else f" --data-dir {shlex.quote(str(folder))}"
    print(f'URLs for programs: eval "$(datashunt env{where})"', flush=True)
    print(f"stop with: {f'datashunt down{where}' if detach else 'Ctrl-C'}", flush=True)


def down(data_dir: Path | None = DATA_DIR) -> None:
    """Stop what `up` started in this folder."""
    from datashunt import embedded

    folder = _data_dir(data_dir)
    print("stopped" if embedded.down(folder) else f"nothing runs in {folder}")


def env(data_dir: Path | None = DATA_DIR) -> None:
    """Print the URLs of the running servers as shell exports: eval "$(datashunt env)"."""
    from datashunt import embedded

    folder = _data_dir(data_dir)
    urls = embedded.running(folder)
    if urls is None:
        raise UsageError(f"nothing runs in {folder}: start it with `datashunt up --detach`")
    print(embedded.exports(urls))


def simulate_llm(
    answers: Path = typer.Option(..., "--answers", help="File of id, text and label distribution (.jsonl, .csv, .gz)."),
    port: int = typer.Option(8100, "--port", help="Port; 0: a free one.", min=0, max=65535),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    accuracy: float = typer.Option(1.0, "--accuracy", help="Share of likeliest labels it says.", min=0, max=1),
    sample: bool = typer.Option(False, "--sample", help="Draw the label from the distribution instead."),
    latency_ms: float = typer.Option(0.0, "--latency-ms", help="Milliseconds before each reply.", min=0),
    rpm: int | None = typer.Option(None, "--rpm", help="Requests a minute before it says 429.", min=1),
    tpm: int | None = typer.Option(None, "--tpm", help="Tokens a minute before it says 429.", min=1),
    faults: Path | None = typer.Option(None, "--faults", help="YAML file of the faults it shows (docs/simulator.md)."),
    without: list[str] = typer.Option([], "--without", help="What it lacks, e.g. decisions, logprobs; repeatable."),
    model: list[str] = typer.Option([], "--model", help="A model it knows; repeatable; default: any."),
    decision_model: list[str] = typer.Option([], "--decision-model", help="A model for Decisions; repeatable."),
    max_choices: int = typer.Option(255, "--max-choices", help="Choices that a question may have.", min=2),
    gullible: bool = typer.Option(False, "--gullible", help="Obey orders that the prompt does not mark as data."),
    context_tokens: int | None = typer.Option(None, "--context-tokens", help="Longest prompt and reply.", min=1),
    batch_delay_s: float = typer.Option(0.0, "--batch-delay-s", help="Seconds that a batch takes.", min=0),
    batch_window_s: float = typer.Option(86_400.0, "--batch-window-s", help="Seconds after which it expires.", min=0),
) -> None:
    """Run a simulation of an LLM that speaks the OpenAI protocol; it costs nothing and knows nothing."""
    from datashunt import simulator

    simulator.run(
        simulator.Options(
            answers=answers,
            host=host,
            port=port,
            accuracy=accuracy,
            sample=sample,
            latency_ms=latency_ms,
            rpm=rpm,
            tpm=tpm,
            faults=faults,
            without=frozenset(without),
            models=frozenset(model) or None,
            decision_models=frozenset(decision_model) or None,
            max_choices=max_choices,
            gullible=gullible,
            context_tokens=context_tokens,
            batch_delay_s=batch_delay_s,
            batch_window_s=batch_window_s,
        )
    )


def demo(
    out: Path = typer.Option(Path("demo"), "--out", help="Folder for report and outcomes."),
    llm: str = typer.Option("simulation", "--llm", help="simulation, or openai: the real one, for money."),
    max_usd: float | None = typer.Option(None, "--max-usd", help="With --llm openai: spend at most this.", min=0),
    items: int = typer.Option(7_897, "--items", help="How many sentences to classify.", min=500),
) -> None:
    """Classify thousands of real sentences and watch the LLM's share fall."""
    from datashunt import demo as show

    if llm not in {"simulation", "openai"}:
        raise UsageError(f"--llm: expected simulation or openai, found {llm!r}")
    if llm == "openai" and max_usd is None:
        raise UsageError("--llm openai spends money: say how much it may spend with --max-usd N")
    report = show.run(show.Options(out=out, items=items, real_llm=llm == "openai", max_usd=max_usd))
    err.print(f"report: {report}", markup=False)
