"""Many classifiers on one worker against one: the same texts in the same calls, to each in turn or all to one.

All are heads over the packaged encoder, each in a bundle of its own, as `head` distillations make them.
"""

from __future__ import annotations

import subprocess
import time
from statistics import median

import psutil

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.service import (
    CLASSIFIER,
    Service,
    apply,
    score_worker,
    serve_bundle,
    service,
    submit,
    wait_until_open,
)
from benchmarks.texts import texts
from datashunt.client import Client

CALL = 40
"""Items of one call."""
CALLS = 2
"""Calls for each classifier in a round."""
TARGET = 0.9


def benchmark(full: bool) -> Result:
    """50 classifiers and five rounds of 4,000 items, or 10 and three of 800."""
    count, rounds = (50, 5) if full else (10, 3)
    started = time.monotonic()
    with service() as running:
        names = [f"classifier-{n}" for n in range(count)]
        first = serve_bundle(running)
        for seed, name in enumerate(names, start=1):
            apply(running.runtime, name, {})
            serve_bundle(running, name, seed, first)
        with score_worker(running) as worker, Client(running.settings) as client:
            resident: list[int] = []
            _round(running, worker, client, [CLASSIFIER] * count, "warm-up-one")
            resident.append(psutil.Process(worker.pid).memory_info().rss)
            _round(running, worker, client, names, "warm-up-many")
            resident.append(psutil.Process(worker.pid).memory_info().rss)
            pairs = [
                (
                    _round(running, worker, client, names, f"many-{number}"),
                    _round(running, worker, client, [CLASSIFIER] * count, f"one-{number}"),
                )
                for number in range(rounds)
            ]
    return Result("classifiers", full, time.monotonic() - started, _measures(count, pairs, resident))


def _round(
    running: Service, worker: subprocess.Popen[bytes], client: Client, names: list[str], round_name: str
) -> float:
    """Seconds from the first call to the last outcome; each name gets its calls in turn."""
    made = texts(len(names) * CALLS * CALL, seed=sum(round_name.encode()))
    started = time.perf_counter()
    for number in range(len(names) * CALLS):
        part = made[number * CALL : (number + 1) * CALL]
        submit(client, part, f"{round_name}-{number}", names[number % len(names)])
    wait_until_open(running, worker, 0)
    return time.perf_counter() - started


def _measures(count: int, pairs: list[tuple[float, float]], resident: list[int]) -> list[Measure]:
    items = count * CALLS * CALL
    many, one = (median(column) for column in zip(*pairs, strict=True))
    return [
        Measure(
            "share", "many classifiers as a share of one, median of rounds", median(o / m for m, o in pairs), "", TARGET
        ),
        Measure("many_items_s", "many classifiers, in turn", items / many, "items/s"),
        Measure("one_items_s", "one classifier, the same calls", items / one, "items/s"),
        Measure("classifiers", "classifiers", count),
        Measure("one_mb", "resident memory of the worker with one", resident[0] / 2**20, "MiB"),
        Measure("many_mb", "the same with all of them", resident[1] / 2**20, "MiB"),
        Measure("items", "items of a round", items),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
