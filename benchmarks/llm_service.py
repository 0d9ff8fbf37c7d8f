"""What the benchmark of the LLM lane runs on: servers, a simulated LLM and real workers, each a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from sqlalchemy import Row, text

from benchmarks.service import CLASSIFIER, LABELS, Service, service
from benchmarks.texts import texts
from datashunt.embedded import process, worker_commands
from datashunt.errors import DatashuntError
from datashunt.items import Item

PROCESSES = 4
THREADS = 16
LATENCY_MS = 300
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the simulated endpoint allows and the classifier's file says; None: no limit."""

    rpm: int | None = None
    tpm: int | None = None

    @property
    def options(self) -> list[str]:
        """For `simulate-llm`."""
        given = {"--rpm": self.rpm, "--tpm": self.tpm}
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]


@dataclass
class Lane:
    """Running servers, a simulated LLM (ready at `llm_started`, monotonic), and the workers that were started."""

    service: Service
    llm_url: str
    llm_started: float
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def submit(self, items: Sequence[Item]) -> None:
        """Submit, and escalate all of them as a score worker does while there is no bundle."""
        runtime = self.service.runtime
        _, wakes = runtime.intake.submit(CLASSIFIER, items, str(uuid4()))
        for wake in wakes:
            for asked in runtime.scorer.run(CLASSIFIER, wake.ids):
                runtime.publisher.publish([asked])

    def start(self, processes: int = PROCESSES, threads: int = THREADS) -> None:
        """Start workers of the LLM lane, as `datashunt up --workers` does."""
        folder = self.service.settings.data_dir
        argv = next(one.argv for one in worker_commands(folder, llm_threads=threads) if one.name == "llm")
        for _ in range(processes):
            number = len(self.workers)
            self.workers.append(
                process.spawn(
                    [word.replace("@%h", f"-{number}@%h") for word in argv],
                    log=folder / "logs" / f"llm-{number}.log",
                    death_signal=signal.SIGKILL,
                    env={**os.environ, **self.service.environment},
                )
            )

    def end(self, how: signal.Signals) -> None:
        """End all workers: SIGTERM lets them finish their calls, SIGKILL does not."""
        running = [worker for worker in self.workers if worker.poll() is None]
        for worker in running:
            os.killpg(worker.pid, how)
        for worker in running:
            process.end(worker, how, 30.0)

    def cpu_s(self) -> float:
        """CPU that the running workers have used so far, in seconds."""
        times = [psutil.Process(worker.pid).cpu_times() for worker in self.workers if worker.poll() is None]
        return sum(one.user + one.system for one in times)

    def memory_mib(self) -> float:
        """Resident memory of the running workers."""
        rss = [psutil.Process(worker.pid).memory_info().rss for worker in self.workers if worker.poll() is None]
        return float(sum(rss)) / 2**20

    def ledger(self) -> dict[str, Any]:
        """What the simulated endpoint has served so far."""
        url = self.llm_url.removesuffix("/v1") + "/simulator/ledger"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return dict(json.load(reply))

    def rows(self, statement: str) -> Sequence[Row[Any]]:
        """What a query finds."""
        with self.service.runtime.store.begin() as tx:
            return tx.execute(text(statement)).all()

    def count(self, statement: str) -> int:
        """The one number that a query finds."""
        ((number,),) = self.rows(statement)
        return int(number)

    def until(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for a condition.

        Raises:
            DatashuntError: it did not come within `patience_s`; the message holds the last lines of a worker.
        """
        deadline = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > deadline:
                log = self.service.settings.data_dir / "logs" / f"llm-{len(self.workers) - 1}.log"
                raise DatashuntError(f"waited in vain for {what}; a worker's log ends: {process.last_lines(log)}")
            time.sleep(0.1)


def some_items(count: int, *, seed: int) -> list[Item]:
    """Generated items."""
    return [Item(f"{seed}-{number:07d}", one) for number, one in enumerate(texts(count, seed=seed))]


@contextmanager
def lane(
    limits: Limits, items: Sequence[Item], *, latency_ms: float = LATENCY_MS, faults: str | None = None, **settings: str
) -> Iterator[Lane]:
    """Servers and endpoint for one measurement, both new; no worker runs yet.

    Args:
        limits: of the endpoint, and in the classifier's file.
        items: those that the endpoint knows by their ids; it answers pseudo-randomly.
        latency_ms: of each call.
        faults: of the endpoint, as in a file of faults.
        settings: further settings of servers and workers.
    """
    document = {
        "model": "simulated",
        "api": "chat",
        "input_price": "1",
        "output_price": "2",
        "rpm": limits.rpm,
        "tpm": limits.tpm,
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datashunt-benchmark-llm-")))
        url = stack.enter_context(_endpoint(folder, limits, items, latency_ms, faults))
        started = time.monotonic()
        running = stack.enter_context(
            service(changes={"llm": document}, llm_base_url=url, llm_api_key="simulation", **settings)
        )
        made = Lane(running, url, started)
        try:
            yield made
        finally:
            made.end(signal.SIGKILL)


@contextmanager
def _endpoint(
    folder: Path, limits: Limits, items: Sequence[Item], latency_ms: float, faults: str | None
) -> Iterator[str]:
    """The simulated LLM as a process of its own; its base URL."""
    answers, log = folder / "answers.jsonl", folder / "simulator.log"
    lines = [
        json.dumps({"id": item.id, "text": item.text, "probabilities": {LABELS[number % len(LABELS)]: 1.0}})
        for number, item in enumerate(items)
    ]
    answers.write_text("\n".join(lines), encoding="utf-8")
    argv = [sys.executable, "-m", "datashunt", "simulate-llm", "--answers", str(answers), "--port", "0"]
    argv += ["--latency-ms", str(latency_ms), *limits.options]
    if faults is not None:
        (folder / "faults.yaml").write_text(faults, encoding="utf-8")
        argv += ["--faults", str(folder / "faults.yaml")]
    simulator = process.spawn(argv, log=log, death_signal=signal.SIGKILL)
    try:
        started = process.wait_until(lambda: "/v1" in log.read_text(encoding="utf-8"), PATIENCE_S)
        found = re.search(r"http://\S+/v1", log.read_text(encoding="utf-8"))
        if not started or found is None:
            raise DatashuntError(f"the simulated LLM does not start: {process.last_lines(log)}")
        yield found[0]
    finally:
        process.end(simulator, signal.SIGTERM, 10.0)
