"""The LLM lane against an endpoint that fails: a tenth of the calls in all ways, and in the middle none gets through.

Real PostgreSQL, Valkey and Celery workers, four processes of 16 threads; the endpoint is the project's simulation,
a process too, whose ledger is the judge. No LLM is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.llm_service import PATIENCE_S, Lane, Limits, lane, some_items

RPM = 1_200
OUTAGE_S = 20.0
EXCESS, BACK_S = 1.02, 5.0
SPAN_S = 2.0
"""Over so long a rate is measured."""
FULL_RATE = 0.95
"""The share of the rate before the outage that counts as the full one."""
MIXED = """
  - {fault: reset, rate: 0.02}
  - {fault: half_closed, rate: 0.01, billed: true}
  - {fault: timeout, rate: 0.005}
  - {fault: slow_body, rate: 0.005, slow_s: 60}
  - {fault: 500, rate: 0.01}
  - {fault: 502, rate: 0.01}
  - {fault: 503, rate: 0.01, retry_after_s: 1}
  - {fault: 504, rate: 0.005}
  - {fault: 408, rate: 0.005}
  - {fault: 409, rate: 0.005}
  - {fault: 429, rate: 0.005, retry_after_s: 0.2}
  - {fault: truncated_json, rate: 0.005}
  - {fault: empty_choices, rate: 0.005}
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items, and how long after its start the endpoint goes out of order, in seconds."""

    items: int
    outage_after_s: float


FULL = Counts(items=3_000, outage_after_s=70.0)
REDUCED = Counts(items=1_500, outage_after_s=45.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """The ledger at one time: seconds since the endpoint's start, and replies that it has served."""

    at: float
    served: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to."""

    items: int
    done: int
    outcomes: int
    dead: int
    attempts: int
    ledger: dict[str, Any]
    usual: float
    back_s: float

    @property
    def outage(self) -> int:
        """Calls that met the outage."""
        return int(self.ledger["faults"].get("outage", {}).get("requests", 0))

    @property
    def forced(self) -> int:
        """Calls that the other faults force: each item once, and once more for each fault."""
        return self.items + sum(one["requests"] for one in self.ledger["faults"].values()) - self.outage

    @property
    def excess(self) -> float:
        """Calls, as a multiple of those that are forced."""
        return float(self.ledger["requests"] / self.forced)


def benchmark(full: bool) -> Result:
    """All items through an endpoint that fails."""
    started = time.monotonic()
    run = _run(FULL if full else REDUCED)
    return Result("llm_faults", full, time.monotonic() - started, _measures(run))


def _measures(run: Run) -> list[Measure]:
    faults = run.forced - run.items
    return [
        Measure("items", "items submitted", run.items),
        Measure("done", "share of items that end in an outcome", run.done / run.items, "", 1.0),
        Measure("twice", "outcomes beyond one for each item", run.outcomes - run.done, "", 0.0, at_most=True),
        Measure("dead", "dead letters", run.dead, "", 0.0, at_most=True),
        Measure("excess", "calls, as a multiple of what the faults force", run.excess, "", EXCESS, at_most=True),
        Measure("faults", "calls that met a fault, outage left out", faults),
        Measure("outage_calls", f"calls during {OUTAGE_S:g} s without an endpoint", run.outage),
        Measure("usual", "replies before the outage", run.usual, "replies/s"),
        Measure("back_s", "until the rate is what it was, after the outage", run.back_s, "s", BACK_S, at_most=True),
        Measure("attempts", "most attempts that one item used up", run.attempts),
    ]


def _run(counts: Counts) -> Run:
    items = some_items(counts.items, seed=6)
    until_s = counts.outage_after_s + OUTAGE_S
    outage = f"  - {{fault: outage, seconds: [{counts.outage_after_s:g}, {until_s:g}]}}"
    with lane(Limits(RPM), items, faults=f"seed: 6\nfaults:\n{outage}{MIXED}", llm_deadline_s="3") as running:
        running.submit(items)
        running.start()
        readings = _watched(running, len(items))
        return Run(
            items=len(items),
            done=_done(running),
            outcomes=running.count("SELECT count(*) FROM outcomes"),
            dead=running.count("SELECT count(*) FROM dead_letters"),
            attempts=running.count("SELECT max(attempts) FROM asks"),
            ledger=running.ledger(),
            usual=usual_rate(readings, counts.outage_after_s),
            back_s=back_after(readings, counts.outage_after_s, until_s),
        )


def _done(running: Lane) -> int:
    return running.count("SELECT count(*) FROM items WHERE state = 'done'")


def _watched(running: Lane, items: int) -> list[Reading]:
    """The ledger again and again, until no item waits."""
    readings: list[Reading] = []

    def over() -> bool:
        readings.append(Reading(time.monotonic() - running.llm_started, running.ledger()["served"]))
        waiting = "SELECT count(*) FROM items WHERE state NOT IN ('done', 'dead')"
        return len(readings) % 10 == 0 and running.count(waiting) == 0

    running.until(over, f"outcomes of {items} items", patience_s=PATIENCE_S + 2 * items * 60.0 / RPM)
    return readings


def usual_rate(readings: Sequence[Reading], outage_from: float) -> float:
    """Replies a second in the 10 s before an outage; 0 if there are too few readings."""
    before = [one for one in readings if outage_from - 10.0 <= one.at < outage_from]
    return (before[-1].served - before[0].served) / (before[-1].at - before[0].at) if len(before) > 1 else 0.0


def back_after(readings: Sequence[Reading], outage_from: float, outage_until: float) -> float:
    """Seconds from the end of an outage until the rate of replies is what it was before; infinite if it never is.

    Args:
        readings: in order of time.
        outage_from: seconds since the endpoint's start.
        outage_until: the same.
    """
    usual = usual_rate(readings, outage_from)
    after = [one for one in readings if one.at >= outage_until]
    for first in after:
        last = next((one for one in after if one.at >= first.at + SPAN_S), None)
        if last is not None and usual > 0 and (last.served - first.served) / (last.at - first.at) >= FULL_RATE * usual:
            return first.at - outage_until
    return float("inf")


if __name__ == "__main__":
    command.main(benchmark, __doc__)
