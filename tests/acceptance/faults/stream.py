"""The items of a campaign, and the process that submits them: by the client and over the broker in turn."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import Celery

from datashunt import Client
from datashunt.errors import DatashuntError
from tests.words import LABELS, WORDS

CLASSIFIERS = ("tone", "purse", "oath", "post")
"""The first keeps what it has learned, and prunes its prompts; the second has a budget for everything, and learns all
the time; the third keeps only what is proven; the fourth asks by batches alone."""
_TURNS = (0, 0, 1, 2, 0, 1, 3, 2)
CHUNK = 10
RESEND_S = 3.0


def item(number: int) -> tuple[str, dict[str, str], str]:
    """Classifier, item and right label of this number: one telling word, and nothing that repeats."""
    label = number % 3
    word = WORDS[label][number // 3 % 4]
    text = f"the camera is really {word} and it was {number}"
    return CLASSIFIERS[_TURNS[number // CHUNK % len(_TURNS)]], {"id": f"i{number}", "text": text}, LABELS[label]


def chunk(start: int, count: int) -> tuple[str, str, list[dict[str, str]]]:
    """Submission id, classifier and items of the chunk that begins here."""
    numbers = range(start, min(start + CHUNK, count))
    return f"s-{start}", item(start)[0], [item(number)[1] for number in numbers]


def answers(count: int) -> Iterator[str]:
    """Lines of the simulated LLM's file."""
    yield "id,text,label"
    for number in range(count):
        _, one, label = item(number)
        yield f"{one['id']},{one['text']},{label}"


def _by_client(submission: str, classifier: str, items: list[dict[str, str]]) -> None:
    with Client() as client:
        while True:
            try:
                client.submit(classifier, items, submission_id=submission)
            except DatashuntError as error:
                sys.stderr.write(f"again: {error}\n")
                time.sleep(0.3)
            else:
                return


def _over_the_broker(app: Celery, submission: str, classifier: str, items: list[dict[str, str]]) -> None:
    while True:
        try:
            if _receipt(app, submission, classifier, items) is not None:
                return
        except Exception as error:  # noqa: BLE001 - this is a producer's code, which knows the broker alone
            sys.stderr.write(f"again: {type(error).__name__}\n")
            time.sleep(0.3)


def _receipt(app: Celery, submission: str, classifier: str, items: list[dict[str, str]]) -> Any:
    replies = f"receipts-{os.getpid()}"
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(replies)
        app.send_task(
            "datashunt.submit",
            args=[submission, classifier, items],
            queue="intake",
            reply_to=replies,
            correlation_id=submission,
            retry=False,
        )
        until = time.monotonic() + RESEND_S
        while (left := until - time.monotonic()) > 0:
            try:
                message = queue.get(timeout=left)
            except queue.Empty:
                return None
            message.ack()
            if message.payload["submission_id"] == submission:
                return message.payload
    return None


def main() -> None:
    """Submit what the progress file says is missing, each chunk when its time has come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--began", type=float, required=True, help="seconds of the epoch")
    parser.add_argument("--every-s", type=float, required=True, help="time between two items")
    given = parser.parse_args()
    app = Celery(broker=os.environ["DATASHUNT_BROKER_URL"], set_as_current=False)
    while (start := int(given.progress.read_text() or 0)) < given.count:
        time.sleep(max(0.0, given.began + start * given.every_s - time.time()))
        submission, classifier, items = chunk(start, given.count)
        if start // CHUNK % 2:
            _over_the_broker(app, submission, classifier, items)
        else:
            _by_client(submission, classifier, items)
        draft = given.progress.with_suffix(".new")
        draft.write_text(str(start + len(items)))
        draft.replace(given.progress)
    while True:
        time.sleep(1.0)  # ended by the campaign


if __name__ == "__main__":
    main()
