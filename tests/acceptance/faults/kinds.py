"""What can go wrong. Each kind does it, ends it, and says which lanes must flow again after which moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
from psycopg import sql

from datashunt.broker import CONFIRM_S
from datashunt.embedded import process
from datashunt.items import Wake
from datashunt.store.migrate import LOCK_TIMEOUT, PAUSE_S
from tests.acceptance.faults.plant import Plant, Unit

TERM_S = 30.0
"""`shutdown_timeout_s` of the supervisor: who is asked to end has so long."""


STARTED_S = 8.0
"""A program that still reads its modules ends at once with SIGTERM, and has nothing in hand."""


class Violated(Exception):
    """Something that was promised is not so."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. `do` returns when it is over. `flows`: the lanes whose flow is waited for after it."""

    name: str
    do: Callable[[Plant, random.Random], None]
    flows: tuple[str, ...] = ("score", "llm")


def _victims(plant: Plant, rng: random.Random, lane: str) -> list[Unit]:
    """One process of a lane, or all of them; of the distil lane, one that is distilling."""
    if lane == "distil" and (distilling := plant.distilling()):
        plant.met["faults of the distil lane that hit a running distillation"] += 1
        return distilling
    running = plant.of(lane)
    rng.shuffle(running)
    return running if rng.random() < 0.5 else running[:1]


def killed(lane: str) -> Callable[[Plant, random.Random], None]:
    """SIGKILL at a random moment."""

    def do(plant: Plant, rng: random.Random) -> None:
        time.sleep(rng.random())
        if lane == "llm":
            plant.note_in_flight()
        for unit in _victims(plant, rng, lane):
            unit.kill()

    return do


def asked_to_end(lane: str) -> Callable[[Plant, random.Random], None]:
    """SIGTERM at a random moment: it ends in time, with code 0 unless it knows no signal, as a producer."""

    def do(plant: Plant, rng: random.Random) -> None:
        time.sleep(rng.random())
        expected = 0 if lane not in ALONE else -signal.SIGTERM
        process.wait_until(lambda: any(map(_is_up, plant.of(lane))), 3 * STARTED_S)
        units = [one for one in _victims(plant, rng, lane) if _is_up(one)]
        plant.met["SIGTERMs that met nobody"] += not units
        for unit in units:
            unit.held = True
            unit.ordered.add(expected)
            assert unit.process is not None
            unit.process.send_signal(signal.SIGTERM)
        try:
            for unit in units:
                _ends_well(unit, expected)
        finally:
            for unit in units:
                unit.held = False

    return do


def _is_up(unit: Unit) -> bool:
    return time.monotonic() - unit.started > STARTED_S


def _ends_well(unit: Unit, expected: int) -> None:
    assert unit.process is not None
    ended = threading.Event()
    code: list[int] = []

    def wait() -> None:
        assert unit.process is not None
        code.append(unit.process.wait())
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    if not ended.wait(TERM_S):
        raise Violated(f"{unit.name} did not end within {TERM_S:.0f} s of SIGTERM")
    if code[0] != expected:
        raise Violated(f"{unit.name} ended with code {code[0]} after SIGTERM")


def stopped(lane: str, seconds: float) -> Callable[[Plant, random.Random], None]:
    """SIGSTOP for longer than the lane's leases; the campaign goes on meanwhile.

    Another process of the lane is awake: nobody can work in a lane in which all sleep.
    """

    def do(plant: Plant, rng: random.Random) -> None:
        least = 1 if lane in ALONE else 2
        if not process.wait_until(lambda: len(plant.of(lane)) >= least, 2 * seconds):
            raise Violated(f"{lane}: no {least} processes run")
        running = plant.of(lane)
        if lane == "distil":
            running = [one for one in _victims(plant, rng, lane) if one in running] or running
        unit = rng.choice(running)
        if lane == "llm":
            plant.note_in_flight()
        unit.stopped = True
        victim = unit.process
        assert victim is not None
        victim.send_signal(signal.SIGSTOP)

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                victim.send_signal(signal.SIGCONT)
            unit.stopped = False

        timer = threading.Timer(seconds, go_on)
        timer.daemon = True
        timer.start()

    return do


def _again(plant: Plant) -> None:
    """Start the servers that were killed, on their ports; PostgreSQL may need more than one try after -9."""
    plant.stack.start()


def broker_killed(empty: bool) -> Callable[[Plant, random.Random], None]:
    """The broker dies, and comes back with or without what it held."""

    def do(plant: Plant, rng: random.Random) -> None:
        plant.kill_server("valkey-server", signal.SIGKILL, empty=empty)
        time.sleep(rng.uniform(0, 3))
        _again(plant)

    return do


def broker_full(plant: Plant, rng: random.Random) -> None:
    """No memory left: it reads, and refuses every write."""
    assert plant.settings.broker_url is not None
    with redis.Redis.from_url(plant.settings.broker_url.get_secret_value()) as broker:
        broker.config_set("maxmemory", "1kb")
        try:
            time.sleep(rng.uniform(3, 6))
        finally:
            broker.config_set("maxmemory", "0")


def postgres_ended(how: signal.Signals) -> Callable[[Plant, random.Random], None]:
    """PostgreSQL dies, or is restarted in good order."""

    def do(plant: Plant, rng: random.Random) -> None:
        plant.kill_server("postgres", how)
        time.sleep(rng.uniform(0, 3))
        _again(plant)

    return do


@contextlib.contextmanager
def _server_setting(plant: Plant, name: str, value: str) -> Iterator[None]:
    with plant.connect() as admin:
        admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")  # type: ignore[arg-type]
        admin.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            admin.execute(f"ALTER SYSTEM RESET {name}")  # type: ignore[arg-type]
            admin.execute("SELECT pg_reload_conf()")


def setting(name: str, value: str) -> Callable[[Plant, random.Random], None]:
    """A setting of PostgreSQL that lets nobody work."""

    def do(plant: Plant, rng: random.Random) -> None:
        with _server_setting(plant, name, value):
            time.sleep(rng.uniform(2, 5))

    return do


def _drop_connections(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'datashunt'")


def connections_cut(plant: Plant, rng: random.Random) -> None:
    """Every connection is ended at once, in whatever it was doing; several times."""
    with plant.connect() as admin:
        for _ in range(rng.randint(1, 4)):
            _drop_connections(admin)
            time.sleep(rng.random() * 0.3)


def no_connections(plant: Plant, rng: random.Random) -> None:
    """Others take all the connections that there are."""
    with contextlib.ExitStack() as taken, plant.connect() as admin:
        _drop_connections(admin)
        until = time.monotonic() + rng.uniform(3, 5)
        while time.monotonic() < until:
            try:
                taken.enter_context(contextlib.closing(plant.connect()))
            except psycopg.OperationalError:
                _drop_connections(admin)
                time.sleep(0.05)


def endpoint(mode: str) -> Callable[[Plant, random.Random], None]:
    """The LLM fails for everybody, or answers nobody."""

    def do(plant: Plant, rng: random.Random) -> None:
        plant.endpoint.mode = mode
        try:
            time.sleep(rng.uniform(3, 7))
        finally:
            plant.endpoint.mode = "up"

    return do


_NOT_WRITTEN = "SELECT count(*) FROM distillations WHERE error LIKE '%%cannot be written%%'"


def disk_full(plant: Plant, rng: random.Random) -> None:
    """No room in the folder of the bundles, from before a challenger is published until one could not be."""
    filler = plant.models / "filler"
    before = plant.one(_NOT_WRITTEN)
    try:
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(65_536))
                file.flush()
        met = process.wait_until(lambda: plant.one(_NOT_WRITTEN) > before, rng.uniform(9, 15))
        plant.met["full disks that a distillation met"] += met
    finally:
        filler.unlink(missing_ok=True)


def bundle_spoiled(how: Callable[[Path], None]) -> Callable[[Plant, random.Random], None]:
    """A file of the bundle that serves is spoiled, on the shared folder and in this host's cache, then put right.

    Workers have it loaded, so that they are started anew.
    """

    def do(plant: Plant, rng: random.Random) -> None:
        uri = plant.one("SELECT uri FROM bundles JOIN classifiers c ON c.incumbent_id = bundles.id LIMIT 1")
        if uri is None:
            plant.met["bundles to be spoiled that were not there"] += 1
            return
        cached = plant.settings.data_dir / "cache" / "bundles"
        files = [*Path(uri).rglob("*.safetensors"), *cached.rglob("*.safetensors")]
        before = {file: file.read_bytes() for file in files}
        for file in files:
            how(file)
        for unit in plant.of("score"):
            unit.kill()
        time.sleep(rng.uniform(4, 8))
        for file, content in before.items():
            if file.parent.is_dir():
                file.write_bytes(content)

    return do


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _altered(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 0xFF]))


def repeated_messages(plant: Plant, rng: random.Random) -> None:
    """Old messages again, many times and in any order: for items, asks and distillations that are over."""
    wakes = []
    for _ in range(20):
        first = rng.randint(1, max(1, plant.submitted()))
        ids = tuple(range(first, first + rng.randint(1, 50)))
        for name in ("tone", "purse"):
            wakes += [Wake("score", name, ids), Wake("llm", name, ids)]
            wakes += [Wake("distil", name, (first,)), Wake("certify", name, (first,))]
    rng.shuffle(wakes)
    plant.runtime.publisher.publish(wakes)


def clock_jumps(plant: Plant, rng: random.Random) -> None:
    """The clock of the second host, which is wrong all the time, is set back or ahead by up to two hours."""
    plant.clock.set(rng.choice((-2, -0.5, 0, 0.5, 2)))
    time.sleep(rng.uniform(2, 4))


def migrated(plant: Plant, rng: random.Random) -> None:
    """A migration that expands runs while workers run: it locks every table, and each has a column more afterwards.

    It waits for locks, and is begun again, as `datashunt db upgrade` does; longer than that, since a worker that is
    stopped in the middle of a transaction holds its locks until it goes on.
    """
    column = f"later_{rng.randrange(10**6)}"
    tables = [row[0] for row in plant.rows(_TABLES)]
    until = time.monotonic() + 2 * max(STOP_S.values())
    while time.monotonic() < until:
        try:
            with plant.connect() as operator, operator.transaction():
                operator.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                for table in tables:
                    operator.execute(_sql("ALTER TABLE {} ADD COLUMN {} text", table, column))
                time.sleep(rng.uniform(0.5, 2))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            plant.met["migrations that were begun again"] += 1
            time.sleep(PAUSE_S)
        else:
            break
    else:
        raise Violated("the migration found no moment")
    plant.met["migrations while workers ran"] += 1


_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
_TABLES += " AND NOT relispartition AND relname <> 'alembic_version' ORDER BY 1"


def _sql(statement: str, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*map(sql.Identifier, names))  # type: ignore[arg-type]  # only ours


def line_cut(plant: Plant, rng: random.Random) -> None:
    """Every connection to the broker ends, and none is let through for a while."""
    assert plant.link is not None
    plant.link.cut()
    try:
        time.sleep(rng.uniform(0, 4))
    finally:
        plant.link.mend()


def answers_lost(plant: Plant, rng: random.Random) -> None:
    """The broker takes what it is sent and confirms nothing, at times for longer than anybody waits for it."""
    assert plant.link is not None
    plant.link.hold()
    try:
        time.sleep(rng.uniform(1, 1.5 * CONFIRM_S))
    finally:
        plant.link.mend()


LANES = ("score", "llm", "distil", "beat", "producer", "people")
ALONE = ("producer", "people")
_FLOWS = {"score": ("score",), "llm": ("llm",), "distil": ("distil", "score", "llm"), "producer": ("intake",)}
STOP_S = {"score": 6.0, "llm": 36.0, "distil": 12.0, "beat": 6.0, "producer": 6.0, "people": 6.0}
DISK_FULL = Kind("models: disk full", disk_full)
KINDS = (
    *(Kind(f"{lane}: kill -9", killed(lane), _FLOWS.get(lane, ("score", "llm"))) for lane in LANES),
    *(Kind(f"{lane}: SIGTERM", asked_to_end(lane), _FLOWS.get(lane, ("score", "llm"))) for lane in LANES),
    *(
        Kind(f"{lane}: SIGSTOP {STOP_S[lane]:g} s", stopped(lane, STOP_S[lane]), _FLOWS.get(lane, ("score", "llm")))
        for lane in LANES
    ),
    Kind("broker: kill -9", broker_killed(empty=False), ("score", "llm", "intake")),
    Kind("broker: kill -9, comes back empty", broker_killed(empty=True), ("score", "llm", "intake")),
    Kind("broker: out of memory", broker_full, ("score", "llm", "intake")),
    Kind("PostgreSQL: kill -9", postgres_ended(signal.SIGKILL), ("score", "llm", "intake")),
    Kind("PostgreSQL: restart", postgres_ended(signal.SIGINT), ("score", "llm", "intake")),
    Kind("PostgreSQL: read-only", setting("default_transaction_read_only", "on"), ("score", "llm", "intake")),
    Kind("PostgreSQL: statement timeout 1 ms", setting("statement_timeout", "1ms"), ("score", "llm", "intake")),
    Kind("PostgreSQL: transaction timeout 2 ms", setting("transaction_timeout", "2ms"), ("score", "llm", "intake")),
    Kind("PostgreSQL: connections cut", connections_cut, ("score", "llm", "intake")),
    Kind("PostgreSQL: out of connections", no_connections, ("score", "llm", "intake")),
    Kind("LLM: 503", endpoint("down")),
    Kind("LLM: hangs", endpoint("hangs")),
    DISK_FULL,
    Kind("bundle: file cut short", bundle_spoiled(_cut), ("score",)),
    Kind("bundle: file altered", bundle_spoiled(_altered), ("score",)),
    Kind("messages repeated and reordered", repeated_messages),
    Kind("clock of the second host jumps", clock_jumps),
    Kind("PostgreSQL: migrated meanwhile", migrated, ("score", "llm", "intake")),
)
GIVEN_BROKER = (
    Kind("broker: unreachable", line_cut, ("score", "llm", "intake")),
    Kind("broker: does not answer", answers_lost, ("score", "llm", "intake")),
)


def kinds(plant: Plant) -> tuple[Kind, ...]:
    """All that can be done to this plant: a broker that was given is nobody's to kill, nor a large disk to fill."""
    able = tuple(kind for kind in KINDS if plant.small or kind is not DISK_FULL)
    if plant.link is None:
        return able
    return (*(kind for kind in able if not kind.name.startswith("broker:")), *GIVEN_BROKER)
