"""The worker process: what it refuses to run on, what it listens to, and how it ticks."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.utils.nodenames import default_nodename
from celery.worker.consumer import consumer
from pydantic import SecretStr

from datashunt import broker
from datashunt.errors import BrokerError, ModelBroken, StoreError, UsageError
from datashunt.items import Wake
from datashunt.settings import Settings
from datashunt.telemetry import JsonLines


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """The module of the Celery app, made with a broker inside this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATASHUNT_BROKER_URL", "memory://")
        importlib.import_module("workers.app").app.loader.import_default_modules()
    return sys.modules["workers.app"]


def start(**env: str) -> subprocess.CompletedProcess[str]:
    """Import the workers in a process of their own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DATASHUNT_")}
    command = [sys.executable, "-c", "import workers"]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "DATASHUNT_BROKER_URL is not set"),
        ({"DATASHUNT_BROKER_URL": "memory://", "DATASHUNT_THREADS": "many"}, "wrong setting: DATASHUNT_THREADS"),
    ],
)
def test_a_worker_with_a_wrong_setting_ends_with_code_2_and_a_sentence(env: dict[str, str], said: str) -> None:
    ended = start(**env)
    assert ended.returncode == 2
    assert ended.stderr.startswith("datashunt: ")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_every_task_is_registered_and_routed_to_a_queue_that_exists(app: ModuleType) -> None:
    ours = {name for name in app.app.tasks if name.startswith("datashunt.")}
    assert ours == {
        "datashunt.score",
        "datashunt.ask",
        "datashunt.batch",
        "datashunt.distil",
        "datashunt.certify",
        "datashunt.submit",
        "datashunt.tick",
    }
    queues = {queue.name for queue in app.app.conf.task_queues}
    assert {name: route["queue"] for name, route in app.app.conf.task_routes.items() if name in ours}.keys() == ours
    assert {route["queue"] for route in app.app.conf.task_routes.values()} <= queues
    assert set(broker.TASKS.values()) <= ours


def test_only_submissions_are_acknowledged_late(app: ModuleType) -> None:
    late = {name for name, task in app.app.tasks.items() if name.startswith("datashunt.") and task.acks_late}
    assert late == {"datashunt.submit"}


@pytest.mark.parametrize(
    ("pool", "queues", "cuda", "refused"),
    [
        ("prefork", {"score"}, True, True),
        ("prefork", {"distil", "llm"}, True, True),
        ("prefork", {"llm"}, True, False),
        ("prefork", {"score"}, False, False),
        ("solo", {"score"}, True, False),
        ("threads", {"score", "distil"}, True, False),
    ],
)
def test_prefork_and_cuda_do_not_go_together(
    app: ModuleType, pool: str, queues: set[str], cuda: bool, refused: bool
) -> None:
    reason = app.refusal(pool, queues, cuda=cuda)
    assert (reason is not None) is refused
    if reason is not None:
        assert "-P solo" in reason


def worker(pool: str, *queues: str, name: str = "worker@host") -> SimpleNamespace:
    """What Celery hands over when a worker has been set up."""
    made = broker.configure(Celery("test", set_as_current=False), SecretStr("memory://"))
    made.amqp.queues.select(queues)
    return SimpleNamespace(app=made, pool_cls=pool, hostname=name)


@pytest.fixture
def servers(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Settings that name servers; nobody connects to them here."""
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "memory://")
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", "postgresql://app@127.0.0.1:9/none")
    monkeypatch.setattr(app, "_runtimes", {})
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")  # not to be set for all tests that follow
    return monkeypatch


@pytest.mark.usefixtures("servers")
def test_the_llm_lane_also_takes_the_intake(app: ModuleType) -> None:
    made = worker("celery.concurrency.thread:TaskPool", "llm")
    app._check_and_listen(made)
    listened = made.app.amqp.queues.consume_from
    assert set(listened) == {"llm", "intake"}
    assert (listened["intake"].exchange.name, listened["intake"].routing_key) == ("datashunt", "intake")


@pytest.mark.parametrize(
    ("queues", "nice"), [(("distil",), [5]), (("score",), []), (("llm",), []), (("score", "distil"), [])]
)
def test_a_worker_that_only_trains_leaves_the_cores_to_those_that_serve(
    app: ModuleType, servers: pytest.MonkeyPatch, tmp_path: Path, queues: tuple[str, ...], nice: list[int]
) -> None:
    asked: list[int] = []
    servers.setattr(os, "nice", asked.append)
    servers.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    servers.setattr(app, "AUTOGROUP", tmp_path / "autogroup")
    servers.setattr(app, "refuses_schema", lambda: False)
    app._check_and_listen(worker("celery.concurrency.solo:TaskPool", *queues))
    assert asked == nice
    assert (tmp_path / "autogroup").exists() == bool(nice)
    assert os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == (app.KERNELS if nice else None)
    servers.setattr(app, "AUTOGROUP", tmp_path / "no such folder" / "autogroup")
    app._check_and_listen(worker("celery.concurrency.solo:TaskPool", *queues))


@pytest.mark.parametrize(
    ("name", "value", "lane", "said"),
    [
        ("DATABASE_URL", None, "score", "DATASHUNT_DATABASE_URL is not set"),
        ("DATABASE_URL", "mysql://app:hidden@127.0.0.1/x", "distil", "DATASHUNT_DATABASE_URL: expected postgresql://"),
        ("LLM_BASE_URL", "127.0.0.1", "llm", "DATASHUNT_LLM_BASE_URL: expected http://"),
        ("LLM_API_KEY", "hidden hidden", "llm", "DATASHUNT_LLM_API_KEY: expected no white space"),
        ("QUOTA_URL", "redis://:hidden@127.0.0.1:port/0", "llm", "DATASHUNT_QUOTA_URL"),
    ],
)
def test_a_worker_that_could_never_work_ends_before_it_takes_a_message(
    app: ModuleType,
    servers: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str | None,
    lane: str,
    said: str,
) -> None:
    servers.delenv(f"DATASHUNT_{name}", raising=False)
    if value is not None:
        servers.setenv(f"DATASHUNT_{name}", value)
    with pytest.raises(SystemExit) as ended:
        app._check_and_listen(worker("celery.concurrency.solo:TaskPool", lane))
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert "hidden" not in told


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    ("lane", "name", "warned"),
    [("score", default_nodename(None), True), ("llm", "celery@host", True), ("score", "score1@celery", False)],
)
def test_a_worker_without_a_name_of_its_own_is_told_to_take_one(
    app: ModuleType, caplog: pytest.LogCaptureFixture, lane: str, name: str, warned: bool
) -> None:
    app._check_and_listen(worker("celery.concurrency.solo:TaskPool", lane, name=name))
    told = [one for one in caplog.records if one.getMessage() == "worker_without_name"]
    assert bool(told) is warned
    for one in told:
        assert one.levelno == logging.WARNING
        assert one.__dict__["fields"]["worker"] == name
        assert f"-n {lane}@%h" in one.__dict__["fields"]["error"]


@pytest.mark.usefixtures("servers")
def test_other_lanes_take_only_their_own(app: ModuleType) -> None:
    made = worker("celery.concurrency.solo:TaskPool", "score")
    app._check_and_listen(made)
    assert set(made.app.amqp.queues.consume_from) == {"score"}


def test_a_refused_worker_ends_with_code_2(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATASHUNT_DEVICE", "cuda")
    with pytest.raises(SystemExit) as ended:
        app._check_and_listen(worker("celery.concurrency.prefork:TaskPool", "score"))
    assert ended.value.code == 2
    assert "CUDA" in capsys.readouterr().err


@pytest.mark.usefixtures("servers")
def test_a_prefork_worker_on_the_cpu_is_not_refused(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_DEVICE", "cpu")
    app._check_and_listen(worker("celery.concurrency.prefork:TaskPool", "score"))


@pytest.mark.parametrize(
    ("argv", "threads"),
    [
        (["celery", "worker", "-c", "16"], 16),
        (["celery", "worker", "-Q", "llm", "-c16"], 16),
        (["celery", "worker", "--concurrency", "8", "-Q", "llm"], 8),
        (["celery", "worker", "--concurrency=12"], 12),
        (["celery", "worker"], 4),
        (["celery", "worker", "-c"], 4),
    ],
)
def test_connections_are_enough_for_the_threads_that_were_asked_for(
    app: ModuleType, argv: list[str], threads: int
) -> None:
    assert app.threads_of(argv) == threads


class FakeRuntime:
    """A runtime whose parts do what a test says."""

    def __init__(self, wakes: Any = (), *, broker_away: bool = False) -> None:
        self.settings, self.store = Settings(), None
        self.published: list[Wake] = []
        self.scorer = self.ticker = SimpleNamespace(run=self._run)
        self.distiller = SimpleNamespace(run=lambda *_, **__: next(self.ended, None))
        self.ended: Iterator[str] = iter(())
        self.publisher = SimpleNamespace(publish=self._publish, publish_again=self._publish)
        self._wakes = wakes
        self._away = broker_away

    def _run(self, *_: Any, **__: Any) -> Any:
        if isinstance(self._wakes, Exception):
            raise self._wakes
        return list(self._wakes)

    def _publish(self, wakes: list[Wake]) -> list[str]:
        if self._away:
            raise BrokerError("away")
        self.published += wakes
        return []


def use(app: ModuleType, monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime) -> FakeRuntime:
    monkeypatch.setattr(app, "_runtimes", {os.getpid(): runtime})
    return runtime


def test_a_tick_publishes_what_it_found(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made = use(app, monkeypatch, FakeRuntime([Wake("score", "mood", (1,))]))
    app.app.tasks["datashunt.tick"]()
    assert made.published == [Wake("score", "mood", (1,))]


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """Our events so far, each with its level."""
    return [(one.getMessage(), one.levelno) for one in caplog.records if one.name == "datashunt"]


@pytest.mark.parametrize(
    ("trouble", "level"),
    [
        (StoreError("away"), logging.INFO),
        (UsageError("a stored classifier cannot be read"), logging.INFO),
        (RuntimeError("a fault of ours"), logging.ERROR),
    ],
)
def test_a_tick_that_fails_does_not_end_the_ticking(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: Exception, level: int
) -> None:
    caplog.set_level(logging.INFO)
    use(app, monkeypatch, FakeRuntime(trouble))
    app.tick_once()
    assert logged(caplog) == [("tick_failed", level)]


@pytest.fixture
def sign(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A worker that ticks and retains all the time, once it has begun to; set by each sign of life."""
    sign, fits = threading.Event(), threading.Event()
    fits.set()
    made = use(app, monkeypatch, FakeRuntime())
    made.settings = made.settings.model_copy(update={"tick_every_s": 0.001})
    monkeypatch.setattr(app, "_stopping", threading.Event())
    monkeypatch.setattr(app, "_fits", fits)
    monkeypatch.setattr(app, "_pulse", SimpleNamespace(report=lambda *_: sign.set()))
    monkeypatch.setattr(app, "RETENTION_LOOK_S", 0.001)
    yield sign
    app._stopping.set()
    for one in threading.enumerate():
        if one.name in {"ticker", "retention"}:
            one.join(10)
            assert not one.is_alive()


def test_while_retention_lasts_a_worker_ticks_and_says_that_it_lives(app: ModuleType, sign: threading.Event) -> None:
    lived: Queue[tuple[bool, bool]] = Queue()

    def retain(stop: Callable[[], bool]) -> None:
        sign.clear()
        lived.put((sign.wait(5), stop()))

    app.runtime().ticker.retain = retain
    app._start_ticking()
    assert lived.get(timeout=10) == (True, False)


@pytest.mark.parametrize("trouble", [StoreError("away"), RuntimeError("a fault of ours")])
def test_retention_that_fails_is_logged_and_tried_again(
    app: ModuleType, sign: threading.Event, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tries: Queue[int] = Queue()

    def retain(stop: Callable[[], bool]) -> None:
        tries.put(len(caplog.records))
        raise trouble

    app.runtime().ticker.retain = retain
    app._start_ticking()
    assert tries.get(timeout=10) < tries.get(timeout=10)
    assert {record.message for record in caplog.records} == {"tick_failed"}


def test_a_broker_that_is_away_does_not_fail_committed_work(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    use(app, monkeypatch, FakeRuntime([Wake("llm", "mood", (1,))], broker_away=True))
    app.app.tasks["datashunt.score"]("mood", [1])
    assert logged(caplog) == [("not_published", logging.INFO)]


def test_after_a_distillation_comes_a_wake_up_for_one_that_it_left_due_and_none_after_that(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = use(app, monkeypatch, FakeRuntime())
    made.ended = iter(["promoted", "rejected"])
    for _ in range(3):
        app.app.tasks["datashunt.distil"]("mood", [7])
    assert made.published == [Wake("distil", "mood", (7,))] * 2
    assert next(made.ended, None) is None


def test_a_worker_that_is_asked_to_stop_wakes_nobody_for_what_it_handed_back(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = use(app, monkeypatch, FakeRuntime())
    made.ended = iter(["stopped"])
    monkeypatch.setattr("workers.distil.stopping", lambda: True)
    app.app.tasks["datashunt.distil"]("mood", [7])
    assert made.published == []
    assert next(made.ended, None) is None


@pytest.fixture
def ends(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a worker that ends sets, for the whole process."""
    monkeypatch.setattr(app, "_stopping", threading.Event())
    monkeypatch.setattr(app, "_pulse", SimpleNamespace(is_of_a_child=False, step=lambda: None))
    ended = SimpleNamespace(should_stop=None)
    monkeypatch.setattr(app, "state", ended)
    return ended


def test_a_model_that_broke_ends_the_worker_and_nothing_more_is_begun(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, ends: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    use(app, monkeypatch, FakeRuntime(ModelBroken("the small model of mood scores nothing any more")))
    with pytest.raises(ModelBroken):
        app.app.tasks["datashunt.score"]("mood", [1])
    assert (ends.should_stop, app.stopping()) == (1, True)
    (record,) = [one for one in caplog.records if one.msg == "worker_gives_up"]
    assert (record.levelname, record.__dict__["fields"]["why"]) == (
        "ERROR",
        "the small model of mood scores nothing any more",
    )


@pytest.mark.parametrize("works", [True, False])
def test_a_worker_ends_after_a_distillation_that_left_its_device_broken(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, ends: SimpleNamespace, works: bool
) -> None:
    made = use(app, monkeypatch, FakeRuntime())
    made.ended = iter(["failed"])
    monkeypatch.setattr("datashunt.small.cuda_works", lambda device: works)
    app.app.tasks["datashunt.distil"]("mood", [7])
    assert (ends.should_stop, app.stopping()) == ((None, False) if works else (1, True))
    assert made.published == ([Wake("distil", "mood", (7,))] if works else [])


def test_a_forked_child_that_meets_a_broken_model_goes_on(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, ends: SimpleNamespace
) -> None:
    """It cannot end its worker, and would take messages and do nothing."""
    app._pulse.is_of_a_child = True
    app._give_up("it scores nothing any more")
    assert (ends.should_stop, app._stopping.is_set()) == (None, False)


@pytest.mark.parametrize("task", ["score", "ask", "batch", "distil", "certify"])
@pytest.mark.parametrize(
    ("given", "named", "why"),
    [
        (([], [1]), {}, "no classifier's name"),
        (({"a": 1}, [1]), {}, "no classifier's name"),
        (("Mood; DROP", [1]), {}, "no classifier's name"),
        (("mood", "1"), {}, "no list"),
        (("mood", {"1": 1}), {}, "no list"),
        (("mood", [1] * 1025), {}, "at most 1,024"),
        (("mood", ["1"]), {}, "no row's"),
        (("mood", [True]), {}, "no row's"),
        (("mood", [[1]]), {}, "no row's"),
        (("mood", [1.5]), {}, "no row's"),
        (("mood", [0]), {}, "no row's"),
        (("mood", [2**63]), {}, "no row's"),
        (("mood",), {}, "two arguments"),
        (("mood", [1], 2), {}, "two arguments"),
        (("mood", [1]), {"ids": [1]}, "two arguments"),
    ],
)
def test_what_is_no_wake_up_is_discarded(
    app: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    task: str,
    given: tuple[Any, ...],
    named: dict[str, Any],
    why: str,
) -> None:
    monkeypatch.setattr(app, "_runtimes", {os.getpid(): None})
    with caplog.at_level("WARNING"):
        app.app.tasks[f"datashunt.{task}"](*given, **named)
    (record,) = [one for one in caplog.records if one.msg == "message_discarded"]
    assert record.__dict__["fields"]["task"] == task
    assert why in record.__dict__["fields"]["why"]


def test_a_process_that_forked_has_a_runtime_of_its_own(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections do not survive a fork."""
    monkeypatch.setattr(app, "_runtimes", {})
    parent = app.runtime()
    assert app.runtime() is parent
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert app.runtime() is not parent


@pytest.mark.parametrize(
    ("report", "args", "fields"),
    [
        (consumer.UNKNOWN_FORMAT, ("hidden",), {"why": "it is no task"}),
        (
            consumer.UNKNOWN_TASK_ERROR,
            (KeyError("datashunt.sumbit"), "hidden", {"argsrepr": "hidden"}, {}),
            {"why": "no task has this name", "task": "'datashunt.sumbit'"},
        ),
        (consumer.INVALID_TASK_ERROR, (KeyError("id"), "hidden"), {"why": "it is no valid task"}),
        (consumer.MESSAGE_DECODE_ERROR, (ValueError("hidden"), "a", "b", "c", "hidden"), {"why": "it is no JSON"}),
    ],
)
def test_a_message_that_nobody_can_use_is_logged_without_its_content(
    app: ModuleType, report: str, args: tuple[object, ...], fields: dict[str, str]
) -> None:
    without_body = app.WithoutBody()
    trouble = (ValueError, ValueError("hidden"), None)
    record = logging.LogRecord("celery", logging.ERROR, __file__, 1, report, args, trouble)
    assert without_body.filter(record)
    line = json.loads(JsonLines().format(record))
    assert {name: line[name] for name in ("event", *fields)} == {"event": "message_discarded", **fields}
    assert "hidden" not in str(line)
    other = logging.LogRecord("celery", logging.ERROR, __file__, 1, "Connection to %s lost", ("broker",), None)
    assert without_body.filter(other)
    assert other.getMessage() == "Connection to broker lost"


def test_a_broker_that_is_gone_does_not_end_a_worker_that_holds_messages(app: ModuleType) -> None:
    from kombu.transport.redis import QoS

    from workers import restoring

    def broken(stderr: object = None) -> None:
        raise AttributeError("'NoneType' object has no attribute 'hostname'")

    restoring.forgiving(broken)()
    assert hasattr(QoS.restore_unacked_once, "__wrapped__")
    once = QoS.restore_unacked_once
    restoring.install()
    assert QoS.restore_unacked_once is once


def test_a_channel_that_was_closed_is_a_lost_connection(app: ModuleType) -> None:
    from kombu import Connection
    from kombu.transport.redis import Channel, Transport

    closed = object.__new__(Channel)
    closed.connection = None
    with pytest.raises(Transport.connection_errors, match="closed with its connection"):
        closed._connparams()
    open_ = object.__new__(Channel)
    open_.connection = Connection("redis://somewhere:1234/0").transport
    assert open_._connparams()["host"] == "somewhere"


def test_no_worker_declares_queues_for_tasks_that_are_delayed(app: ModuleType) -> None:
    from celery.utils.imports import symbol_by_name

    theirs, ours = (
        symbol_by_name(name).Blueprint.default_steps
        for name in ("celery.worker.consumer:Consumer", app.app.conf.worker_consumer)
    )
    assert [step for step in theirs if step not in ours] == ["celery.worker.consumer.delayed_delivery:DelayedDelivery"]
