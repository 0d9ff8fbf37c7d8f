"""Resident memory of a score worker over many items: flat within 2 % after the first 5,000.

Items arrive as a stream, a few thousand ahead of the worker. Memory is sampled four times a second; a window of items
counts with its median, since a sample may fall into a forward pass or between two.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import psutil

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.service import Service, score_worker, serve_bundle, service, submit, wait_until_open
from benchmarks.texts import texts
from datashunt.client import Client

SETTLED_AFTER = 5_000
"""Items until a process has made all that it keeps."""
WINDOW = 1_000
SAMPLE_S = 0.25
MEDIAN_WORDS = 5
"""Short texts, of varied length: memory depends on shapes, not on how long the benchmark takes."""
TARGET = 0.02


def benchmark(full: bool) -> Result:
    """Resident memory over 200,000 items, or 12,000."""
    items = 200_000 if full else 12_000
    started = time.monotonic()
    with service() as running:
        serve_bundle(running)
        with score_worker(running) as worker, Client(running.settings) as client:
            windows = _windows(running, worker, client, items)
    return Result("memory", full, time.monotonic() - started, _measures(items, windows), _series(windows))


def _windows(
    running: Service, worker: subprocess.Popen[bytes], client: Client, items: int
) -> list[tuple[int, float, float]]:
    """Items done, and median and largest resident memory (bytes) in the window that ended there."""
    windows: list[tuple[int, float, float]] = []
    submit(client, texts(WINDOW, seed=0, median_words=MEDIAN_WORDS), f"{0:03d}")
    for number in range(1, items // WINDOW + 1):
        last = number == items // WINDOW
        if not last:
            submit(client, texts(WINDOW, seed=number, median_words=MEDIAN_WORDS), f"{number:03d}")
        with _sampled(worker.pid) as samples:
            wait_until_open(running, worker, 0 if last else WINDOW)
        windows.append((number * WINDOW, median(samples), max(samples)))
    return windows


@contextmanager
def _sampled(pid: int) -> Iterator[Sequence[int]]:
    """Resident memory of a process in bytes, from now until the end of the block; one sample at least."""
    process = psutil.Process(pid)
    samples: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            samples.append(process.memory_info().rss)

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        samples.append(process.memory_info().rss)


def _measures(items: int, windows: Sequence[tuple[int, float, float]]) -> list[Measure]:
    settled = [rss for done, rss, _ in windows if done >= SETTLED_AFTER]
    growth = max(settled) / settled[0] - 1
    return [
        Measure("growth", "largest growth after the first 5,000 items", growth, "", TARGET, at_most=True),
        Measure("settled_mb", "resident memory at 5,000 items", settled[0] / 2**20, "MiB"),
        Measure("last_mb", "resident memory at the end", settled[-1] / 2**20, "MiB"),
        Measure("peak_mb", "largest single sample", max(peak for _, _, peak in windows) / 2**20, "MiB"),
        Measure("items", "items", items),
    ]


def _series(windows: Sequence[tuple[int, float, float]]) -> list[dict[str, float]]:
    return [{"items": done, "rss_mb": rss / 2**20, "largest_mb": peak / 2**20} for done, rss, peak in windows]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
