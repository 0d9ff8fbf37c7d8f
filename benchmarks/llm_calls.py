"""The HTTP of the LLM lane alone, in a process of its own: what is left of a call's CPU without a lane."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.texts import texts
from datashunt import classifier, prompts
from datashunt.llm import LLM

THREADS = 16
WARM_UP = 64


def cpu_ms(url: str, calls: int) -> float:
    """Milliseconds of CPU for a call, with as many threads as a worker has."""
    argv = [sys.executable, "-m", "benchmarks.llm_calls", url, str(calls)]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _measure(url: str, calls: int) -> float:
    spec = classifier.parse({"name": "benchmark", "labels": ["a", "b", "c"], "instruction": "Choose a label."})
    asked = [prompts.render(spec, text) for text in texts(calls + WARM_UP, seed=5)]
    client = LLM(url, None)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda prompt: client.ask(prompt, "simulated", deadline_s=60.0), asked[:WARM_UP]))
        before = time.process_time()
        list(threads.map(lambda prompt: client.ask(prompt, "simulated", deadline_s=60.0), asked[WARM_UP:]))
        return (time.process_time() - before) / calls * 1e3


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(sys.argv[1], int(sys.argv[2]))}\n")
