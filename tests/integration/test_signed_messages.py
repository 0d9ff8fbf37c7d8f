"""A worker with DATASHUNT_MESSAGE_KEY: who can write to the broker and has no key cannot make it do anything."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.signals import before_task_publish
from kombu import Connection
from kombu.serialization import dumps
from lanes import NAME, World
from pydantic import SecretStr

from datashunt.broker import configure
from datashunt.demo.run import environment
from datashunt.settings import Settings
from datashunt.signing import HEADER, RECEIPT, Signer

KEY = "k" * 40
ITEMS = [{"id": "a", "text": "positive 0.99"}]


@pytest.fixture
def log(world: World, settings: Settings, tmp_path: Path) -> Iterator[Path]:
    """The log of a worker of the LLM lane, which also takes submissions, with the key."""
    file = tmp_path / "worker.log"
    keyed = settings.model_copy(update={"message_key": SecretStr(KEY)})
    env = {**os.environ, **environment(keyed), "DATASHUNT_MESSAGE_KEY": KEY, "DATASHUNT_TICK_EVERY_S": "600"}
    argv = ["-m", "celery", "-A", "workers", "worker", "-Q", "llm", "-P", "threads", "-c", "2"]
    with file.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *argv, "--without-gossip", "--without-mingle", "-n", f"{uuid4().hex}@test"],
            env=env, stdout=out, stderr=out,
        )  # fmt: skip
    yield file
    process.terminate()
    assert process.wait(60) == 0


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def sender(url: str, key: str | None = None) -> Celery:
    return configure(Celery("sender", set_as_current=False), SecretStr(url), None if key is None else SecretStr(key))


def submit(app: Celery, url: str, submission: str) -> Any:
    """Send a submission and wait for its receipt."""
    replies = f"receipts-{uuid4().hex}"
    with Connection(url) as connection, connection.SimpleQueue(replies) as queue:
        app.send_task("datashunt.submit", args=[submission, NAME, ITEMS], reply_to=replies, correlation_id="c-1")
        message = queue.get(timeout=90)
        message.ack()
    return message


def test_what_nobody_with_the_key_has_sent_is_never_done(log: Path, world: World, broker_url: str) -> None:
    for app in (sender(broker_url), sender(broker_url, "x" * 40)):
        answer = submit(app, broker_url, "forged")
        assert answer.payload["submission_id"] == "forged"
        assert answer.payload["accepted"] == 0
        assert "DATASHUNT_MESSAGE_KEY" in answer.payload["error"]
        assert HEADER not in answer.headers, "whoever sent it chose where the answer goes, and for which submission"
    assert "not signed" not in answer.payload["error"]
    plain = sender(broker_url)
    plain.send_task("datashunt.tick")
    inner = {"task": "datashunt.submit", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": 0}
    plain.send_task("celery.starmap", args=[inner, [["mapped", NAME, ITEMS]]])
    plain.send_task("datashunt.ask", args=[NAME, [1]], queue="llm")
    old = {"task": "datashunt.submit", "id": uuid4().hex, "args": ["old", NAME, ITEMS], "kwargs": {}}
    with Connection(broker_url) as connection, connection.Producer() as producer:
        producer.publish(old, exchange="datashunt", routing_key="intake", serializer="json")
    until(lambda: log.read_text().count("message_refused") == 6)
    assert log.read_text().count('"why": "unsigned"') == 5
    assert world.one("SELECT count(*) FROM items") == world.one("SELECT count(*) FROM submissions") == 0
    assert "positive" not in log.read_text()
    assert KEY not in log.read_text()


def test_what_is_signed_is_done_and_the_receipt_is_signed(log: Path, world: World, broker_url: str) -> None:
    answer = submit(sender(broker_url, KEY), broker_url, "s1")
    assert (answer.payload["accepted"], answer.payload["error"]) == (1, None)
    assert Signer(SecretStr(KEY)).fault(RECEIPT, answer.body, answer.headers[HEADER]) is None
    again = submit(sender(broker_url, KEY), broker_url, "s1")
    assert again.payload == answer.payload
    assert world.states() == {"queued": 1}


def test_a_producer_without_datashunt_can_sign(log: Path, world: World, broker_url: str) -> None:
    @before_task_publish.connect(weak=False)
    def sign(sender: str, body: Any, headers: dict[str, Any], **_: Any) -> None:
        raw = sender.encode() + b"\n" + dumps(body, serializer="json")[2].encode()
        headers["datashunt-signature"] = hmac.new(KEY.encode(), raw, hashlib.sha256).hexdigest()

    try:
        assert submit(sender(broker_url), broker_url, "s1").payload["accepted"] == 1
    finally:
        before_task_publish.disconnect(sign)


def test_a_message_with_another_content_is_not_the_signed_one(log: Path, world: World, broker_url: str) -> None:
    stolen = Signer(SecretStr(KEY)).sign("datashunt.submit", dumps([["s0", NAME, ITEMS], {}, {}], "json")[2].encode())
    replies = f"receipts-{uuid4().hex}"
    with Connection(broker_url) as connection, connection.SimpleQueue(replies) as queue:
        sender(broker_url).send_task(
            "datashunt.submit", args=["s1", NAME, ITEMS], reply_to=replies, headers={HEADER: stolen}
        )
        assert "signed with another key" in queue.get(timeout=90).payload["error"]
    assert world.one("SELECT count(*) FROM items") == 0
