"""A day's budget under a load that triples at noon: two days in accelerated time, several processes at one row.

Real PostgreSQL, the product's own score and LLM lanes. Model and LLM are stand-ins that read their opinions from the
text: a label with a confidence that is as often right as it says, and the LLM's label. Only the clock is simulated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, text

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.lanes import CLASSIFIER, LABELS, DayClock, apply, crew
from benchmarks.service import service
from datashunt.bootstrap import Runtime
from datashunt.errors import DatashuntError
from datashunt.items import Item
from datashunt.store import Store

WORKERS = 4
FIXED = 0.9
TOLERANCE = 0.03
STEP_S = 0.1
DRAIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A day's items in the order of their arrival.

    Attributes:
        times: (n,) when they come, as fractions of the day.
        confidence: (n,) of the small model. small, truth: (n,) indices of its label and of the LLM's.
    """

    times: NDArray[np.float64]
    confidence: NDArray[np.float64]
    small: NDArray[np.intp]
    truth: NDArray[np.intp]

    def item(self, day: int, n: int) -> Item:
        """The nth item, in words that the stand-ins understand."""
        words = f"{LABELS[self.small[n]]} {self.confidence[n]:.6f} {LABELS[self.truth[n]]}"
        return Item(f"{day}-{n}", words)


def arrivals(items: int, seed: int) -> Arrivals:
    """Items of a day of which a quarter comes before noon and three quarters after."""
    rng = np.random.default_rng(seed)
    times = np.sort(np.where(rng.random(items) < 0.25, rng.uniform(0, 0.5, items), rng.uniform(0.5, 1, items)))
    confidence = 1 - 0.5 * rng.beta(0.6, 2, items)
    small = rng.integers(len(LABELS), size=items)
    wrong = (small + rng.integers(1, len(LABELS), size=items)) % len(LABELS)
    return Arrivals(times, confidence, small, np.where(rng.random(items) < confidence, small, wrong))


@dataclass(frozen=True, slots=True)
class Seen:
    """What the database says in the end.

    Attributes:
        used: share of the budget that was spent, by day. right: share of the outcomes that are the LLM's label.
        over: most that was spent and reserved beyond a budget, as a share of it.
        waiting: asks that wait for another day. late: items of the first day decided on the second.
    """

    used: Sequence[float]
    right: Sequence[float]
    over: float
    waiting: int
    late: int


def benchmark(full: bool) -> Result:
    """Two days of two minutes with 6,000 items and 1,500 calls each; or of 25 seconds with 1,200 and 300."""
    items, calls, day_s = (6_000, 1_500, 120.0) if full else (1_200, 300, 25.0)
    days = [arrivals(items, seed) for seed in (1, 2)]
    began = time.monotonic()
    with service() as running:
        apply(running.runtime, calls)
        with crew(running.settings, day_s, WORKERS) as clock, _watch(running.runtime.store) as highest:
            _submit(running.runtime, days, clock)
            _drain(running.runtime.store)
        store = running.runtime.store
        used = [float(row.used) for row in _rows(store, "spent / budget AS used")]
        right = [_accuracy(store, day, one) for day, one in enumerate(days)]
        decided = _rows(store, "(SELECT sum(n) FROM unnest(arrivals) AS n) AS items")[0].items
        seen = Seen(used, right, max(highest[0], 0.0), _waiting(store), items - int(decided))
    return Result("budget", full, time.monotonic() - began, _measures(days, calls, seen))


def _submit(runtime: Runtime, days: Sequence[Arrivals], clock: DayClock) -> None:
    for day, one in enumerate(days):
        sent = 0
        while sent < len(one.times):
            time.sleep(STEP_S)
            due = int(np.searchsorted(one.times, clock.days() - day))
            if due > sent:
                runtime.intake.submit(CLASSIFIER, [one.item(day, n) for n in range(sent, due)], f"{day}-{sent}")
                sent = due


def _drain(store: Store) -> None:
    """Wait until everything that can be done today is done."""
    until = time.monotonic() + DRAIN_S
    while time.monotonic() < until:
        with store.begin() as tx:
            left = tx.execute(
                text(
                    "SELECT (SELECT count(*) FROM items WHERE state IN ('queued', 'scoring'))"
                    " + (SELECT count(*) FROM asks"
                    "     WHERE state = 'calling' OR state = 'waiting' AND not_before <= now())"
                )
            ).scalar_one()
        if left == 0:
            return
        time.sleep(STEP_S)
    raise DatashuntError(f"the lanes did not finish within {DRAIN_S:.0f} s")


@contextmanager
def _watch(store: Store) -> Iterator[list[float]]:
    """The most that was ever spent and reserved beyond a budget, as a share of it; looks a hundred times a second."""
    highest, ended = [-1.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            over = [float(row.over) for row in _rows(store, "(spent + reserved) / budget - 1 AS over")]
            highest[0] = max([highest[0], *over])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield highest
    finally:
        ended.set()
        watcher.join()


def _rows(store: Store, what: str) -> Sequence[Row[Any]]:
    with store.begin() as tx:
        return tx.execute(text(f"SELECT {what} FROM budget_days ORDER BY day")).all()


def _waiting(store: Store) -> int:
    with store.begin() as tx:
        return int(tx.execute(text("SELECT count(*) FROM asks WHERE state = 'waiting'")).scalar_one())


def _accuracy(store: Store, day: int, one: Arrivals) -> float:
    with store.begin() as tx:
        rows = tx.execute(text("SELECT key, label FROM items WHERE key LIKE :day"), {"day": f"{day}-%"}).all()
    return float(np.mean([row.label == LABELS[one.truth[int(row.key.partition("-")[2])]] for row in rows]))


def right_if_asked(one: Arrivals, asked: NDArray[np.intp]) -> float:
    """Accuracy of the day if the LLM's label is taken for these items and the small model's for all others."""
    correct = one.small == one.truth
    correct[asked] = True
    return float(correct.mean())


def hindsight(one: Arrivals, calls: int) -> float:
    """Accuracy if the least confident items of the whole day are asked."""
    return right_if_asked(one, np.argsort(one.confidence, kind="stable")[:calls])


def first_come(one: Arrivals, calls: int) -> float:
    """Accuracy if a fixed threshold decides and the first so many of what it escalates are asked."""
    return right_if_asked(one, np.flatnonzero(one.confidence < FIXED)[:calls])


def _measures(days: Sequence[Arrivals], calls: int, seen: Seen) -> list[Measure]:
    asked = [round(share * calls) for share in seen.used]
    found = []
    for n, (name, what) in enumerate([("first", "no day before"), ("second", "the day before known")]):
        least, best = first_come(days[n], asked[n]), hindsight(days[n], asked[n])
        found += [
            Measure(f"used_{name}", f"budget used, {what}", seen.used[n], "", 1 - TOLERANCE),
            Measure(f"right_{name}", f"accuracy, {what}", seen.right[n]),
            Measure(f"fixed_{name}", f"the same calls at a fixed threshold of {FIXED}, first come", least),
            Measure(f"hindsight_{name}", "the same calls for the day's least confident", best),
        ]
    return [
        *found,
        Measure("over", "most spent and reserved beyond the budget, at any time", seen.over, "", 0.0, at_most=True),
        Measure("waiting", "audits that met the cap and wait for the next day", seen.waiting),
        Measure("late", "items of the first day that were decided on the second", seen.late),
        Measure("items", "items of a day", len(days[0].times)),
        Measure("calls", "budget of a day, calls", calls),
        Measure("workers", "processes that score and ask", WORKERS),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
