"""One campaign: faults in a seeded order, the invariants after each, and everything counted at the end."""

from __future__ import annotations

import json
import random
import re
import socket
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from datashunt import doctor
from datashunt.embedded import process
from datashunt.errors import DatashuntError
from datashunt.pipeline import liveness
from tests.acceptance.faults.kinds import Kind, Violated, kinds
from tests.acceptance.faults.plant import DISTIL_LEASE_S, Plant, plant

RECOVERY_S = 15.0
PATIENCE_S = 60.0
WARM_S = 60.0
DRAIN_S = 180.0
EXCESS = 1.02
_FLOW = {
    "score": "SELECT EXISTS (SELECT FROM scores WHERE created_at > to_timestamp(%s::float8))"
    " OR EXISTS (SELECT FROM asks WHERE created_at > to_timestamp(%s::float8))",
    "llm": "SELECT EXISTS (SELECT FROM answers WHERE created_at > to_timestamp(%s::float8))",
    # who had a distillation when the fault was over has renewed its lease since, or it has ended
    "distil": "SELECT NOT EXISTS (SELECT FROM distillations WHERE state = 'running'"
    f" AND lease_until < to_timestamp(%s::float8) + interval '{DISTIL_LEASE_S:g} seconds')",
    "intake": "SELECT EXISTS (SELECT FROM submissions WHERE created_at > to_timestamp(%s::float8))",
}


@dataclass(frozen=True, slots=True)
class Orders:
    """How large a campaign is. Items come evenly over the time; faults that are left when it is over are not done.

    With `broker`, the URL of a RabbitMQ or a Redis, that one is used, and its connections are cut.
    """

    seed: int = 1
    faults: int = 200
    items: int = 5_000
    minutes: float = 30.0
    only: str = ""
    broker: str | None = None


@dataclass
class Report:
    """What a campaign found."""

    orders: Orders
    done: Counter[str] = field(default_factory=Counter)
    recovered: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    violations: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    raised: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """For people."""
        rows = [f"{'fault':<38} {'times':>5} {'median':>7} {'longest':>8}"]
        for kind, count in sorted(self.done.items()):
            took = self.recovered.get(kind)
            times = f"{statistics.median(took):>6.1f}s {max(took):>7.1f}s" if took else ""
            rows.append(f"{kind:<38} {count:>5} {times}")
        rows += [f"{name}: {value}" for name, value in self.figures.items()]
        rows += [f"raised {count} times: {what}" for what, count in self.raised.most_common(15)]
        rows += [f"SLOW: {one}" for one in self.slow]
        return rows + ([f"VIOLATED: {one}" for one in self.violations] or ["nothing was violated"])


def run(orders: Orders) -> Report:
    """Run a campaign to its end."""
    report = Report(orders)
    began = time.monotonic()
    with plant(orders.items, orders.broker) as made:
        try:
            made.start(orders.items, every_s=orders.minutes * 60 * 0.9 / orders.items)
            _until(lambda: _flows(made, "llm", time.time()), WARM_S)
            _faults(made, orders, report, began + orders.minutes * 60)
            _drain(made, report)
            _judge(made, report)
        finally:
            report.figures["seconds"] = round(time.monotonic() - began)
            report.raised = raised(made)
            if report.violations or sys.exc_info()[0]:
                _keep_logs(made, orders)
    return report


def _faults(made: Plant, orders: Orders, report: Report, until: float) -> None:
    rng = random.Random(orders.seed)
    all_ = [kind for kind in kinds(made) if orders.only in kind.name]
    order: list[Kind] = []
    for number in range(orders.faults):
        if time.monotonic() > until:
            return
        if not order:
            order = rng.sample(all_, len(all_))
        _one(made, order.pop(), rng, report, number)


def _one(made: Plant, kind: Kind, rng: random.Random, report: Report, number: int) -> None:
    try:
        kind.do(made, rng)
    except Violated as error:
        report.violations.append(f"{kind.name}: {error}")
    report.done[kind.name] += 1
    over = time.time()
    flows = kind.flows if made.submitted() < report.orders.items else ()  # nothing comes any more
    for lane in flows:
        if not _until(lambda lane=lane: _flows(made, lane, over), PATIENCE_S):  # type: ignore[misc]
            report.violations.append(f"{kind.name} ({number}): the {lane} lane stands still for {PATIENCE_S:.0f} s")
    took = time.time() - over
    if flows:
        report.recovered[kind.name].append(took)
    if took > RECOVERY_S:
        report.slow.append(f"{kind.name} ({number}): {took:.1f} s until all flowed again")
    made.end_leases_of_batches()
    sys.stderr.write(f"{number:4} {kind.name}: {took:.1f} s; {made.submitted()} items\n")
    _sound(made, report, f"{kind.name} ({number})")


def _sound(made: Plant, report: Report, when: str) -> None:
    report.violations += [
        f"{when}: {found.what}: {found.detail}" for found in doctor.examine_data(made.patient) if not found.ok
    ]


def _flows(made: Plant, lane: str, since: float) -> bool:
    statement = _FLOW[lane]
    try:
        return bool(made.one(statement, *[since] * statement.count("%s")))
    except psycopg.Error:
        return False


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    return process.wait_until(condition, timeout_s)


def _drain(made: Plant, report: Report) -> None:
    """All submitted, all done or dead; what is dead is told, and tried again."""
    left = "SELECT (SELECT count(*) FROM items WHERE state NOT IN ('done', 'dead'))"
    left += " + (SELECT count(*) FROM asks WHERE state IN ('waiting', 'calling'))"
    total = report.orders.items
    if not _until(lambda: made.submitted() >= total, total * 0.2 + DRAIN_S):
        report.violations.append(f"the producer has receipts for {made.submitted()} of {total} items only")
    if not _until(lambda: _left(made, left) == 0, DRAIN_S):
        report.violations.append(f"{made.one(left)} items and asks are still open {DRAIN_S:.0f} s after the last fault")
    report.figures["dead letters"] = made.one("SELECT count(*) FROM dead_letters WHERE replayed_at IS NULL")


def _left(made: Plant, statement: str) -> int:
    made.end_leases_of_batches()
    time.sleep(0.3)
    return int(made.one(statement))


def _judge(made: Plant, report: Report) -> None:
    _sound(made, report, "at the end")
    figures = report.figures
    figures[f"recoveries of more than {RECOVERY_S:.0f} s"] = len(report.slow)
    figures["clock of the second host"] = "wrong" if made.clock.wrong else "right: libfaketime cannot be loaded here"
    if not made.small:
        figures["no disk was filled"] = "a small file system cannot be mounted here"
    figures.update(made.met)
    figures["faults"] = report.done.total()
    figures["items"] = made.one("SELECT count(*) FROM items")
    figures["outcomes, but for people's"] = made.one("SELECT count(*) FROM outcomes WHERE source <> 'human'")
    figures["labels of people"] = made.one("SELECT count(*) FROM outcomes WHERE source = 'human'")
    figures["asks with fewer labels, or a prior"] = made.one(
        "SELECT count(*) FROM asks WHERE offered IS NOT NULL OR prior IS NOT NULL"
    )
    figures["batches"] = dict(made.rows("SELECT ended_as, count(*) FROM batches GROUP BY 1 ORDER BY 1"))
    figures["calls of batches"] = made.one("SELECT count(*) FROM calls WHERE batch_id IS NOT NULL")
    figures["trials, certificates"] = made.rows(
        "SELECT (SELECT count(*) FROM trials), (SELECT count(*) FROM certificates WHERE trial_id IS NOT NULL)"
    )[0]
    done = made.one("SELECT count(*) FROM items WHERE state = 'done'")
    figures["bundles promoted"] = made.one("SELECT count(*) FROM promotions")
    figures["kept by the small model"] = made.one("SELECT count(*) FROM items WHERE source = 'small'")
    figures["distillations"] = dict(made.rows("SELECT state, count(*) FROM distillations GROUP BY 1 ORDER BY 1"))
    for name, count, wanted in (
        ("items", figures["items"], made.submitted()),
        ("outcomes, but for people's", figures["outcomes, but for people's"], done),
        ("done or dead", done + made.one("SELECT count(*) FROM items WHERE state = 'dead'"), figures["items"]),
    ):
        if count != wanted:
            report.violations.append(f"{name}: found {count}, expected {wanted}")
    _count_calls(made, report)
    for unit in made.units.values():
        if unit.crashed:
            report.violations.append(f"{unit.name} ended by itself {len(unit.crashed)} times, codes {unit.crashed[:5]}")
    for queue in liveness.QUEUES:
        found = liveness.examine(made.runtime.store, made.runtime.publisher, made.settings, queue, socket.gethostname())
        if not found.ok:
            report.violations.append(f"at the end: {found.why}")
    for unit in [one for lane in ("score", "llm", "distil", "beat") for one in made.of(lane)]:
        try:
            _end(unit)
        except Violated as error:
            report.violations.append(f"at the end: {error}")


def _end(unit: Any) -> None:
    from tests.acceptance.faults.kinds import _ends_well

    unit.held = True
    unit.ordered.add(0)
    unit.process.terminate()
    _ends_well(unit, 0)


def _count_calls(made: Plant, report: Report) -> None:
    """What the endpoint has served, against what was asked, and what faults cut off while it was under way."""
    figures = report.figures
    asked = made.one("SELECT count(*) FROM answers WHERE reused_from IS NULL")
    served = int(made.simulator.ledger["served"])
    figures["LLM calls served"], figures["asked"] = served, asked
    figures["in flight when a worker was killed or stopped"] = made.in_flight
    figures["held by an LLM that hung"] = made.endpoint.held
    figures["calls booked as unknown"] = made.one("SELECT count(*) FROM calls WHERE state = 'unknown'")
    most = EXCESS * asked + made.in_flight + made.endpoint.held
    if served > most:
        report.violations.append(f"the LLM was called {served} times, expected at most {most:.0f}")
    if made.one("SELECT count(*) FROM calls WHERE state = 'sent'"):
        report.violations.append("calls were never settled")


_ERROR = re.compile(r"^(?:[a-z_]+\.)*([A-Za-z_]*(?:Error|Exception|Timeout|Lost)[A-Za-z_]*)(?::|$)")


def raised(made: Plant) -> Counter[str]:
    """What ended tasks or processes, by process and last line of its traceback, as their logs tell."""
    found: Counter[str] = Counter()
    for unit in made.units.values():
        if unit.log.exists():
            for line in unit.log.read_text(errors="replace").splitlines():
                what = _raised(line)
                if what is not None:
                    found[f"{unit.lane}: {what}"] += 1
    return found


def _raised(line: str) -> str | None:
    if line.startswith("{"):
        try:
            record = json.loads(line)
        except ValueError:
            return None
        trace = record.get("traceback")
        return str(trace).strip().splitlines()[-1][:140] if trace else None
    return line[:140] if _ERROR.match(line) else None


def _keep_logs(made: Plant, orders: Orders) -> None:
    kept = made.folder.parent / f"datashunt-faults-{orders.seed}-logs"
    kept.mkdir(exist_ok=True)
    for log in [*(made.folder / "logs").glob("*.log"), *made.stack.folder.logs.glob("*.log")]:
        (kept / log.name).write_bytes(log.read_bytes())
    sys.stderr.write(f"logs: {kept}\n")


def attempt(orders: Orders) -> Report:
    """Run, and turn an error of ours into a violation.

    Raises:
        SystemExit: there are no servers to run on.
    """
    try:
        return run(orders)
    except DatashuntError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
