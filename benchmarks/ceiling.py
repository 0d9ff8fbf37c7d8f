"""What everything but the model costs: the score lane with a stand-in model that costs nothing.

Items per second from `submit` to stored outcome; for an item, the CPU of all processes (producer, worker, broker and
PostgreSQL with all that it starts), messages and bytes that go through the broker, and the bytes of PostgreSQL's
write-ahead log. Messages hold ids only, up to 256 of them, so neither grows with the texts.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import psutil
import redis
from sqlalchemy import text

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.service import Service, score_worker, serve_stand_in, service, submit, wait_until_open
from benchmarks.texts import texts
from datashunt.client import Client

CALL = 2_000
"""Items of one call of the producer."""
WARM_UP = 4_000
TARGET = 8_000
CPU_TARGET = 120.0
MESSAGES_TARGET = 5.0
"""For 1,000 items in calls of 2,000: eight messages of 256 ids each."""
TRAFFIC_TARGET = 100.0
"""An id is a number of at most 19 digits and its comma, to the broker and from it."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round took: seconds, CPU of each part, messages and bytes over the broker, bytes of write-ahead log."""

    wall: float
    producer: float
    worker: float
    postgres: float
    broker: float
    messages: float
    traffic: float
    wal: float

    @property
    def cpu(self) -> float:
        """Of all processes."""
        return self.producer + self.worker + self.postgres + self.broker


def benchmark(full: bool) -> Result:
    """Rounds of 20,000 items: seven, or three of 8,000."""
    rounds, items = (7, 20_000) if full else (3, 8_000)
    started = time.monotonic()
    with service() as running:
        serve_stand_in(running)
        with score_worker(running, app="benchmarks.free") as worker, Client(running.settings) as client:
            one_round(running, worker, client, WARM_UP, "warm-up")
            found = [one_round(running, worker, client, items, f"round-{i}") for i in range(rounds)]
    return Result("ceiling", full, time.monotonic() - started, _measures(items, found))


def one_round(running: Service, worker: subprocess.Popen[bytes], client: Client, items: int, name: str) -> Round:
    """One round; items must have another name each time."""
    made = texts(items, seed=sum(name.encode()))
    before, started = _taken(running, worker), time.perf_counter()
    for at in range(0, items, CALL):
        submit(client, made[at : at + CALL], f"{name}-{at}")
    wait_until_open(running, worker, 0)
    wall, after = time.perf_counter() - started, _taken(running, worker)
    return Round(wall, *(late - early for early, late in zip(before, after, strict=True)))


def _taken(running: Service, worker: subprocess.Popen[bytes]) -> tuple[float, ...]:
    """CPU of each part, messages and bytes over the broker, and bytes of write-ahead log, all since the start."""
    with running.runtime.store.single() as connection:
        wal = float(connection.execute(text("SELECT pg_current_wal_lsn() - '0/0'")).scalar_one())
    assert running.settings.broker_url is not None
    with redis.Redis.from_url(running.settings.broker_url.get_secret_value()) as client:
        stats = client.info("stats")
        sent = client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0)  # how kombu sends a message
    traffic = float(stats["total_net_input_bytes"] + stats["total_net_output_bytes"])
    return (*_cpu(worker), float(sent), traffic, wal)


def _cpu(worker: subprocess.Popen[bytes]) -> tuple[float, float, float, float]:
    """CPU seconds so far of this process, the worker, PostgreSQL and the broker."""
    own = psutil.Process()
    servers: dict[str, list[psutil.Process]] = {"postgres": [], "valkey": []}
    for child in own.children(recursive=True):
        for name, found in servers.items():
            if name in child.name():
                found.append(child)
    return (
        time.process_time(),
        _seconds([psutil.Process(worker.pid)]),
        _seconds(servers["postgres"]),
        _seconds(servers["valkey"]),
    )


def _seconds(processes: Iterable[psutil.Process]) -> float:
    """User and system time, and that of children that have ended: PostgreSQL's connections and its helpers."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def _measures(items: int, found: list[Round]) -> list[Measure]:
    def each(name: str) -> float:
        return median(getattr(one, name) for one in found) / items * 1e6

    return [
        Measure("items_s", "submit to stored outcome, median", 1e6 / each("wall"), "items/s", TARGET),
        Measure("items_s_least", "the same, the worst round", items / max(one.wall for one in found), "items/s"),
        Measure("cpu_us", "CPU of all processes, median", each("cpu"), "µs/item", CPU_TARGET, at_most=True),
        Measure("producer_us", "of it: producer", each("producer"), "µs/item"),
        Measure("worker_us", "of it: score worker", each("worker"), "µs/item"),
        Measure("postgres_us", "of it: PostgreSQL", each("postgres"), "µs/item"),
        Measure("broker_us", "of it: broker", each("broker"), "µs/item"),
        Measure("messages", "messages for 1,000 items", each("messages") / 1e3, "", MESSAGES_TARGET, at_most=True),
        Measure("traffic", "to and from the broker", each("traffic") / 1e6, "B/item", TRAFFIC_TARGET, at_most=True),
        Measure("wal", "write-ahead log of PostgreSQL", each("wal") / 1e6, "B/item"),
        Measure("items", "items of a round", items),
        Measure("rounds", "rounds", len(found)),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
