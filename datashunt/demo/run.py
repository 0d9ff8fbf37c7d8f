"""The demo: every part as a real process, a stream of real sentences, and a report at the end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from datashunt import classifier, embedded, llm, prompts, report
from datashunt import settings as settings_module
from datashunt.bootstrap import Runtime
from datashunt.classifier import Spec
from datashunt.client import Client
from datashunt.demo import dataset, live
from datashunt.demo.dataset import Sentence, label_of
from datashunt.errors import DatashuntError, UsageError
from datashunt.report import ItemRecord, Report
from datashunt.settings import Settings
from datashunt.simulator import Options as Simulation
from datashunt.simulator.teacher import teacher
from datashunt.store import classifiers, distillations, history, migrate, results

BACKLOG = 3_697
"""How many sentences wait already when the demo begins, and come fast: the reviews."""
BACKLOG_S = 120.0
STREAM_S = 410.0
"""Seconds until the last sentence has come: long enough that the small model learns while they do."""
DRAIN_S = 60.0
HIDDEN_S = 30.0
"""How long an older transaction may hide the last outcomes from the cursor of `results`."""
LOOK_EVERY_S = 1.5
"""How often new sentences are sent and the state is read: both cost CPU that the workers need."""
SIMULATOR_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo shall do.

    Attributes:
        out: folder for the report, the outcomes and (while it runs) the servers' data; `logs` in it, if it fails.
        items: how many sentences, at most all there are.
        real_llm: ask the endpoint of DATASHUNT_LLM_*, for money; only with `max_usd`.
        max_usd: refuse to start if asking about every item could cost more.
    """

    out: Path
    items: int
    real_llm: bool = False
    max_usd: float | None = None


def run(options: Options) -> Path:
    """Run the demo; returns the path of its HTML report. Stops all that it started, also on Ctrl-C.

    Raises:
        UsageError: a package is missing, the data cannot be had, or the LLM could cost too much.
        EmbeddedError: a server or a worker does not start.
        DatashuntError: it was not done in time, or cost too much; the logs are kept.
    """
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    sentences = dataset.sentences(options.out / "cache")[: options.items]
    spec = classifier.load(dataset.SPEC)
    _introduce(console, options, spec, sentences)
    data_dir = options.out / "servers"
    for earlier in (data_dir, _logs(options)):
        shutil.rmtree(earlier, ignore_errors=True)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
        stack.enter_context(_kept_if_it_fails(data_dir / "logs", _logs(options)))
        settings = _servers(stack, options, data_dir, sentences)
        runtime = Runtime(settings)
        stack.callback(runtime.close)
        migrate.upgrade(runtime.store)
        with runtime.store.begin() as tx:
            classifiers.apply(tx, spec, prompts.prompt_hash(spec))
        _workers(stack, data_dir, settings)
        with Client(settings) as client:
            _stream(console, client, runtime, spec, sentences, options)
            _outcomes(client, runtime, spec.name, options.out / "outcomes.jsonl")
        records = _records(runtime, spec, sentences, options)
        cost_if_all = sum((llm.estimate(spec, sentence.text) for sentence in sentences), Decimal(0))
        seconds = time.monotonic() - started
        figures = _figures(runtime, spec, records, cost_if_all=cost_if_all, seconds=seconds)
    page = _write(figures, records, spec, options)
    console.print(report.summary(figures))
    return page


def _logs(options: Options) -> Path:
    """Where the logs of a demo that failed are kept."""
    return options.out / "logs"


@contextlib.contextmanager
def _kept_if_it_fails(logs: Path, kept: Path) -> Iterator[None]:
    """Move the logs to where they stay, after whoever writes them was stopped."""
    try:
        yield
    except Exception:
        if logs.exists():
            shutil.move(logs, kept)
        raise


def _introduce(console: Console, options: Options, spec: Spec, sentences: Sequence[Sentence]) -> None:
    worst = sum((llm.estimate(spec, sentence.text) for sentence in sentences), Decimal(0))
    console.print(
        f"[bold]datashunt demo[/]: {len(sentences):,} real sentences (Amazon reviews, then tweets), each rated by"
        " 20 people: negative, neutral or positive?"
    )
    if not options.real_llm:
        console.print(
            "The LLM is a [bold]simulation[/] that answers from the spread of the raters; it costs nothing, and its"
            f" prices are those of {spec.llm.model}."
        )
        return
    console.print(f"The LLM is [bold]{spec.llm.model}[/]: asking about every sentence would cost ${worst:.2f}.")
    if options.max_usd is None or float(worst) > options.max_usd:
        limit = 0.0 if options.max_usd is None else options.max_usd
        raise UsageError(f"that is more than --max-usd {limit:g}: raise it, or take fewer --items. Nothing was spent")


def _servers(stack: contextlib.ExitStack, options: Options, data_dir: Path, sentences: Sequence[Sentence]) -> Settings:
    """PostgreSQL and Valkey, and the simulated LLM unless the real one was asked for."""
    servers = embedded.Stack(data_dir)
    stack.callback(servers.stop)
    urls = servers.start()
    given: dict[str, Any] = {
        "data_dir": data_dir,
        "database_url": SecretStr(urls.database),
        "broker_url": SecretStr(urls.broker),
        "quota_url": SecretStr(urls.broker),
        "models_url": urls.models,
        "tick_every_s": 1.0,
        "reload_every_s": 1.0,
    }
    if not options.real_llm:
        answers = options.out / "answers.jsonl"
        dataset.write_answers(sentences, answers)
        given["llm_base_url"] = stack.enter_context(_simulator(answers, data_dir / "logs"))
        given["llm_api_key"] = SecretStr("simulation")
    return settings_module.load(**given)


@contextlib.contextmanager
def _simulator(answers: Path, logs: Path) -> Iterator[str]:
    """A simulated LLM as a process of its own; yields its base URL."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "simulator.log"
    options = simulation(answers)
    command = [sys.executable, "-m", "datashunt", "simulate-llm", "--answers", str(answers)]
    command += ["--port", str(options.port), "--latency-ms", str(options.latency_ms), "--sample"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop it
        )
    try:
        yield _base_url(process, log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def _base_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + SIMULATOR_START_S
    while time.monotonic() < deadline and process.poll() is None:
        words = log.read_text().split()
        urls = [word for word in words if word.startswith("http://")]
        if urls:
            return urls[0]
        time.sleep(0.05)
    raise DatashuntError(f"the simulated LLM did not start: {log.read_text()[-300:]}")


def simulation(answers: Path) -> Simulation:
    """How the demo's LLM answers: in 30 ms, with a label drawn from the spread of the raters."""
    return Simulation(answers=answers, port=0, latency_ms=30, sample=True)


def _workers(stack: contextlib.ExitStack, data_dir: Path, settings: Settings) -> None:
    """One worker of each lane and beat, supervised until the stack is closed."""
    stop = threading.Event()
    supervisor = embedded.Supervisor(
        embedded.worker_commands(data_dir),
        logs=data_dir / "logs",
        env={**os.environ, **environment(settings)},
    )
    thread = threading.Thread(target=supervisor.run, args=(stop,), name="supervisor")
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop.set)


def environment(settings: Settings) -> dict[str, str]:
    """The settings of the demo, as its workers read them."""
    values: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if plain is not None:
            values[f"{settings_module.PREFIX}{name.upper()}"] = str(plain)
    return values


def _stream(
    console: Console,
    client: Client,
    runtime: Runtime,
    spec: Spec,
    sentences: Sequence[Sentence],
    options: Options,
) -> None:
    """Submit the sentences as they would arrive, then wait for the last outcome and the last audit."""
    gold = {sentence.id: label_of(sentence.mean) for sentence in sentences}
    prices = {sentence.id: llm.estimate(spec, sentence.text) for sentence in sentences}
    started = time.monotonic()
    sent = 0
    with live.Progress(console, len(sentences)) as progress:
        while True:
            due = arrived(time.monotonic() - started, len(sentences))
            if due > sent:
                client.submit(spec.name, [{"id": one.id, "text": one.text} for one in sentences[sent:due]])
                sent = due
            snapshot = _snapshot(runtime, spec.name, gold, prices)
            progress.show(snapshot, arrived=sent)
            if options.max_usd is not None and snapshot.cost_usd >= options.max_usd:
                raise DatashuntError(f"stopped at ${snapshot.cost_usd:.2f}: --max-usd is reached")
            if sent == len(sentences) and snapshot.open == 0:
                return
            if time.monotonic() - started > STREAM_S + DRAIN_S:
                raise DatashuntError(
                    f"{snapshot.open} items are still on their way after {STREAM_S + DRAIN_S:.0f} s:"
                    f" see the logs in {_logs(options)}"
                )
            time.sleep(LOOK_EVERY_S)


def arrived(elapsed_s: float, total: int) -> int:
    """How many of the sentences have come after so many seconds: the backlog fast, the others slower, evenly."""
    backlog = min(BACKLOG, total // 2)
    if elapsed_s < BACKLOG_S:
        return int(elapsed_s / BACKLOG_S * backlog) + 1
    rest = min(1.0, (elapsed_s - BACKLOG_S) / (STREAM_S - BACKLOG_S))
    return backlog + int(rest * (total - backlog))


def _snapshot(runtime: Runtime, name: str, gold: Mapping[str, str], prices: Mapping[str, Decimal]) -> live.Snapshot:
    with runtime.store.begin() as tx:
        known = classifiers.current(tx, name)
        state = results.status(tx, known.id)
        still = results.still_open(tx, known.id)
        records = history.items(tx, known.id)
        runs = distillations.listed(tx, known.id)
    done = [record for record in records if record.label is not None]
    decided = [record for record in records if record.asked or record.kept][-500:]
    running = [run for run in runs if run.state == "running"]
    return live.Snapshot(
        done=len(done),
        kept=sum(record.kept for record in done),
        asked=state["asked"],
        open=still.moving + still.audits,
        llm_share=state["asked"] / max(1, len(records)),
        recent_share=sum(record.asked for record in decided) / 500 if len(decided) == 500 else None,
        cost_usd=state["cost_usd"],
        cost_if_all_llm_usd=float(sum((prices[record.id] for record in done), Decimal(0))),
        bundle=known.incumbent.version if known.incumbent else None,
        accuracy=sum(record.label == gold[record.id] for record in done) / len(done) if done else None,
        doing=f"distilling: {running[0].stage}" if running else "classifying",
    )


def _records(runtime: Runtime, spec: Spec, sentences: Sequence[Sentence], options: Options) -> list[ItemRecord]:
    """What became of every sentence, with its right label, and the LLM's where a simulation can tell."""
    places = {sentence.id: place for place, sentence in enumerate(sentences)}
    said: dict[str, str] = {}
    if not options.real_llm:
        says = teacher(simulation(options.out / "answers.jsonl"), spec.label_names)
        said = {sentence.id: says(sentence.text) for sentence in sentences}
    with runtime.store.begin() as tx:
        stored = history.items(tx, classifiers.current(tx, spec.name).id)
    return [
        replace(
            record,
            position=places[record.id],
            gold=label_of(sentences[places[record.id]].mean),
            teacher=said.get(record.id),
        )
        for record in stored
    ]


def _figures(
    runtime: Runtime, spec: Spec, records: Sequence[ItemRecord], *, cost_if_all: Decimal, seconds: float
) -> Report:
    with runtime.store.begin() as tx:
        known = classifiers.current(tx, spec.name)
        state = results.status(tx, known.id)
        return report.build(
            records,
            llm_calls=state["llm_calls"],
            cost_usd=Decimal(str(state["cost_usd"])),
            cost_if_all_llm_usd=cost_if_all,
            bundles=history.served(tx, known),
            distillations=history.ended(tx, known),
            seconds=seconds,
        )


def _outcomes(client: Client, runtime: Runtime, name: str, path: Path) -> None:
    """Write every outcome. Workers still tick: while one of their transactions is open, the cursor waits for it.

    Raises:
        DatashuntError: outcomes stayed hidden.
    """
    with runtime.store.begin() as tx:
        missing = int(results.status(tx, classifiers.current(tx, name).id)["states"].get("done", 0))
    deadline, cursor = time.monotonic() + HIDDEN_S, None
    with path.open("w", encoding="utf-8") as sink:
        while True:
            for result in client.results(name, cursor):
                sink.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
                cursor = result.cursor
                missing -= 1
            if missing <= 0:
                return
            if time.monotonic() > deadline:
                raise DatashuntError(f"{missing} outcomes cannot be read: a transaction stays open in PostgreSQL")
            time.sleep(0.2)


def _write(figures: Report, records: Sequence[ItemRecord], spec: Spec, options: Options) -> Path:
    about = report.About(
        classifier=spec.name,
        data="Amazon reviews, then tweets, each rated by 20 people",
        llm=spec.llm.model,
        simulated=not options.real_llm,
    )
    report.write_json(figures, options.out / "report.json")
    report.write_png(figures, report.series(records), about, options.out / "report.png")
    report.write_html(figures, about, options.out / "report.png", options.out / "report.html")
    return options.out / "report.html"
