"""Items per second that one client submits in bulk, and where the time goes. No worker runs."""

from __future__ import annotations

import time
from statistics import median
from uuid import uuid4

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.service import CLASSIFIER, Service, service
from benchmarks.texts import texts_of_length
from datashunt.client import Client
from datashunt.pipeline.submit import sort_out

ITEMS = 20_000
CHARACTERS = 200
TARGET = 30_000


def benchmark(full: bool) -> Result:
    """Calls of 20,000 texts of 200 characters: 25, or 5; then as many measured part by part."""
    calls = 25 if full else 5
    started = time.monotonic()
    with service() as running, Client(running.settings) as client:
        _call(client, "warm-up")
        seconds = [_call(client, f"call-{i}") for i in range(calls)]
        parts = [_parts(running, f"parts-{i}") for i in range(calls)]
    return Result("submit", full, time.monotonic() - started, _measures(seconds, parts))


def _items(name: str) -> list[dict[str, str]]:
    made = texts_of_length(ITEMS, CHARACTERS, seed=sum(name.encode()))
    return [{"id": f"{name}-{i:07d}", "text": text} for i, text in enumerate(made)]


def _call(client: Client, name: str) -> float:
    items = _items(name)
    started = time.perf_counter()
    client.submit(CLASSIFIER, items)
    return time.perf_counter() - started


def _parts(running: Service, name: str) -> tuple[float, float, float]:
    """Seconds of one call: checking and hashing; storing and committing; publishing."""
    items = _items(name)
    runtime = running.runtime
    started = time.perf_counter()
    sort_out(items, running.settings.max_text_bytes)
    checked = time.perf_counter()
    _, wakes = runtime.intake.submit(CLASSIFIER, items, str(uuid4()))
    stored = time.perf_counter()
    runtime.publisher.publish(wakes)
    return checked - started, (stored - checked) - (checked - started), time.perf_counter() - stored


def _measures(seconds: list[float], parts: list[tuple[float, float, float]]) -> list[Measure]:
    check, store, publish = (median(column) / ITEMS * 1e6 for column in zip(*parts, strict=True))
    return [
        Measure("items_s", "bulk submit from one client, median of calls", ITEMS / median(seconds), "items/s", TARGET),
        Measure("items_s_least", "the same, the slowest call", ITEMS / max(seconds), "items/s"),
        Measure("check_us", "of it: check and hash", check, "µs/item"),
        Measure("store_us", "of it: store and commit", store, "µs/item"),
        Measure("publish_us", "of it: publish", publish, "µs/item"),
        Measure("calls", "calls of 20,000 items of 200 characters", len(seconds)),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
