"""How long a single item takes from `submit` to its outcome while the machine is otherwise idle, model apart.

Items come one by one, at random intervals. The outcome is looked for every millisecond, so what a consumer sees late is
in it; what the model took for the item is the worker's own figure (`model_ms` of its `scored` event).
"""

from __future__ import annotations

import random
import time
from statistics import median

from sqlalchemy import text

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.llm_lane import percentile
from benchmarks.service import Service, score_worker, scored_events, serve_bundle, service, submit
from benchmarks.texts import texts
from datashunt.client import Client
from datashunt.errors import DatashuntError

WARM_UP = 20
PAUSE_S = (0.02, 0.12)
LOOK_S = 0.001
MOST_S = 30.0
MEDIAN_TARGET = 15.0
LATE_TARGET = 60.0
_DONE = text("SELECT EXISTS (SELECT FROM items WHERE key = :key AND outcome_id IS NOT NULL)")


def benchmark(full: bool) -> Result:
    """1,000 single items, or 200."""
    items = 1_000 if full else 200
    started = time.monotonic()
    with service() as running:
        serve_bundle(running)
        with score_worker(running), Client(running.settings) as client:
            _one_by_one(running, client, WARM_UP, "warm-up")
            before = len(scored_events(running.log))
            whole = _one_by_one(running, client, items, "single")
            model = [event["model_ms"] for event in scored_events(running.log)[before:]]
    return Result("latency", full, time.monotonic() - started, _measures(whole, model))


def _one_by_one(running: Service, client: Client, count: int, name: str) -> list[float]:
    """Milliseconds of each item, from the call of `submit` until its outcome can be read."""
    draw = random.Random(count)
    found = []
    for number, one in enumerate(texts(count, seed=count)):
        time.sleep(draw.uniform(*PAUSE_S))
        started = time.perf_counter()
        submit(client, [one], f"{name}-{number}")
        with running.runtime.store.single() as connection:
            while not connection.execute(_DONE, {"key": f"{name}-{number}-0000000"}).scalar_one():
                if time.perf_counter() - started > MOST_S:
                    raise DatashuntError(f"an item had no outcome after {MOST_S:.0f} s")
                time.sleep(LOOK_S)
        found.append((time.perf_counter() - started) * 1e3)
    return found


def _measures(whole: list[float], model: list[float]) -> list[Measure]:
    beside = sorted(all_of_it - of_model for all_of_it, of_model in zip(whole, model, strict=True))
    return [
        Measure("beside_p50", "submit to outcome less the model, median", median(beside), "ms", MEDIAN_TARGET, True),
        Measure("beside_p99", "the same, 99th percentile", percentile(beside, 0.99), "ms", LATE_TARGET, True),
        Measure("whole_p50", "submit to outcome, median", median(whole), "ms"),
        Measure("whole_p99", "the same, 99th percentile", percentile(sorted(whole), 0.99), "ms"),
        Measure("model_p50", "of it: model and decision, median", median(model), "ms"),
        Measure("items", "items, one by one", len(whole)),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
