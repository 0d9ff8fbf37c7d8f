"""What a campaign runs on: servers, two workers of each lane, two beats, a producer, people, and a simulated LLM.

The second of each seems to run on another host, whose clock is wrong. A broker that is given is reached over a line
that can be cut; PostgreSQL and the store of the quota are the campaign's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from datashunt import classifier, prompts
from datashunt.bootstrap import Runtime
from datashunt.demo.run import environment
from datashunt.embedded import Stack, postgres, process, worker_commands
from datashunt.llm.batches import TRANSFER_S
from datashunt.settings import Settings
from datashunt.simulator import Options, Request, Response, Simulator, error
from datashunt.store import classifiers, migrate
from tests.acceptance.faults import stream
from tests.acceptance.faults.clock import Clock
from tests.acceptance.faults.link import Link
from tests.tiny import tiny_base
from tests.words import LABELS

MODELS_KB = 4_096
RESTART_S = 0.5
LLM_THREADS = 4
CONNECTIONS = 90
PEOPLE_S = 3.0
DISTIL_LEASE_S = 10.0
DISTILS_WITHIN_S = 8.0
"""How long a fault of the distil lane waits for a distillation that it can hit."""


@dataclass
class Unit:
    """One process that is kept running.

    Attributes:
        env: what it has beside the settings.
        held: a fault has it, and nobody starts it again meanwhile.
        stopped: it got SIGSTOP.
        started: when, monotonic.
        ordered: codes with which it may end, since somebody killed it or asked it to end.
        crashed: codes with which it ended though nobody had.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    held: bool = False
    stopped: bool = False
    due_at: float = 0.0
    started: float = 0.0
    ordered: set[int] = field(default_factory=set)
    crashed: list[int] = field(default_factory=list)

    @property
    def lane(self) -> str:
        return self.name.partition("-")[0]

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.ordered.add(-signal.SIGKILL)
        self.process.kill()


class Endpoint:
    """What the simulated LLM does beyond answering: nothing, fail, or keep everybody waiting."""

    def __init__(self) -> None:
        self.mode = "up"
        self.held = 0

    def __call__(self, _: Request) -> Response | None:
        if self.mode == "down":
            return error(503, "out of order", kind="server_error")
        if self.mode == "hangs":
            self.held += 1
            until = time.monotonic() + 30
            while self.mode == "hangs" and time.monotonic() < until:
                time.sleep(0.05)
        return None


class Plant:
    """Everything, running. Faults are done to it from the main thread."""

    def __init__(
        self,
        folder: Path,
        models: Path,
        stack: Stack,
        settings: Settings,
        simulator: Simulator,
        endpoint: Endpoint,
        link: Link | None,
        *,
        small: bool,
    ) -> None:
        self.folder = folder
        self.models = models
        self.stack = stack
        self.settings = settings
        self.simulator = simulator
        self.endpoint = endpoint
        self.link = link
        self.small = small
        """Whether the folder of the models has a little room of its own, which may be filled."""
        self.clock = Clock(folder / "clock")
        self.met: Counter[str] = Counter()
        # a busy machine may starve the campaign itself for longer than the leases of its workers
        self.patient = settings.model_copy(update={"score_lease_s": 60.0})
        self.runtime = Runtime(self.patient, pool_size=2)
        self.units: dict[str, Unit] = {}
        self.progress = folder / "progress"
        self.in_flight = 0
        self._env = {**os.environ, **environment(settings)}
        self._end = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper")

    # processes

    def start(self, count: int, every_s: float) -> None:
        """Start all of them; from now on they are started again when they end."""
        self.progress.write_text("0")
        commands = {one.name: one.argv for one in worker_commands(self.settings.data_dir, llm_threads=LLM_THREADS)}
        for lane in ("score", "llm", "distil", "beat"):
            for number, env in ((1, {}), (2, self.clock.env)):
                self._add(f"{lane}-{number}", [word.replace("@%h", f"-{number}@%h") for word in commands[lane]], env)
        python = [sys.executable, "-m", "tests.acceptance.faults"]
        producer = [*python[:2], f"{python[2]}.stream", "--count", str(count), "--progress", str(self.progress)]
        self._add("producer", [*producer, "--began", str(time.time()), "--every-s", str(every_s)], {})
        self._add("people", [*python[:2], f"{python[2]}.people", "--every-s", str(PEOPLE_S)], self.clock.env)
        self._keeper.start()

    def _add(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.units[name] = Unit(name, argv, self.folder / "logs" / f"{name}.log", env)

    def _keep(self) -> None:
        while not self._end.wait(0.1):
            for unit in self.units.values():
                self._look(unit, time.monotonic())

    def _look(self, unit: Unit, now: float) -> None:
        if unit.held or unit.runs:
            return
        if unit.process is not None:
            code = unit.process.wait()
            if code not in unit.ordered:
                unit.crashed.append(code)
            unit.process = None
            unit.ordered.clear()
            unit.due_at = now + RESTART_S
        elif now >= unit.due_at:
            env = {**self._env, **unit.env}
            unit.process = process.spawn(unit.argv, log=unit.log, death_signal=signal.SIGKILL, env=env)
            unit.stopped, unit.started = False, now

    def of(self, lane: str) -> list[Unit]:
        """The running processes of a lane that nothing is done to."""
        return [one for one in self.units.values() if one.lane == lane and one.runs and not one.held | one.stopped]

    def close(self) -> None:
        """End everything, by force where it must be."""
        self._end.set()
        if self._keeper.ident is not None:
            self._keeper.join()
        for unit in self.units.values():
            if unit.process is not None:
                process.kill_session(unit.process)
                unit.process.wait()
        self.runtime.close()

    # servers

    def server(self, name: str) -> int:
        """The pid of `postgres` (its head) or `valkey-server`."""
        folder = self.stack.folder.postgres if name == "postgres" else self.stack.folder.valkey
        found = process.found_in(folder, name)
        members = {one.pid for one in found}
        return int(next(one.pid for one in found if one.ppid() not in members))

    def kill_server(self, name: str, how: signal.Signals, *, empty: bool = False) -> None:
        """End a server, and wait until it is gone."""
        os.kill(self.server(name), how)
        folder = self.stack.folder.postgres if name == "postgres" else self.stack.folder.valkey
        process.wait_until(lambda: not process.found_in(folder, name), 20.0)
        if empty:
            shutil.rmtree(self.stack.folder.valkey / "appendonlydir", ignore_errors=True)

    # looking

    @property
    def database(self) -> str:
        assert self.settings.database_url is not None
        return self.settings.database_url.get_secret_value()

    def connect(self) -> psycopg.Connection[Any]:
        """A connection that may write whatever the server's defaults are, and whose statements have time."""
        options = "-c default_transaction_read_only=off -c statement_timeout=0 -c transaction_timeout=0"
        return psycopg.connect(self.database, autocommit=True, options=options, application_name="campaign")

    def one(self, statement: str, *values: Any) -> Any:
        """The one value that a query finds, or None."""
        rows = self.rows(statement, *values)
        return rows[0][0] if rows else None

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a query finds."""
        with self.connect() as connection:
            return connection.execute(statement, values).fetchall()  # type: ignore[arg-type]

    def note_in_flight(self) -> None:
        """Count live calls that the next fault may cut off; what a batch asks is never asked again by another one."""
        self.in_flight += int(self.one("SELECT count(*) FROM calls WHERE state = 'sent' AND batch_id IS NULL"))

    def end_leases_of_batches(self) -> None:
        """Let a lease of a batch be as long as that of an ask: that of a dead worker is five minutes longer."""
        self.rows(
            "UPDATE batches SET lease_until = now() WHERE lease_until > now()"
            " AND lease_until < now() + make_interval(secs => %s) RETURNING id",
            TRANSFER_S,
        )

    def distilling(self) -> list[Unit]:
        """The processes that hold a distillation just now; waits a while for one."""
        found: list[Unit] = []

        def look() -> bool:
            nonlocal found
            runs = self.one("SELECT count(*) FROM distillations WHERE state = 'running' AND lease_until > now()")
            found = [one for one in self.of("distil") if runs and _trains(one)]
            return bool(found)

        process.wait_until(look, DISTILS_WITHIN_S)
        return found

    def submitted(self) -> int:
        """Items whose producer has its receipt."""
        return int(self.progress.read_text() or 0)


def _trains(unit: Unit) -> bool:
    """Whether the last distillation that its log speaks of has not ended."""
    said = unit.log.read_text(errors="replace").splitlines() if unit.log.exists() else []
    events = [line for line in said[-200:] if '"distilling"' in line or '"distilled"' in line]
    return bool(events) and '"distilling"' in events[-1]


def _apply(runtime: Runtime, base: str) -> None:
    common: dict[str, Any] = {"labels": list(LABELS), "instruction": "Tell the tone.", "small_model": {"base": base}}
    common["distil"] = {"every_s": 2.0, "min_new_answers": 60}
    llm = {"model": "teacher", "api": "chat", "input_price": "1", "output_price": "2"}
    often = {"every_s": 1.0, "min_new_answers": 20}
    budget = {"mode": "budget", "calls_per_day": 1_000_000, "audit_rate": 0.1}
    target = {"mode": "target", "alpha": 0.2, "delta": 0.5, "audit_rate": 0.2}
    hard, both = ({"pruning": how, "coverage": 0.9} for how in ("hard", "both"))
    parts: tuple[dict[str, Any], ...] = (
        {"policy": {"threshold": 0.6, "audit_rate": 0.4}, "prompt": both, "llm": llm},
        {"policy": budget, "prompt": hard, "distil": often, "llm": llm},
        {"policy": target, "llm": llm},
        {"policy": {"threshold": 0.6, "audit_rate": 0.4}, "llm": {**llm, "batch": "only"}},
    )
    documents = [{"name": name, **part} for name, part in zip(stream.CLASSIFIERS, parts, strict=True)]
    for document in documents:
        spec = classifier.parse({**common, **document})
        with runtime.store.begin() as tx:
            classifiers.apply(tx, spec, prompts.prompt_hash(spec))


@contextmanager
def _models(folder: Path) -> Iterator[bool]:
    """A folder; whether it is a small file system of its own, as it is where that may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MODELS_KB}k,mode=0755", "none", str(folder)], check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def plant(count: int, broker: str | None = None) -> Iterator[Plant]:
    """Servers with all classifiers applied, in a folder that is removed at the end; no worker runs yet.

    Args:
        count: of the items that the LLM knows.
        broker: URL of one to use in place of the campaign's own Valkey, which holds the quota then.
    """
    place = Path(tempfile.mkdtemp(prefix="datashunt-faults-"))
    place.chmod(0o755)
    with ExitStack() as all_:
        all_.callback(shutil.rmtree, place, ignore_errors=True)
        (place / "logs").mkdir()
        answers = place / "answers.csv"
        answers.write_text("\n".join(stream.answers(count)) + "\n")
        models = place / "models"
        small = all_.enter_context(_models(models))
        before = dict(postgres.SETTINGS)
        all_.callback(postgres.SETTINGS.update, before)
        postgres.SETTINGS["max_connections"] = str(CONNECTIONS)
        stack = Stack(place / "data")
        all_.callback(stack.stop)
        urls = stack.start()
        endpoint = Endpoint()
        simulator = all_.enter_context(Simulator(Options(answers, latency_ms=50), on_request=endpoint))
        link = all_.enter_context(Link(broker)) if broker else None
        settings = _settings(place, urls, models, simulator)
        if link is not None:
            changes = {"broker_url": SecretStr(link.url), "quota_url": SecretStr(urls.broker)}
            settings = Settings(**{**_given(settings), **changes})
        made = Plant(place, models, stack, settings, simulator, endpoint, link, small=small)
        all_.callback(made.close)
        migrate.upgrade(made.runtime.store)
        _apply(made.runtime, tiny_base(place / "base"))
        yield made


def _given(settings: Settings) -> dict[str, Any]:
    """What was set, so that workers are given the same."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _settings(place: Path, urls: Any, models: Path, simulator: Simulator) -> Settings:
    """Leases as short as they may be, so that a campaign can wait for their end."""
    return Settings(
        database_url=SecretStr(urls.database),
        broker_url=SecretStr(urls.broker),
        models_url=str(models),
        data_dir=place / "data",
        llm_base_url=simulator.base_url,
        llm_api_key=SecretStr("simulation"),
        llm_deadline_s=3.0,
        score_lease_s=4.0,
        distil_lease_s=DISTIL_LEASE_S,
        stand_still_s=2.0,
        batch_gather_s=1.0,
        batch_poll_s=0.5,
        certify_every_s=2.0,
        tick_every_s=0.5,
        reload_every_s=1.0,
        threads=1,
        device="cpu",
    )
