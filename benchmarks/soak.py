"""An hour at half load: memory, connections, open files and latency of every process, by windows of five minutes.

First the capacity is measured; then half as many items arrive each second, some of them asked of the simulated
LLM, and a distillation begins in each window, so that windows are alike; the texts tell their label, so that most are
promoted and workers change bundles. Flat means: the median of the last third of the windows against that of the first
third, after a warm-up of three windows in which there are five times as many distillations.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

import psutil

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.llm_service import Lane, Limits, lane
from benchmarks.service import CLASSIFIER, LABELS, apply, serve_bundle, submit, wait_until_open
from benchmarks.texts import texts
from datashunt.client import Client
from datashunt.embedded import process, worker_commands
from datashunt.errors import DatashuntError
from datashunt.items import Item

WINDOWS = 12
WARM_UP = 3
TEXTS = 1_000_000
"""Enough for 277 a second: a text that the LLM was asked about before is not asked again."""
BURST = 6_000
"""Items whose time tells the capacity."""
SAMPLE_S = 5.0
AUDIT_RATE = 0.01
CALLS_PER_S = 2
"""The budget, so that there are always new answers to learn from, however good the small model becomes."""
SIGNS = dict(zip(LABELS, ("I want my money back.", "It is what it is.", "I am very happy with it."), strict=True))
GROWTH, SLOWER = 0.02, 0.25


@dataclass(frozen=True, slots=True)
class Window:
    """Five minutes.

    Attributes:
        memory: of each kind of process, MiB, when it was least: resident, and for PostgreSQL that of all its processes
            without what they share.
        peak: that of the distil worker when it was most.
        files: median of the open files of each kind of process.
        connections: to PostgreSQL, median.
        p50, p99: milliseconds from submission to outcome, of items that the small model decided.
    """

    minutes: float
    memory: Mapping[str, float]
    peak: float
    files: Mapping[str, float]
    connections: float
    items: int
    p50: float
    p99: float


def benchmark(full: bool) -> Result:
    """Twelve windows of five minutes, or of ten seconds."""
    seconds = 300.0 if full else 10.0
    started = time.monotonic()
    items = _items(TEXTS if full else TEXTS // 20)
    with lane(Limits(), items) as running:
        serve_bundle(running.service)
        with _workers(running) as workers, Client(running.service.settings) as client:
            rate = _capacity(running, workers, client, items) / 2
            if WINDOWS * seconds * rate > len(items):
                raise DatashuntError(f"at {rate:.0f} items/s some texts would come twice: make TEXTS larger")
            timezone = _zone(datetime.now(UTC).hour)
            _learn(running, seconds / 5, timezone)
            windows = list(_windows(running, workers, client, items, rate, seconds, timezone))
        calls = running.count("SELECT count(*) FROM calls")
        lessons = running.rows("SELECT count(*), count(*) FILTER (WHERE state = 'promoted') FROM distillations")[0]
    measures = [*_measures(windows, rate, lessons[0], lessons[1]), Measure("calls", "calls of the LLM", calls)]
    return Result("soak", full, time.monotonic() - started, measures, _series(windows))


def _items(count: int) -> list[Item]:
    signs = list(SIGNS.values())
    return [
        Item(f"known-{number:06d}", f"{one} {signs[number % len(signs)]}")
        for number, one in enumerate(texts(count, seed=7))
    ]


def _learn(running: Lane, every_s: float, timezone: str) -> None:
    """From now on some items are asked, and distillations begin so often."""
    apply(
        running.service.runtime,
        CLASSIFIER,
        {
            "policy": {
                "mode": "budget",
                "calls_per_day": CALLS_PER_S * 86_400,
                "timezone": timezone,
                "audit_rate": AUDIT_RATE,
            },
            "llm": {"model": "simulated", "api": "chat", "input_price": "1", "output_price": "2"},
            "distil": {"every_s": every_s, "min_new_answers": 100, "max_answers": 800},
        },
    )


def _zone(hour: int) -> str:
    """A time zone whose day has begun within the last hour, so that its budget is spread over a whole day."""
    return f"Etc/GMT+{hour}" if hour <= 12 else f"Etc/GMT-{24 - hour}"  # their signs are those of POSIX


@contextmanager
def _workers(running: Lane) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """What `datashunt up --workers` runs: the three lanes and beat."""
    folder = running.service.settings.data_dir
    environment = {**os.environ, **running.service.environment}
    started = {
        one.name: process.spawn(
            one.argv, log=folder / "logs" / f"{one.name}.log", death_signal=signal.SIGKILL, env=environment
        )
        for one in worker_commands(folder)
    }
    try:
        yield started
    finally:
        for worker in started.values():
            process.end(worker, signal.SIGTERM, 30.0)


def _capacity(
    running: Lane, workers: Mapping[str, subprocess.Popen[bytes]], client: Client, items: Sequence[Item]
) -> float:
    """Items per second of a burst, the worker warm."""
    for name in ("warm", "burst"):
        began = time.monotonic()
        submit(client, [one.text for one in items[:BURST]], name)
        wait_until_open(running.service, workers["score"], 0)
    return BURST / (time.monotonic() - began)


def _windows(
    running: Lane,
    workers: Mapping[str, subprocess.Popen[bytes]],
    client: Client,
    items: Sequence[Item],
    rate: float,
    seconds: float,
    timezone: str,
) -> Iterator[Window]:
    stop = threading.Event()
    failed: list[DatashuntError] = []
    producer = threading.Thread(target=_produce, args=(client, items, rate, stop, failed), name="producer")
    producer.start()
    try:
        began = time.monotonic()
        for number in range(WINDOWS):
            if number == WARM_UP:
                _learn(running, seconds, timezone)
            found = _window(running, workers, began + (number + 1) * seconds)
            if failed:
                raise DatashuntError(f"the producer failed: {failed[0]}")
            yield found
    finally:
        stop.set()
        producer.join()


def _produce(
    client: Client, items: Sequence[Item], rate: float, stop: threading.Event, failed: list[DatashuntError]
) -> None:
    """Each second a call with a second's items, until told to stop."""
    size = round(rate)
    due, number = time.monotonic(), 0
    try:
        while not stop.wait(max(0.0, due - time.monotonic())):
            start = number * size
            chosen = [items[(start + i) % len(items)].text for i in range(size)]
            submit(client, chosen, f"soak-{number:06d}")
            due, number = due + 1.0, number + 1
    except DatashuntError as error:  # handed to the thread that measures
        failed.append(error)


def _window(running: Lane, workers: Mapping[str, subprocess.Popen[bytes]], until: float) -> Window:
    memory: dict[str, list[float]] = defaultdict(list)
    files: dict[str, list[float]] = defaultdict(list)
    connections, began = [], time.monotonic()
    while time.monotonic() < until:
        time.sleep(min(SAMPLE_S, max(0.0, until - time.monotonic())))
        ended = [name for name, worker in workers.items() if worker.poll() is not None]
        if ended:
            raise DatashuntError(f"ended by themselves: {', '.join(ended)}")
        for name, (size, count) in _looked_at(running, workers).items():
            memory[name].append(size)
            files[name].append(count)
        connections.append(running.count("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"))
    ((decided, p50, p99),) = running.rows(
        "SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP"
        " (ORDER BY ms) FROM (SELECT extract(epoch FROM outcomes.created_at - items.created_at) * 1000 AS ms"
        " FROM outcomes JOIN items ON items.id = outcomes.item_id WHERE outcomes.source = 'small'"
        f" AND outcomes.created_at > now() - interval '{time.monotonic() - began:.0f} seconds') AS kept"
    )
    minutes = (time.monotonic() - began) / 60
    # The least is what a process keeps; what it needs for a moment, as for a lesson, is not there all the time.
    sizes = {name: min(some) for name, some in memory.items()}
    opened = {name: median(some) for name, some in files.items()}
    seen = int(decided), float(p50 or 0), float(p99 or 0)
    return Window(minutes, sizes, max(memory["distil"]), opened, median(connections), *seen)


def _looked_at(running: Lane, workers: Mapping[str, subprocess.Popen[bytes]]) -> dict[str, tuple[float, int]]:
    """Memory in MiB and open files of each kind of process."""
    data = running.service.settings.data_dir
    found = {name: _of([psutil.Process(worker.pid)], shared=True) for name, worker in workers.items()}
    found["producer"] = _of([psutil.Process()], shared=True)
    found["valkey"] = _of(process.found_in(data / "valkey", "valkey-server"), shared=True)
    found["postgres"] = _of(process.found_in(data / "postgres", "postgres"), shared=False)
    return found


def _of(processes: Sequence[psutil.Process], *, shared: bool) -> tuple[float, int]:
    size, files = 0.0, 0
    for one in processes:
        try:
            memory = one.memory_info()
            size += memory.rss if shared else memory.rss - memory.shared
            files += one.num_fds()
        except psutil.NoSuchProcess:
            continue  # a connection of PostgreSQL that has just ended
    return size / 2**20, files


def _measures(windows: Sequence[Window], rate: float, distilled: int, promoted: int) -> list[Measure]:
    settled = windows[WARM_UP:]
    third = len(settled) // 3

    def growth(values: Sequence[float]) -> float:
        return median(values[-third:]) / median(values[:third]) - 1

    def flat(key: str, title: str, values: Sequence[float]) -> Measure:
        ended = f"{title} ({median(values[-third:]):.0f})"
        return Measure(key, f"growth of {ended}", growth(values), "", GROWTH, at_most=True)

    names = list(windows[0].memory)
    return [
        Measure("rate", "items arriving, half of the capacity measured before", rate, "items/s"),
        Measure("items", "items decided by the small model", sum(one.items for one in windows)),
        Measure("minutes", "minutes", sum(one.minutes for one in windows)),
        Measure("distilled", "distillations begun", distilled),
        Measure("promoted", "of them: promoted by their verdict", promoted),
        *(flat(f"memory_{name}", f"memory, MiB: {name}", [one.memory[name] for one in settled]) for name in names),
        Measure("peak_distil", "growth of the peak of memory: distil", growth([one.peak for one in settled])),
        *(flat(f"files_{name}", f"open files: {name}", [one.files[name] for one in settled]) for name in names),
        flat("connections", "connections to PostgreSQL", [one.connections for one in settled]),
        Measure("p50", "growth of latency, median", growth([one.p50 for one in settled]), "", SLOWER, at_most=True),
        Measure("p99", "growth of latency, 99th percentile", growth([one.p99 for one in settled])),
    ]


def _series(windows: Sequence[Window]) -> list[dict[str, float]]:
    minutes = 0.0
    rows = []
    for one in windows:
        minutes += one.minutes
        rows.append(
            {
                "minutes": minutes,
                "items": one.items,
                "p50_ms": one.p50,
                "p99_ms": one.p99,
                "connections": one.connections,
                **{f"{name}_files": count for name, count in one.files.items()},
                **{f"{name}_mib": size for name, size in one.memory.items()},
                "distil_peak_mib": one.peak,
            }
        )
    return rows


if __name__ == "__main__":
    command.main(benchmark, __doc__)
