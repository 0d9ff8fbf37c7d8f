"""A million queued items: what each process and the broker hold, what a count costs, and who is served first.

A producer submits while nobody works; then a score worker begins. Its classifier has no bundle, so that every item is
asked at once, and the speed is that of rows, not of a model.
"""

from __future__ import annotations

import time
from typing import Any

import psutil
import redis
from sqlalchemy import text

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.service import CLASSIFIER, Service, score_worker, service
from datashunt.client import Client
from datashunt.embedded import process
from datashunt.errors import DatashuntError
from datashunt.store import classifiers, intake

CALL = 20_000
"""Items of one submission, as `datashunt submit` makes them."""
URGENT = 100
"""Items with a lower priority that come last."""
WATCHED_S = 60.0
MIB = 2**20


def benchmark(full: bool) -> Result:
    """A million items, or 50,000."""
    items = 1_000_000 if full else 50_000
    started = time.monotonic()
    with service() as running:
        measures = _measures(running, items)
    return Result("backlog", full, time.monotonic() - started, measures)


def _measures(running: Service, items: int) -> list[Measure]:
    own = psutil.Process()
    with Client(running.settings) as client:
        _submit(client, 0, CALL, 0)
        before, began = own.memory_info().rss, time.monotonic()
        for start in range(CALL, items, CALL):
            _submit(client, start, CALL, 0)
        seconds = time.monotonic() - began
        grown = own.memory_info().rss - before
        _submit(client, items, URGENT, -1)
    assert running.settings.broker_url is not None
    with redis.Redis.from_url(running.settings.broker_url.get_secret_value()) as broker:
        queued: Any = broker.info("memory")
    counting = _count_ms(running, items)
    with score_worker(running) as worker:
        waited = process.wait_until(lambda: _left(running, "priority < 0") == 0, WATCHED_S)
        if not waited:
            raise DatashuntError(f"urgent items still wait after {WATCHED_S:.0f} s behind {items:,} others")
        time.sleep(WATCHED_S / 2)
        rss = psutil.Process(worker.pid).memory_info().rss
        passed = URGENT + items - _left(running, "true")
        swapped = _swapped(running)
    return [
        Measure("items", "items queued", items),
        Measure("rate", "items submitted", (items - CALL) / seconds, "items/s"),
        Measure("producer", "growth of the producer after its first call", grown / MIB, "MiB"),
        Measure("broker", "memory of the broker, a message for each 256 items", queued["used_memory"] / MIB, "MiB"),
        Measure("count_ms", "counting them, as a bound does once a second", counting, "ms"),
        Measure("worker", "memory of a score worker with all of them before it", rss / MIB, "MiB"),
        Measure("passed", "items that it passed on in half a minute", passed),
        Measure("swapped", "pairs of those served in another order than they came", swapped, "", 0.0, at_most=True),
    ]


def _submit(client: Client, start: int, count: int, priority: int) -> None:
    client.submit(
        CLASSIFIER,
        [
            {"id": f"{number:08d}", "text": f"the sentence number {number} is as short as any", "priority": priority}
            for number in range(start, start + count)
        ],
    )


def _count_ms(running: Service, items: int) -> float:
    with running.runtime.store.begin() as tx:
        known = classifiers.current(tx, CLASSIFIER)
        began = time.perf_counter()
        intake.queued(tx, known.id, items)
    return (time.perf_counter() - began) * 1e3


def _left(running: Service, which: str) -> int:
    with running.runtime.store.begin() as tx:
        return int(tx.execute(text(f"SELECT count(*) FROM items WHERE state = 'queued' AND {which}")).scalar_one())


def _swapped(running: Service) -> int:
    """How often an item was passed on though an older one of its priority still waited."""
    with running.runtime.store.begin() as tx:
        return int(
            tx.execute(
                text(
                    "SELECT count(*) FROM items WHERE state = 'asked' AND priority = 0"
                    " AND id > (SELECT min(id) FROM items WHERE state = 'queued' AND priority = 0)"
                )
            ).scalar_one()
        )


if __name__ == "__main__":
    command.main(benchmark, __doc__)
