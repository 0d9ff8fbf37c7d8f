"""The LLM lane against an endpoint with limits: how much of them is used, what the lane costs, what a kill costs.

Real PostgreSQL, Valkey and Celery workers, four processes of 16 threads; the endpoint is the project's simulation,
a process too, whose ledger is the judge. No LLM is asked.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks import command, llm_calls
from benchmarks.figures import Measure, Result
from benchmarks.llm_service import PROCESSES, Limits, lane, some_items
from datashunt import prompts

RPM = 1_200
ROUNDS = 5
"""Of the workers without limits, and of HTTP alone."""
WARM_UP_CALLS = 400
"""Until every thread has its connections."""
USED, THROTTLED, CPU_MS, QUEUED_MS = 0.98, 0.001, 3.0, 50.0
CROWD, CROWD_LATENCY_MS = 300, 3_000
"""Calls in flight in one process, and how long each takes."""
WAYS = {
    "ours": "threads before one event loop",
    "sync": "a synchronous client in threads",
    "tasks": "tasks of one event loop, no threads",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """How long, and how often. Times are seconds; `calls` are those of a round."""

    warm_up_s: float
    window_s: float
    calls: int
    kills: int


FULL = Counts(warm_up_s=30.0, window_s=90.0, calls=1_000, kills=20)
REDUCED = Counts(warm_up_s=10.0, window_s=20.0, calls=300, kills=3)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run at a limit used. `peak` and `limit` are of the unit that binds."""

    limit: int
    used: float
    peak: int
    requests: int
    throttled: int

    @property
    def over(self) -> float:
        """Most in any 60 s, as a share of the limit."""
        return self.peak / self.limit


def benchmark(full: bool) -> Result:
    """One run in which requests bind and one in which tokens do, then overhead, queueing and kills."""
    counts = FULL if full else REDUCED
    started = time.monotonic()
    requests = limited(Limits(RPM), counts)
    tokens = limited(Limits(RPM, tokens_for(RPM * 3 // 4)), counts)
    measures = [*_of_limits(requests, tokens), *_of_overhead(counts), *_of_crowd(counts), *_of_kills(counts.kills)]
    return Result("llm_lane", full, time.monotonic() - started, measures)


def tokens_for(calls: int) -> int:
    """Tokens that so many calls use: prompt and reply as the endpoint counts them."""
    with lane(Limits(), some_items(1, seed=0)) as one:
        spec = one.service.runtime.directory.everyone()[0].spec
    sizes = [prompts.render(spec, item.text).tokens() for item in some_items(200, seed=1)]
    return round(calls * (fmean(sizes) + 15))


def limited(limits: Limits, counts: Counts) -> Run:
    """A backlog that never ends, four worker processes, and what the ledger says after a while."""
    items = some_items(round((counts.warm_up_s + counts.window_s + 15.0) * RPM / 60.0), seed=1)
    with lane(limits, items) as running:
        running.submit(items)
        running.start()
        running.until(lambda: running.ledger()["served"] > 0, "the first call")
        time.sleep(counts.warm_up_s)
        before, at = running.ledger(), time.monotonic()
        time.sleep(counts.window_s)
        after, lasted_s = running.ledger(), time.monotonic() - at
    return of_ledger(limits, before, after, lasted_s)


def of_ledger(limits: Limits, before: Mapping[str, Any], after: Mapping[str, Any], lasted_s: float) -> Run:
    """A run from two readings of the ledger; peak and 429s are of all that came before the second one."""
    names = ("prompt_tokens", "completion_tokens") if limits.tpm else ("served",)
    limit = limits.tpm or limits.rpm or 0
    used = sum(after[name] - before[name] for name in names) / (limit * lasted_s / 60.0)
    peak = after["peak_tokens" if limits.tpm else "peak_requests"]
    return Run(limit, used, peak, after["requests"], after["throttled"])


def _of_limits(requests: Run, tokens: Run) -> list[Measure]:
    throttled = (requests.throttled + tokens.throttled) / (requests.requests + tokens.requests)
    return [
        Measure("used_requests", f"share of {RPM:,} requests a minute that is used", requests.used, "", USED),
        Measure("used_tokens", "share of the tokens a minute that is used, where these bind", tokens.used, "", USED),
        Measure("throttled", "share of calls that were answered 429", throttled, "", THROTTLED, at_most=True),
        Measure("over_requests", "most requests in any 60 s, as a share of the limit", requests.over, "", 1.0, True),
        Measure("over_tokens", "most tokens in any 60 s, as a share of the limit", tokens.over, "", 1.0, True),
        Measure("calls", "calls in both runs", requests.requests + tokens.requests),
    ]


def _of_overhead(counts: Counts) -> list[Measure]:
    """Workers as fast as they can and, in turn, the same calls without a lane; single items while the quota is free."""
    items = some_items(WARM_UP_CALLS + ROUNDS * counts.calls, seed=2)
    done = "SELECT count(*) FROM items WHERE state = 'done'"
    lane_ms, http_ms, calls_s = [], [], []
    with lane(Limits(), items) as running:
        running.start()
        running.submit(items[:WARM_UP_CALLS])
        running.until(lambda: running.count(done) == WARM_UP_CALLS, "the first calls")
        for first in range(WARM_UP_CALLS, len(items), counts.calls):
            last = first + counts.calls
            before, at = running.cpu_s(), time.monotonic()
            running.submit(items[first:last])
            running.until(lambda last=last: running.count(done) == last, "all calls")
            lane_ms.append((running.cpu_s() - before) / counts.calls * 1e3)
            calls_s.append(counts.calls / (time.monotonic() - at))
            http_ms.append(llm_calls.cost(running.llm_url, counts.calls).cpu_ms)
    without = [whole - http for whole, http in zip(lane_ms, http_ms, strict=True)]
    queued = sorted(_queued(counts))
    return [
        Measure(
            "lane_cpu_ms", "CPU of the lane for a call, without its HTTP, median of rounds", median(without), "ms",
            CPU_MS, at_most=True,
        ),
        Measure("lane_cpu_most_ms", "the same, the worst round", max(without), "ms"),
        Measure("http_cpu_ms", "CPU of HTTP and the LLM client for a call", median(http_ms), "ms"),
        Measure("calls_s", "calls without limits", median(calls_s), "calls/s"),
        Measure(
            "queued_p99_ms", "99th percentile from ask to call, quota half used", percentile(queued, 0.99), "ms",
            QUEUED_MS, at_most=True,
        ),
        Measure("queued_ms", "the same, median", percentile(queued, 0.5), "ms"),
    ]  # fmt: skip


def _queued(counts: Counts) -> list[float]:
    """Milliseconds from each ask to its call; single items come at random, half as many as the limit allows."""
    draw = random.Random(3)
    items = some_items(round(counts.window_s * RPM / 120.0), seed=3)
    with lane(Limits(RPM), items) as running:
        running.start()
        running.submit(items[:20])
        running.until(lambda: running.ledger()["served"] == 20, "the first calls")
        due = time.monotonic()
        for item in items[20:]:
            due += draw.expovariate(RPM / 120.0)
            time.sleep(max(0.0, due - time.monotonic()))
            running.submit([item])
        running.until(lambda: running.ledger()["served"] == len(items), "all calls")
        rows = running.rows(
            "SELECT 1000 * extract(epoch FROM calls.created_at - asks.created_at) AS ms"
            " FROM calls JOIN asks ON asks.id = calls.ask_id ORDER BY calls.id OFFSET 20"
        )
        return [float(row.ms) for row in rows]


def _of_crowd(counts: Counts) -> list[Measure]:
    """One process with hundreds of slow calls under way, without limits."""
    items = some_items(max(4 * CROWD, counts.calls), seed=5)
    in_flight = "SELECT count(*) FROM calls WHERE state = 'sent'"
    done = "SELECT count(*) FROM items WHERE state = 'done'"
    with lane(Limits(), items, latency_ms=CROWD_LATENCY_MS) as running:
        running.start(processes=1, threads=CROWD)
        running.submit(items[:1])
        running.until(lambda: running.count(done) == 1, "the first call")
        alone_mib, most, peak_mib = running.memory_mib(), 0, 0.0
        running.submit(items[1:])
        while running.count(done) < len(items):
            most = max(most, running.count(in_flight))
            peak_mib = max(peak_mib, running.memory_mib())
            time.sleep(0.1)
        connections = running.count("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'datashunt'")
        running.end(signal.SIGTERM)
        ways = {how: llm_calls.cost(running.llm_url, counts.calls, how=how, at_once=CROWD) for how in WAYS}
    return [
        Measure("crowd", "most calls in flight in one process", most, "", float(CROWD)),
        Measure("crowd_mib", "memory for each of them", (peak_mib - alone_mib) / max(most, 1), "MiB"),
        Measure("crowd_peak_mib", "most memory of that process", peak_mib, "MiB"),
        Measure("crowd_connections", "connections to PostgreSQL at its end, all processes", connections),
        *(measure for how, one in ways.items() for measure in _of_way(how, one)),
    ]


def _of_way(how: str, found: llm_calls.Cost) -> list[Measure]:
    what = f"HTTP of {CROWD} calls at once, {WAYS[how]}"
    return [
        Measure(f"crowd_{how}_cpu_ms", f"{what}: CPU of a call", found.cpu_ms, "ms"),
        Measure(f"crowd_{how}_mib", f"{what}: memory", found.mib, "MiB"),
    ]


def percentile(ordered: list[float], share: float) -> float:
    """The value that this share of the ordered values does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Killed:
    """What kills left behind: calls that were repeated, those under way, and items whose books disagree."""

    repeated: int
    under_way: int
    disagree: int
    booked_only: int


def _of_kills(kills: int) -> list[Measure]:
    found = _killed(kills)
    return [
        Measure("kills", f"kill -9 of all {PROCESSES} processes", kills),
        Measure("under_way", "calls under way at a kill", found.under_way),
        Measure("repeated", "calls that were repeated", found.repeated, "", float(found.under_way), at_most=True),
        Measure("disagree", "items whose calls and ledger disagree", found.disagree, "", 0.0, at_most=True),
        Measure("booked_only", "calls under way that were booked and not sent yet", found.booked_only),
    ]


def _killed(kills: int) -> Killed:
    """Kill all workers at random moments of their work; then compare our calls with the ledger, item by item."""
    draw = random.Random(4)
    items = some_items(200 + 100 * kills, seed=4)
    settings = {"llm_deadline_s": "5", "stand_still_s": "2", "tick_every_s": "1"}
    with lane(Limits(RPM), items, **settings) as running:
        running.submit(items)
        for _ in range(kills):
            served = running.ledger()["served"]
            running.start()
            running.until(lambda served=served: running.ledger()["served"] > served, "calls after a kill")
            time.sleep(draw.uniform(0.0, 2.0))
            running.end(signal.SIGKILL)
        running.start()
        running.until(lambda: running.count("SELECT count(*) FROM items WHERE state <> 'done'") == 0, "all outcomes")
        running.until(lambda: running.count("SELECT count(*) FROM calls WHERE state = 'sent'") == 0, "all bills")
        rows = running.rows(
            "SELECT items.key, count(*) FILTER (WHERE calls.state = 'answered') AS answered,"
            "       count(*) FILTER (WHERE calls.state = 'unknown') AS unknown"
            "  FROM calls JOIN items ON items.id = calls.item_id GROUP BY items.key"
        )
        return of_books({row.key: (row.answered, row.unknown) for row in rows}, running.ledger()["items"])


def of_books(calls: Mapping[str, tuple[int, int]], ledger: Mapping[str, int]) -> Killed:
    """Compare our books with the endpoint's.

    Args:
        calls: item → calls that were answered, and calls of which nobody knows, since their worker died.
        ledger: item → requests that the endpoint answered.
    """
    under_way = sum(unknown for _, unknown in calls.values())
    asked = {item: calls.get(item, (0, 0)) for item in {*calls, *ledger}}
    disagree = sum(
        not answered <= ledger.get(item, 0) <= answered + unknown for item, (answered, unknown) in asked.items()
    )
    booked = sum(map(sum, asked.values()))
    return Killed(sum(ledger.values()) - len(ledger), under_way, disagree, booked - sum(ledger.values()))


if __name__ == "__main__":
    command.main(benchmark, __doc__)
