"""The small model's plain batched loop, in a process of its own: what the score lane is compared with.

It loads the served bundle as a worker does and scores the same texts in the same batches: tokenise and forward,
nothing else. Started as `python -m benchmarks.plain FOLDER THREADS BATCH_TOKENS`, it takes one JSON list of texts a
line and answers with the seconds that they took; it ends with its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from datashunt.errors import DatashuntError
from datashunt.settings import Settings
from datashunt.store.scores import CLAIM_LIMIT

Loop = Callable[[Sequence[str]], float]
"""Scores texts in batches of one claim; returns the seconds it took."""


@contextmanager
def plain_loop(folder: Path, settings: Settings) -> Iterator[Loop]:
    """The loop over the bundle in `folder`, with the threads and batches of a worker of these settings."""
    command = [sys.executable, "-m", "benchmarks.plain", str(folder)]
    command += [str(settings.threads), str(settings.score_batch_tokens)]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as workers/app.py does
    loop = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches us alone; we stop it
    )
    assert loop.stdin is not None
    assert loop.stdout is not None
    source, sink = loop.stdout, loop.stdin

    def seconds(texts: Sequence[str]) -> float:
        sink.write(json.dumps(list(texts)) + "\n")
        sink.flush()
        answer = source.readline()
        if not answer:
            raise DatashuntError(f"the plain loop ended with code {loop.wait()}: see what it wrote above")
        return float(answer)

    try:
        yield seconds
    finally:
        loop.terminate()
        loop.wait()
        source.close()
        with suppress(BrokenPipeError):  # interrupted while it was sent texts
            sink.close()


def _serve(folder: Path, threads: int, batch_tokens: int) -> None:
    from datashunt.small import SmallModel

    model = SmallModel.load(folder, device="cpu", threads=threads)
    for line in sys.stdin:
        texts: list[str] = json.loads(line)
        started = time.perf_counter()
        for start in range(0, len(texts), CLAIM_LIMIT):
            model.probabilities(texts[start : start + CLAIM_LIMIT], batch_tokens=batch_tokens)
        sys.stdout.write(f"{time.perf_counter() - started}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
