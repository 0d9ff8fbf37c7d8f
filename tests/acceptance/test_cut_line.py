"""A worker with threads whose line to a RabbitMQ is cut; DATASHUNT_TEST_AMQP_URL as for several hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection
from pydantic import SecretStr

from datashunt import broker
from tests.acceptance.conftest import until
from tests.acceptance.faults.link import Link

URL = os.environ.get("DATASHUNT_TEST_AMQP_URL", "")
CUTS = (0.0, 1.0, 0.05, 0.3, 0.0, 1.0)
"""How long each lasts, in seconds."""
pytestmark = [
    pytest.mark.skipif(not URL, reason="DATASHUNT_TEST_AMQP_URL names no RabbitMQ"),
    pytest.mark.xdist_group("rabbitmq"),
]

PROGRAM = """
import os, time
from celery import Celery
from pydantic import SecretStr
from datashunt import broker
app = broker.configure(Celery("cut"), SecretStr(os.environ["URL"]))
@app.task(name="datashunt.ask")
def ask(*_):
    time.sleep(0.05)
app.worker_main("worker -Q llm -P threads -c 16 --without-gossip --without-mingle".split())
"""


def _waiting() -> int:
    with Connection(URL) as connection:
        return int(connection.default_channel.queue_declare("llm", passive=True).message_count)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    """A line to the RabbitMQ, with a worker at its end."""
    with Link(URL) as made, (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "URL": made.url}, stdout=log, stderr=log
        )
        try:
            yield made
            assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        finally:
            worker.kill()
            worker.wait()
    with Connection(URL) as connection:
        connection.default_channel.queue_delete("llm")


def test_a_worker_goes_on_after_each_cut(link: Link) -> None:
    """Within 30 s; what noticed a torn connection before was its heartbeat, after minutes."""
    app = broker.configure(Celery("producer", set_as_current=False), SecretStr(URL))
    app.send_task("datashunt.ask", args=["c", [1]])  # so that there is a queue
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(0.02):
            app.send_task("datashunt.ask", args=["c", [1]])

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for seconds in CUTS:
            until(lambda: _waiting() < 20, "a worker that takes messages", 30)
            link.cut()
            time.sleep(seconds)
            link.mend()
            time.sleep(2.0)  # Celery tries again after as long, so that some have piled up by now
    finally:
        stop.set()
        producer.join()
        app.close()
    until(lambda: _waiting() == 0, "the rest to be taken", 30)
