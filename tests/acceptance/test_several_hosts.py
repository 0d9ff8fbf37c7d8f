"""Workers on several hosts, one PostgreSQL and one broker: the same commands, other folders.

The broker is a Valkey, and a RabbitMQ with quorum queues: DATASHUNT_TEST_AMQP_URL names a virtual host of one in which
nothing but these tests lives. No package brings a RabbitMQ that a test could start by itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from amqp.exceptions import PreconditionFailed
from kombu import Connection

from tests.acceptance.conftest import Broker, System, plain_items, until

URL = os.environ.get("DATASHUNT_TEST_AMQP_URL")
QUEUES = ("score", "llm", "distil", "intake")


@dataclass
class Rabbit:
    """A virtual host of a RabbitMQ."""

    url: str


@pytest.fixture(params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.xdist_group("rabbitmq"))])
def broker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Broker | Rabbit]:
    """An empty Valkey, or an empty RabbitMQ whose queues are quorum queues."""
    if request.param == "valkey":
        made = Broker(tmp_path)
        yield made
        made.kill()
        return
    if URL is None:
        pytest.skip("DATASHUNT_TEST_AMQP_URL names no RabbitMQ")
    monkeypatch.setenv("DATASHUNT_QUORUM_QUEUES", "true")
    _clear(URL)
    yield Rabbit(URL)
    _clear(URL)


def _clear(url: str) -> None:
    with Connection(url) as connection:
        channel = connection.channel()
        for queue in QUEUES:
            channel.queue_delete(queue)
        channel.exchange_delete("datashunt")


def _is_quorum(url: str, queue: str) -> bool:
    with Connection(url) as connection:
        try:
            connection.channel().queue_declare(queue, durable=True, auto_delete=False)
        except PreconditionFailed as error:
            return "quorum" in str(error)
    return False


def test_hosts_share_the_work_and_one_does_it_when_another_is_gone(system: System, tmp_path: Path) -> None:
    shared = f"file://{tmp_path / 'models'}"
    homes = {host: {"DATASHUNT_DATA_DIR": str(tmp_path / host), "DATASHUNT_MODELS_URL": shared} for host in ("a", "b")}
    system.apply(llm={"model": "teacher", "input_price": "1", "output_price": "2"})
    first = system.start("score", host="a", **homes["a"])
    system.start("llm", host="a", **homes["a"])
    system.start("beat", **homes["a"])
    items = plain_items(120)
    system.client.submit("tone", items[:60])
    until(lambda: system.done() == 60, "host a to do the first half")
    if isinstance(system.broker, Rabbit):
        assert [_is_quorum(system.broker.url, queue) for queue in ("score", "llm")] == [True, True]
    system.start("score", host="b", **homes["b"])
    system.start("llm", host="b", **homes["b"])
    first.send_signal(signal.SIGKILL)
    first.wait()
    for start in range(60, 120, 20):
        system.client.submit("tone", items[start : start + 20])
    until(lambda: system.done() == 120, "the other half")
    system.assert_sound(120)
    assert system.one("SELECT count(*) FROM workers WHERE name LIKE 'score-%@b' AND taken > 0") == 1
