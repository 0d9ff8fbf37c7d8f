"""Publishing: messages of bounded size, by task name, as JSON; a broker that is away is one error of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from pydantic import SecretStr

from datashunt import broker
from datashunt.broker import Publisher, chunks, configure
from datashunt.errors import BrokerError, SettingsError
from datashunt.items import Wake

NOWHERE = SecretStr("redis://:hidden@127.0.0.1:9/0")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """A publisher to a broker inside this process."""
    made = Publisher(SecretStr("memory://"))
    drain("score"), drain("llm"), drain("distil")
    yield made
    made.close()


def drain(queue: str) -> list[Any]:
    """All messages of a queue of the broker inside this process."""
    found = []
    with Connection("memory://") as connection, connection.SimpleQueue(queue) as waiting:
        while waiting.qsize():
            found.append(waiting.get_nowait())
            found[-1].ack()
    return found


def bodies(queue: str) -> list[tuple[str, list[Any]]]:
    return [(one.headers["task"], json.loads(one.body)[0]) for one in drain(queue)]


def test_each_lane_has_its_task_and_queue(publisher: Publisher) -> None:
    wakes = [Wake("score", "mood", (1, 2)), Wake("llm", "mood", (3,)), Wake("distil", "mood", (4,))]
    assert publisher.publish(wakes) == 3
    assert bodies("score") == [("datashunt.score", ["mood", [1, 2]])]
    assert bodies("llm") == [("datashunt.ask", ["mood", [3]])]
    assert bodies("distil") == [("datashunt.distil", ["mood", [4]])]


def test_messages_are_bounded(publisher: Publisher) -> None:
    assert publisher.publish([Wake("score", "mood", tuple(range(600))), Wake("llm", "mood", tuple(range(9)))]) == 6
    assert [len(arguments[1]) for _, arguments in bodies("score")] == [256, 256, 88]
    assert [len(arguments[1]) for _, arguments in bodies("llm")] == [4, 4, 1]


def test_messages_are_json_and_nothing_is_sent_for_nothing(publisher: Publisher) -> None:
    assert publisher.publish([]) == publisher.publish([Wake("score", "mood", ())]) == 0
    publisher.publish([Wake("score", "mood", (1,))])
    assert [one.content_type for one in drain("score")] == ["application/json"]


def test_a_receipt_goes_to_the_queue_that_waits_for_it(publisher: Publisher) -> None:
    queue = f"receipts-{uuid4().hex}"
    drain(queue)
    publisher.reply(queue, "c-1", {"accepted": 1})
    (message,) = drain(queue)
    assert message.properties["correlation_id"] == "c-1"
    assert message.decode() == {"accepted": 1}


def test_a_broker_that_is_away_is_one_error_that_shows_no_password() -> None:
    away = Publisher(NOWHERE)
    for act in (
        away.ping,
        lambda: away.publish([Wake("score", "mood", (1,))]),
        lambda: away.reply("receipts", None, {}),
    ):
        with pytest.raises(BrokerError, match="the broker cannot be reached") as refused:
            act()
        assert "hidden" not in str(refused.value)
    away.close()


def test_only_redis_gets_the_options_of_redis() -> None:
    redis = configure(Celery("a", set_as_current=False), SecretStr("redis://127.0.0.1/0"))
    rabbit = configure(Celery("b", set_as_current=False), SecretStr("amqp://127.0.0.1//"))
    assert redis.conf.broker_transport_options["visibility_timeout"] == 60
    assert rabbit.conf.broker_transport_options == {"confirm_publish": True}


@pytest.mark.parametrize(
    "url",
    ["nonsense", "127.0.0.1:6379", "foo://:hidden@127.0.0.1/0", "redis://:hidden@127.0.0.1:port/0", "redis://h:99999"],
)
def test_what_is_no_broker_is_a_wrong_setting_that_is_named_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="DATASHUNT_BROKER_URL: expected redis://") as refused:
        Publisher(SecretStr(url))
    assert "hidden" not in str(refused.value)


def test_valkey_may_be_called_by_its_name() -> None:
    for url, spoken in (("valkey://127.0.0.1/0", "redis://127.0.0.1/0"), ("valkeys://h:1/0", "rediss://h:1/0")):
        made = configure(Celery("a", set_as_current=False), SecretStr(url))
        assert made.conf.broker_url.partition("?")[0] == spoken
        assert made.conf.broker_transport_options["visibility_timeout"] == 60


def test_a_worker_takes_nothing_but_json() -> None:
    conf = configure(Celery("a", set_as_current=False), SecretStr("memory://")).conf
    assert (list(conf.accept_content), conf.task_serializer, conf.result_serializer) == (["json"], "json", "json")
    assert conf.task_create_missing_queues is False
    assert conf.task_acks_late is False


@given(st.lists(st.integers(), max_size=30), st.integers(1, 8))
def test_chunks_keep_every_id_in_order(ids: list[int], size: int) -> None:
    parts = list(chunks(ids, size))
    assert [one for part in parts for one in part] == ids
    assert all(0 < len(part) <= size for part in parts)


def test_quorum_queues_are_declared_as_such_and_only_when_told() -> None:
    url = SecretStr("amqp://127.0.0.1//")
    told = configure(Celery("a", set_as_current=False), url, quorum=True).conf.task_queues
    untold = configure(Celery("b", set_as_current=False), url).conf.task_queues
    assert {queue.queue_arguments["x-queue-type"] for queue in told} == {"quorum"}
    assert [queue.queue_arguments for queue in untold] == [None] * len(told)
    assert [(queue.name, queue.routing_key) for queue in told] == [(queue.name, queue.routing_key) for queue in untold]


def test_what_stands_still_is_not_published_to_a_queue_that_nobody_empties(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "MOST_WAITING", 3)
    wakes = [Wake("llm", "a", (1, 2, 3, 4, 5)), Wake("batch", "a", (9,)), Wake("score", "a", (1, 2))]
    assert publisher.publish_again(wakes) == []
    assert [publisher.waiting(queue) for queue in ("llm", "score")] == [3, 1]
    for _ in range(2):
        assert publisher.publish_again(wakes) == ["llm"]
    assert [publisher.waiting(queue) for queue in ("llm", "score")] == [3, 3]
    assert publisher.publish_again([]) == []


def test_the_llm_lane_has_a_bounded_queue_however_many_asks_there_are(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "MOST_WAITING", 20)
    monkeypatch.setattr(broker, "LOOK_AFTER", 10)
    monkeypatch.setattr(broker, "LOOK_S", 0.0)
    asks = Wake("llm", "mood", tuple(range(4_000)))
    assert publisher.publish([asks, Wake("score", "mood", (1,))]) == 21
    assert publisher.publish([asks]) == 0
    drain("llm")
    assert publisher.publish([Wake("llm", "mood", (1, 2, 3))]) == 1


def test_what_tick_has_just_counted_is_believed_at_once(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "MOST_WAITING", 20)
    monkeypatch.setattr(broker, "LOOK_AFTER", 10)
    monkeypatch.setattr(broker, "LOOK_S", 3600.0)
    publisher.publish([Wake("llm", "mood", tuple(range(4_000)))])
    drain("llm")
    assert publisher.publish_again([Wake("llm", "mood", (n,)) for n in range(5)]) == []
    assert publisher.waiting("llm") == 5
