"""`datashunt.submit` over the broker: whatever comes, a receipt can be read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import Reject
from kombu import Connection
from lanes import NAME, World

from datashunt import Client
from datashunt.items import Item
from datashunt.settings import Settings


@pytest.fixture
def intake(world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the task, in a worker process that uses this test's servers."""
    assert settings.database_url is not None
    assert settings.broker_url is not None
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_BROKER_URL", settings.broker_url.get_secret_value())
    task = importlib.import_module("workers.intake")
    # `workers.app` names the Celery app inside its package, and its module here.
    monkeypatch.setattr(sys.modules["workers.app"], "_runtimes", {})
    yield task
    task.runtime().close()


def queued(broker_url: str, queue: str) -> int:
    with Connection(broker_url) as connection, connection.SimpleQueue(queue) as waiting:
        return int(waiting.qsize())


def test_a_submission_is_stored_published_and_answered(intake: Any, world: World, broker_url: str) -> None:
    reply_to = f"receipts-{uuid4().hex}"
    entries = [{"id": "a", "text": "x"}, {"id": "b"}, "nonsense"]
    intake.submit.push_request(reply_to=reply_to, correlation_id="c-1")
    try:
        intake.submit.run("s1", NAME, entries)
    finally:
        intake.submit.pop_request()
    with Connection(broker_url) as connection, connection.SimpleQueue(reply_to) as waiting:
        message = waiting.get(timeout=30)
        message.ack()
    receipt = message.decode()
    assert message.properties["correlation_id"] == "c-1"
    assert (receipt["submission_id"], receipt["accepted"], receipt["error"]) == ("s1", 1, None)
    assert [one["reason"] for one in receipt["refused"]] == ["missing_field", "not_an_item"]
    assert world.states() == {"queued": 1}
    assert queued(broker_url, "score") == 1


def test_a_submission_without_reply_to_can_be_read_by_its_id(intake: Any, world: World) -> None:
    intake.submit.apply(args=["s1", NAME, [{"id": "a", "text": "x"}]])
    with Client(world.settings) as client:
        receipt = client.receipt("s1")
    assert receipt is not None
    assert receipt.accepted == 1


def test_a_redelivered_submission_changes_nothing(intake: Any, world: World, broker_url: str) -> None:
    receipts = [intake.take("s1", NAME, [{"id": "a", "text": "x"}]) for _ in range(3)]
    assert receipts == [receipts[0]] * 3
    assert world.states() == {"queued": 1}
    assert queued(broker_url, "score") == 1


def test_a_submission_that_cannot_be_named_is_answered_and_not_stored(intake: Any, world: World) -> None:
    for submission in (None, 5, "", "a\0b", "\ud800", "s" * 600):
        receipt = intake.take(submission, NAME, [{"id": "a", "text": "x"}])
        assert receipt.error.startswith("the submission id cannot be used: ")
        assert receipt.accepted == 0
        receipt.submission_id.encode()
    assert world.states() == {}
    assert world.one("SELECT count(*) FROM submissions") == 0


def test_a_call_that_is_refused_as_a_whole_keeps_its_reason(intake: Any, world: World) -> None:
    wrong = [(name, [{"id": "a", "text": "x"}]) for name in ("nobody", "a\0b", "\ud800", "", 5, None, ["x"])]
    for number, (classifier, items) in enumerate([*wrong, (NAME, "text"), (NAME, None), (None, None)]):
        answered = intake.take(f"s{number}", classifier, items)
        with Client(world.settings) as client:
            assert client.receipt(f"s{number}") == answered
        assert answered.error
        assert answered.accepted == 0
    assert world.states() == {}


def test_a_submission_id_used_for_other_items_is_answered_and_the_first_stays(intake: Any, world: World) -> None:
    intake.take("s1", NAME, [{"id": "a", "text": "x"}])
    assert "was used for other items" in intake.take("s1", NAME, [{"id": "a", "text": "other"}]).error
    with Client(world.settings) as client:
        receipt = client.receipt("s1")
    assert receipt is not None
    assert receipt.accepted == 1


def test_a_database_that_is_away_promises_nothing_and_the_call_goes_back_to_the_queue(
    intake: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "AGAIN_S", 0.0)
    world.change("ALTER TABLE items RENAME TO elsewhere")
    with pytest.raises(Reject) as rejected:
        intake.submit.run("s1", NAME, [{"id": "a", "text": "x"}])
    assert rejected.value.requeue
    world.change("ALTER TABLE elsewhere RENAME TO items")
    assert world.runtime.intake.receipt("s1") is None


def test_a_client_publishes_what_it_committed(world: World, broker_url: str) -> None:
    with Client(world.settings) as client:
        receipt = client.submit(NAME, [Item(f"k{n}", "x") for n in range(300)])
    assert receipt.accepted == 300
    assert queued(broker_url, "score") == 2


def test_a_submission_at_the_bound_is_refused_as_a_whole_and_taken_when_it_is_sent_again(
    intake: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASHUNT_MAX_QUEUED", "1")
    monkeypatch.setattr("datashunt.pipeline.bound.COUNT_EVERY_S", 0.0)
    assert intake.take("s1", NAME, [{"id": "a", "text": "x"}]).accepted == 1
    full = intake.take("s2", NAME, [{"id": "b", "text": "y"}])
    assert (full.accepted, full.error is not None and "1 items of sentiment are queued" in full.error) == (0, True)
    world.change("UPDATE items SET state = 'dead'")
    assert intake.take("s2", NAME, [{"id": "b", "text": "y"}]).accepted == 1
