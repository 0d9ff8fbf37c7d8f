"""Score and LLM lanes in processes of their own, with stand-ins that read their opinions from the text."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event, Semaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from benchmarks.stand_in import FreeModels
from datashunt import classifier, prompts
from datashunt.bootstrap import Runtime
from datashunt.errors import DatashuntError
from datashunt.items import ProbabilitySource, Reply, Usage
from datashunt.pipeline.ask import Asker
from datashunt.pipeline.score import Scorer
from datashunt.prompts import Prompt
from datashunt.settings import Settings
from datashunt.store import Connection, bundles, classifiers

CLASSIFIER = "budget"
LABELS = ("negative", "neutral", "positive")
FIRST_DAY = datetime(2031, 5, 5, tzinfo=UTC)
IDLE_S = 0.02
READY_S = 120.0


@dataclass(frozen=True, slots=True)
class DayClock:
    """Days of `day_s` seconds, since the machine's monotonic clock, which all processes share, was at `began`."""

    began: float
    day_s: float

    def days(self) -> float:
        """Days that have passed."""
        return max(0.0, (time.monotonic() - self.began) / self.day_s)

    def __call__(self, _: Connection) -> datetime:
        """The simulated moment."""
        return FIRST_DAY + timedelta(days=self.days())


class TextModel:
    """Reads `LABEL CONFIDENCE …` and says so; the other labels share the rest."""

    labels = LABELS

    def probabilities(self, texts: Sequence[str], *, batch_tokens: int) -> NDArray[np.float32]:
        """(n, k) probabilities in label order."""
        del batch_tokens
        rows = []
        for label, confidence, _ in map(str.split, texts):
            row = np.full(len(LABELS), (1 - float(confidence)) / (len(LABELS) - 1), dtype=np.float32)
            row[LABELS.index(label)] = float(confidence)
            rows.append(row)
        return np.stack(rows)


class OneModel(FreeModels):
    """Loads the same stand-in for every bundle."""

    def get(self, _: object) -> Any:
        """The model."""
        return TextModel()


class TextLLM:
    """Reads the last word of the text, which is its label."""

    def quota_key(self, model: str) -> str:
        """Whose allowance a call uses."""
        return model

    def ask(self, prompt: Prompt, model: str, *, deadline_s: float, api: str, samples: int) -> Reply:
        """The label, at once."""
        del deadline_s, api, samples
        said = prompt.messages[-1]["content"]
        label = max(LABELS, key=lambda one: said.rfind(f" {one}"))
        return Reply(label, None, ProbabilitySource.NONE, model, "", Usage(100, 5), 1.0)


def apply(runtime: Runtime, calls_per_day: int) -> None:
    """A classifier with this budget, and a bundle that serves."""
    document = {
        "name": CLASSIFIER,
        "labels": list(LABELS),
        "instruction": "Choose a label.",
        "policy": {"mode": "budget", "calls_per_day": calls_per_day, "audit_rate": 0.02},
        "llm": {"model": "stand-in", "input_price": 1, "output_price": 1},
    }
    spec = classifier.parse(document, where="the benchmark's classifier")
    with runtime.store.begin() as tx:
        classifiers.apply(tx, spec, prompts.prompt_hash(spec))
        known = classifiers.current(tx, CLASSIFIER)
        made = bundles.add(tx, known, uri="memory://", content_hash="0", recipe="head", prune_cut=None, evaluation={})
        bundles.promote_by_hand(tx, known, made.version)


@contextmanager
def crew(settings: Settings, day_s: float, count: int) -> Iterator[DayClock]:
    """So many processes, each scoring what is queued and asking what that escalates, until the block ends.

    The first day begins when all of them are ready.
    """
    context = multiprocessing.get_context("spawn")
    start = Start(context.Semaphore(0), context.SimpleQueue(), context.Event())
    workers = [context.Process(target=_work, args=(settings, start)) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        for _ in workers:
            if not start.ready.acquire(timeout=READY_S):
                raise DatashuntError(f"a worker of the benchmark was not ready within {READY_S:.0f} s")
        clock = DayClock(time.monotonic(), day_s)
        for _ in workers:
            start.clock.put(clock)
        yield clock
    finally:
        start.ended.set()
        for worker in workers:
            worker.join(IDLE_S * 50)
            worker.terminate()  # it may still wait for its clock
            worker.join()


@dataclass(frozen=True, slots=True)
class Start:
    """How a worker says that it is ready, gets its clock, and learns that all is over."""

    ready: Semaphore
    clock: SimpleQueue[DayClock]
    ended: Event


def _work(settings: Settings, start: Start) -> None:
    runtime = Runtime(settings, pool_size=2)
    runtime.store.ping()
    start.ready.release()
    clock, ended = start.clock.get(), start.ended
    scorer = Scorer(runtime.store, runtime.directory, OneModel(), settings, clock)  # type: ignore[arg-type]
    asker = Asker(runtime.store, runtime.directory, TextLLM(), None, settings, clock)  # type: ignore[arg-type]
    try:
        while not ended.is_set():
            with runtime.store.begin() as tx:
                rows = tx.execute(text("SELECT id FROM items WHERE state = 'queued' ORDER BY id LIMIT 256")).scalars()
                queued = list(rows)
            if not queued:
                time.sleep(IDLE_S)
            for wake in scorer.run(CLASSIFIER, queued):
                asker.run(CLASSIFIER, wake.ids)
    finally:
        runtime.close()
