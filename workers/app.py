"""The Celery app of one worker process: its runtime, its ticking thread, and what it refuses to run on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.utils.nodenames import NODENAME_DEFAULT
from celery.worker import state

from datashunt import broker, settings, telemetry
from datashunt.bootstrap import Runtime
from datashunt.errors import BrokerError, DatashuntError, ModelBroken, SettingsError, StoreError
from datashunt.items import Wake
from datashunt.pipeline.pulse import Pulse
from datashunt.store import schema
from datashunt.telemetry import event
from workers import restoring
from workers.discarded import WithoutBody
from workers.signed import SignedTask

BACK = 5
"""How nice a worker of the distil lane is: with one that serves on each core it still gets a quarter."""
AUTOGROUP = Path("/proc/self/autogroup")
KERNELS = "64"
"""Kernels that oneDNN keeps in a worker of the distil lane: of the 1,024 that it would, most fit one lesson only."""
LANES = {"score", "llm", "distil"}
TORCH_QUEUES = {"score", "distil"}
MOST_CONNECTIONS = 20
"""Connections that a worker keeps open, however many threads it has: these mostly wait for the LLM, and hold none."""
RETENTION_LOOK_S = 60.0
"""How often a worker looks whether the retention is due, which is once an hour."""
_runtimes: dict[int, Runtime] = {}
_stopping = threading.Event()
_fits = threading.Event()
"""Set once the database's schema is known to be one that this release works on."""
_pulse = Pulse()


def runtime() -> Runtime:
    """The runtime of this process: connections do not survive a fork, so each process has its own."""
    pid = os.getpid()
    if pid not in _runtimes:
        _runtimes[pid] = Runtime(settings.load(), pool_size=min(threads_of(sys.argv) + 4, MOST_CONNECTIONS))
    return _runtimes[pid]


def threads_of(argv: list[str]) -> int:
    """How many tasks this process may run at once, as its command line says."""
    given = re.search(r"(?:^| )(?:-c ?|--concurrency[ =])(\d+)(?: |$)", " ".join(argv))
    return int(given[1]) if given is not None else 4


def make_app() -> Celery:
    """The app with the broker of the environment.

    Raises:
        SystemExit: with code 2 when a setting is missing or wrong.
    """
    try:
        given = settings.load()
        if given.broker_url is None:
            raise SettingsError(
                "DATASHUNT_BROKER_URL is not set: give redis://host:port/0 or amqp://host:port//, or load the"
                ' embedded servers\' URLs with eval "$(datashunt env)"'
            )
        made = broker.configure(
            Celery("datashunt", task_cls=SignedTask),
            given.broker_url,
            given.message_key,
            quorum=given.quorum_queues,
        )
    except DatashuntError as error:
        sys.stderr.write(f"datashunt: {error}\n")
        raise SystemExit(error.exit_code) from None
    made.conf.worker_consumer = "workers.consumer:Consumer"
    made.conf.imports = (
        "workers.score",
        "workers.ask",
        "workers.batch",
        "workers.distil",
        "workers.certify",
        "workers.intake",
        "workers.tick",
        "workers.beat",
    )
    return made


# Read by OpenMP when torch is loaded, which is later. Threads that spin while they wait take the cores from
# PostgreSQL and the other workers: on two shared cores they halve the small model's speed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

restoring.install()
app = make_app()


def publish(wakes: list[Wake]) -> None:
    """Publish after the commit. What cannot be published is not lost: tick finds it."""
    try:
        runtime().publisher.publish(wakes)
    except BrokerError as error:
        event("not_published", error=str(error))


def refusal(pool: str, queues: set[str], *, cuda: bool) -> str | None:
    """Why this combination of pool and queues must not run, or None."""
    if pool == "prefork" and cuda and queues & TORCH_QUEUES:
        lanes = " and ".join(sorted(queues & TORCH_QUEUES))
        return (
            f"the {lanes} queue with -P prefork would fork a process that uses CUDA, which CUDA does not survive: "
            "use -P solo, one process for each GPU"
        )
    return None


def uses_cuda() -> bool:
    """Whether the small model will run on CUDA; does not initialise it."""
    device = settings.load().device
    if device == "cpu":
        return False
    import torch

    return device.startswith("cuda") or torch.cuda.device_count() > 0


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    telemetry.configure(settings.load().log_level)
    consumer = logging.getLogger("celery.worker.consumer.consumer")
    if not any(isinstance(one, WithoutBody) for one in consumer.filters):
        consumer.addFilter(WithoutBody())


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _check_and_listen(instance: Any, **_: Any) -> None:
    """Refuse what cannot work; workers of the LLM lane, whose threads mostly wait, also take the intake."""
    queues = set(instance.app.amqp.queues.consume_from)
    pool = instance.pool_cls if isinstance(instance.pool_cls, str) else instance.pool_cls.__module__
    name = "prefork" if "prefork" in pool else pool
    reason = refusal(name, queues, cuda=name == "prefork" and uses_cuda())
    if reason is not None:
        sys.stderr.write(f"datashunt: {reason}\n")
        raise SystemExit(2)
    if instance.hostname.startswith(f"{NODENAME_DEFAULT}@"):
        _warn_of_the_name(instance.hostname, queues)
    _wire(queues)
    if refuses_schema():
        raise SystemExit(2)
    runtime().store.close()  # no child that Celery forks from here on may inherit a connection
    if queues == {"distil"}:
        _stand_back()
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)  # read at the first training step
    if "llm" in queues:
        instance.app.amqp.queues.select_add(instance.app.amqp.queues["intake"])  # as it was declared
    _pulse.begin(instance.hostname, set(instance.app.amqp.queues.consume_from))


def _warn_of_the_name(name: str, queues: set[str]) -> None:
    """Workers tell the database how they are under their names: of two with one name it knows the last."""
    lane = min(queues & LANES, default="worker")
    event(
        "worker_without_name",
        level=logging.WARNING,
        worker=name,
        error="every worker without -n on this host has this name, and they overwrite each other's signs of life:"
        f" give each worker its own, such as -n {lane}@%h, or -n {lane}1@%h, -n {lane}2@%h for several of a lane",
    )


def _stand_back() -> None:
    """Training has time: on shared cores those that serve come first, above all one that starts and loads its model."""
    os.nice(BACK)
    # Linux may share the cores out by session first; each worker has one of its own.
    with contextlib.suppress(OSError):
        AUTOGROUP.write_text(str(BACK))


def _wire(queues: set[str]) -> None:
    """Make what these queues need, without connecting: a wrong setting ends the worker before it takes a message."""
    try:
        made = runtime()
        _ = made.store, made.publisher, made.asker if "llm" in queues else None
    except DatashuntError as error:
        sys.stderr.write(f"datashunt: {error}\n")
        raise SystemExit(error.exit_code) from None


def refuses_schema() -> bool:
    """Whether the database is older than this release can work on, which is said on stderr.

    While there is no database that can be asked, nothing is refused: it is asked again before the next tick.
    """
    if _fits.is_set():
        return False
    try:
        with runtime().store.begin() as tx:
            why = schema.unfit(schema.revision(tx))
    except StoreError as error:
        event("schema_unknown", error=str(error))
        return False
    if why is None:
        _fits.set()
    else:
        sys.stderr.write(f"datashunt: {why}\n")
    return why is not None


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start_ticking(**_: Any) -> None:
    threading.Thread(target=_tick_until_stopping, name="ticker", daemon=True).start()
    threading.Thread(target=_retain_until_stopping, name="retention", daemon=True).start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _begin_to_stop(**_: Any) -> None:
    _stopping.set()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _say_good_bye(**_: Any) -> None:
    if _pulse.has_begun:
        _pulse.end(runtime().store)


@signals.task_received.connect  # type: ignore[untyped-decorator]
def _take(**_: Any) -> None:
    _pulse.take()


def stopping() -> bool:
    """Whether this worker was asked to end: it finishes the batch or the call in hand, and begins no other.

    It is asked before each batch, call and training step, so that to ask is a sign of work.
    """
    _pulse.step()
    if _pulse.is_of_a_child:
        _pulse.report(runtime().store, runtime().settings)
    return _stopping.is_set()


@contextlib.contextmanager
def on_device() -> Iterator[None]:
    """What runs inside uses the device: if that computes nothing afterwards, or a model broke, this worker ends.

    A process never gets a broken CUDA context back: whoever supervises this one starts another.
    """
    try:
        yield
    except ModelBroken as error:
        _give_up(str(error))
        raise
    finally:
        if "torch" in sys.modules:
            from datashunt import small

            if not small.cuda_works(runtime().settings.device):
                _give_up("CUDA computes nothing any more in this process")


def _give_up(why: str) -> None:
    """Take no more work, and have Celery end the worker with code 1. A forked child cannot: it only says why."""
    event("worker_gives_up", level=logging.ERROR, why=why)
    if not _pulse.is_of_a_child:
        _stopping.set()
        state.should_stop = 1


def _tick_until_stopping() -> None:
    every_s = runtime().settings.tick_every_s
    _pulse.report(runtime().store, runtime().settings)
    while not _stopping.wait(every_s):
        if refuses_schema():
            state.should_stop = 2  # Celery ends the worker with this code when it has done what it has in hand
            return
        tick_once()
        _pulse.report(runtime().store, runtime().settings)


def _retain_until_stopping() -> None:
    """In a thread of its own: it may take minutes, and whoever gives no sign of life for so long is restarted."""
    while not _stopping.wait(RETENTION_LOOK_S):
        if _fits.is_set():
            with _failure_told():
                runtime().ticker.retain(_stopping.is_set)


def tick_once() -> None:
    """One tick; what cannot be done now, as without a database, is done by the next one."""
    with _failure_told():
        full = runtime().publisher.publish_again(runtime().ticker.run())
        if full:
            event("not_published", queues=full, error="many messages wait there: does a worker take any?")


@contextlib.contextmanager
def _failure_told() -> Iterator[None]:
    """Periodic work that fails is only logged: it comes again."""
    try:
        yield
    except BrokerError as error:
        event("not_published", error=str(error))
    except DatashuntError as error:
        event("tick_failed", error=str(error))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not end the ticking of this process for good
        event("tick_failed", level=logging.ERROR, error=type(error).__name__, exc_info=True)
