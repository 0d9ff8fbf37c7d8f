"""Workers and beat on a bad line to a RabbitMQ; DATASHUNT_TEST_AMQP_URL as for several hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection
from pydantic import SecretStr

from datashunt import broker
from datashunt.errors import BrokerError
from datashunt.items import Wake
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
from datashunt.errors import BrokerError
from datashunt.items import Wake
app = broker.configure(Celery("cut"), SecretStr(os.environ["URL"]))
@app.task(name="datashunt.ask")
def ask(*_):
    time.sleep(0.05)
app.worker_main("worker -Q llm -P threads -c 16 --without-gossip --without-mingle".split())
"""


def _waiting(queue: str = "llm") -> int:
    return _state(queue)[0]


def _consumers(queue: str = "llm") -> int:
    return _state(queue)[1]


def _state(queue: str) -> tuple[int, int]:
    """Messages that wait there, and consumers."""
    with Connection(URL) as connection:
        try:
            found = connection.default_channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return 0, 0  # nobody has declared it
        return int(found.message_count), int(found.consumer_count)


@contextmanager
def _worker(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the LLM lane; all of these have one name."""
    with log.open("ab") as output:
        made = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "URL": url}, stdout=output, stderr=output
        )
        try:
            yield made
        finally:
            made.kill()
            made.wait()


@pytest.fixture
def link() -> Iterator[Link]:
    """A line to the RabbitMQ."""
    with Link(URL) as made:
        yield made
    with Connection(URL) as connection:
        connection.default_channel.queue_delete("llm")


def test_a_worker_goes_on_after_each_cut(link: Link, tmp_path: Path) -> None:
    """Within 30 s; what noticed a torn connection before was its heartbeat, after minutes."""
    log = tmp_path / "worker.log"
    with _worker(link.url, log) as worker:
        _cut_and_mend(link)
        assert worker.poll() is None, log.read_text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_a_worker_starts_while_the_broker_takes_the_one_before_it_for_alive(link: Link, tmp_path: Path) -> None:
    """As after a power cut. What the broker sends to the dead one comes back when it has noticed."""
    log = tmp_path / "worker.log"
    with _worker(link.url, log) as first:
        until(lambda: _consumers() == 1, "the first worker", 60)
        link.hold()  # so that the broker does not learn of its end
        first.kill()
        first.wait()
        with _worker(URL, log) as second:
            until(lambda: _consumers() == 2 or second.poll() is not None, "the second worker", 60)
            assert second.poll() is None, log.read_text()


def _cut_and_mend(link: Link) -> None:
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


def test_a_beat_ends_while_it_waits_for_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    """Celery's own handler of SIGTERM asks the broker to close the connection, and waits for its answer for ever."""
    command = [sys.executable, "-m", "celery", "-A", "workers", "beat", "--pidfile="]
    log = tmp_path / "beat.log"
    before = _waiting("intake")
    with Link(URL) as line, log.open("wb") as output:
        beat = subprocess.Popen(
            command, env={**os.environ, "DATASHUNT_BROKER_URL": line.url}, stdout=output, stderr=output
        )
        try:
            until(lambda: _waiting("intake") > before, "the first tick", 60)
            time.sleep(1.0)  # by now it is confirmed
            line.hold()
            until(lambda: _waiting("intake") > before + 1, "another tick, which nobody confirms", 60)
            beat.send_signal(signal.SIGTERM)
            assert beat.wait(30) == 0, log.read_text()
        finally:
            beat.kill()
            beat.wait()
    with Connection(URL) as connection:
        connection.default_channel.queue_delete("intake")


def test_what_nobody_confirms_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "CONFIRM_S", 0.2)
    with Link(URL) as line:
        publisher = broker.Publisher(SecretStr(line.url))
        publisher.publish([Wake("llm", "c", (1,))])
        line.hold()
        with pytest.raises(BrokerError, match="TimeoutError"):
            publisher.publish([Wake("llm", "c", (2,))])
        line.mend()
        publisher.publish([Wake("llm", "c", (3,))])
        publisher.close()
    assert _waiting() >= 2
    with Connection(URL) as connection:
        connection.default_channel.queue_delete("llm")
