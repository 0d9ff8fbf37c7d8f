"""A worker that lives and no longer consumes: who asks is told, and a worker that is started instead goes on."""

from __future__ import annotations

import signal
import socket

from celery import Celery

from datashunt import broker
from datashunt.pipeline import liveness
from datashunt.pipeline.liveness import Health
from tests.acceptance.conftest import System, plain_items, until


def test_a_worker_whose_consumer_is_gone_is_not_healthy_and_another_goes_on(system: System) -> None:
    system.apply()
    worker = system.start("score")
    system.client.submit("tone", plain_items(20))
    until(lambda: system.rows("SELECT count(*) FROM items WHERE state = 'queued'") == [(0,)], "the first items")
    assert look(system).ok
    assert system.settings.broker_url is not None
    control = broker.configure(Celery("operator", set_as_current=False), system.settings.broker_url).control
    until(
        lambda: any("score" in str(said) for said in control.cancel_consumer("score", reply=True)),
        "a worker that takes no more messages",
    )
    control.app.close()
    system.client.submit("tone", plain_items(20, start=20))
    until(lambda: not look(system).ok, "the verdict that it is stuck")
    assert "lives, but has done nothing" in look(system).why
    assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    system.start("score")
    until(lambda: system.rows("SELECT count(*) FROM items WHERE state = 'queued'") == [(0,)], "the rest")
    until(lambda: look(system).ok, "the verdict that all is well")


def look(system: System) -> Health:
    return liveness.examine(system.store, system.runtime.publisher, system.settings, "score", socket.gethostname())
