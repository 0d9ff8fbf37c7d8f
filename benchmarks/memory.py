"""Memory of each process over many items: flat within 2 % after the first 5,000.

The processes are the score worker, the producer (this one), the broker, and PostgreSQL with its connections, of which
only what is not shared counts: pages of its buffers count as resident when they are first touched. Items arrive as a
stream, a few thousand ahead of the worker. Memory is sampled twice a second; a window of items counts with its median,
since a sample may fall into a forward pass or between two.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
SAMPLE_S = 0.5
MEDIAN_WORDS = 5
"""Short texts, of varied length: memory depends on shapes, not on how long the benchmark takes."""
TARGET = 0.02
PARTS = ("worker", "producer", "broker", "postgres")
Sample = dict[str, int]
"""Bytes of each part."""
Window = tuple[int, Sample, int]
"""Items done; the median of each part in the window that ended there; the worker's largest sample."""


def benchmark(full: bool) -> Result:
    """Resident memory over 200,000 items, or 12,000."""
    items = 200_000 if full else 12_000
    started = time.monotonic()
    with service() as running:
        serve_bundle(running)
        with score_worker(running) as worker, Client(running.settings) as client:
            windows = _windows(running, worker, client, items)
    return Result("memory", full, time.monotonic() - started, _measures(items, windows), _series(windows))


def _windows(running: Service, worker: subprocess.Popen[bytes], client: Client, items: int) -> list[Window]:
    windows: list[Window] = []
    submit(client, texts(WINDOW, seed=0, median_words=MEDIAN_WORDS), f"{0:03d}")
    for number in range(1, items // WINDOW + 1):
        last = number == items // WINDOW
        if not last:
            submit(client, texts(WINDOW, seed=number, median_words=MEDIAN_WORDS), f"{number:03d}")
        with _sampled(worker.pid) as samples:
            wait_until_open(running, worker, 0 if last else WINDOW)
        middle = {part: round(median(sample[part] for sample in samples)) for part in PARTS}
        windows.append((number * WINDOW, middle, max(sample["worker"] for sample in samples)))
    return windows


@contextmanager
def _sampled(pid: int) -> Iterator[Sequence[Sample]]:
    """Memory of all processes, from now until the end of the block; one sample at least."""
    samples: list[Sample] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            samples.append(_sample(pid))

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        samples.append(_sample(pid))


def _sample(worker: int) -> Sample:
    own = psutil.Process()
    found = {"worker": psutil.Process(worker).memory_info().rss, "producer": own.memory_info().rss}
    found |= {"broker": 0, "postgres": 0}
    for child in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # helpers of PostgreSQL come and go
            name = child.name()
            if "valkey" in name:
                found["broker"] += child.memory_info().rss
            elif "postgres" in name and "autovacuum worker" not in " ".join(child.cmdline()):
                found["postgres"] += child.memory_info().rss - child.memory_info().shared
    return found


def _measures(items: int, windows: Sequence[Window]) -> list[Measure]:
    settled = [sample for done, sample, _ in windows if done >= SETTLED_AFTER]

    def growth(part: str) -> float:
        return max(sample[part] for sample in settled) / settled[0][part] - 1

    names = {"worker": "score worker", "producer": "producer", "broker": "broker", "postgres": "PostgreSQL, not shared"}
    return [
        *(
            Measure(
                f"{part}_growth", f"{names[part]}: growth after the first 5,000 items", growth(part), "", TARGET, True
            )
            for part in PARTS
        ),
        *(
            Measure(f"{part}_{when}_mb", f"{names[part]}: memory {words}", sample[part] / 2**20, "MiB")
            for part in PARTS
            for when, words, sample in (("settled", "at 5,000 items", settled[0]), ("last", "at the end", settled[-1]))
        ),
        Measure("peak_mb", "score worker: largest single sample", max(peak for *_, peak in windows) / 2**20, "MiB"),
        Measure("items", "items", items),
    ]


def _series(windows: Sequence[Window]) -> list[dict[str, float]]:
    return [{"items": done, **{f"{part}_mb": sample[part] / 2**20 for part in PARTS}} for done, sample, _ in windows]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
