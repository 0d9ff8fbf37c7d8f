"""Items per second from `submit` to stored outcome, as a share of the model's own batched loop.

Lane and loop take the same texts in turn, in the same batches, with the same threads; the share is the median of
the rounds'. Real PostgreSQL, Valkey and Celery worker; model time is tokenise + forward on both sides.
"""

from __future__ import annotations

import subprocess
import time
from statistics import median

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.plain import Loop, plain_loop
from benchmarks.service import Service, score_worker, scored_events, serve_bundle, service, submit, wait_until_open
from benchmarks.texts import texts
from datashunt.client import Client

WARM_UP = 768
TARGET = 0.9


def benchmark(full: bool) -> Result:
    """Rounds of lane and loop: five of 20,000 items, or three of 1,500."""
    rounds, items = (5, 20_000) if full else (3, 1_500)
    started = time.monotonic()
    with service() as running:
        folder = serve_bundle(running)
        with (
            score_worker(running) as worker,
            plain_loop(folder, running.settings) as loop,
            Client(running.settings) as client,
        ):
            _round(running, worker, client, loop, WARM_UP, "warm-up")
            before = len(scored_events(running.log))
            pairs = [_round(running, worker, client, loop, items, f"round-{i}") for i in range(rounds)]
            model_ms = sum(event["model_ms"] for event in scored_events(running.log)[before:])
    return Result("score_lane", full, time.monotonic() - started, _measures(items, pairs, model_ms / 1e3))


def _round(
    running: Service, worker: subprocess.Popen[bytes], client: Client, loop: Loop, items: int, name: str
) -> tuple[float, float]:
    """Seconds of the lane and of the loop for the same texts."""
    batch = texts(items, seed=sum(name.encode()))
    started = time.perf_counter()
    submit(client, batch, name)
    wait_until_open(running, worker, 0)
    return time.perf_counter() - started, loop(batch)


def _measures(items: int, pairs: list[tuple[float, float]], model_s: float) -> list[Measure]:
    shares = [plain / lane for lane, plain in pairs]
    lane, plain = (median(column) for column in zip(*pairs, strict=True))
    rest = (sum(seconds for seconds, _ in pairs) - model_s) / (items * len(pairs))
    return [
        Measure("share", "score lane as a share of the plain loop, median of rounds", median(shares), "", TARGET),
        Measure("share_least", "the same, the worst round", min(shares)),
        Measure("lane_items_s", "score lane, submit to stored outcome", items / lane, "items/s"),
        Measure("plain_items_s", "plain loop: tokenise + forward", items / plain, "items/s"),
        Measure("beside_model_us", "wall clock of the lane outside model and decision", rest * 1e6, "µs/item"),
        Measure("items", "items of a round", items),
        Measure("rounds", "rounds", len(pairs)),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
