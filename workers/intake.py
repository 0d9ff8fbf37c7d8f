"""`datashunt.submit(submission_id, classifier, items)`: for producers that reach nothing but the broker."""

from __future__ import annotations

import time
from typing import Any

from celery.exceptions import Reject

from datashunt.classifier import NAME
from datashunt.errors import BrokerError, QueueFull, StoreError, UsageError
from datashunt.items import Receipt
from datashunt.pipeline.submit import fault_of_id
from datashunt.telemetry import event
from workers.app import app, publish, runtime

AGAIN_S = 1.0
"""Pause before a submission that PostgreSQL did not take goes back to the queue."""


@app.task(name="datashunt.submit", bind=True, acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def submit(self: Any, submission_id: str, classifier: str, items: list[Any]) -> None:
    """Store a submission and answer with its receipt.

    Nothing is promised until the receipt can be read, from `reply_to` or the database; until then the
    producer sends the same submission again, which changes nothing. It is acknowledged after the commit; while
    PostgreSQL is away, it goes back to the queue.
    """
    try:
        receipt = take(submission_id, classifier, items)
    except StoreError as error:
        event("submission_not_stored", error=str(error))
        time.sleep(AGAIN_S)
        # Celery acknowledges a task that fails, also one that acknowledges late.
        raise Reject(str(error), requeue=True) from None
    if self.request.reply_to:
        try:
            runtime().publisher.reply(self.request.reply_to, self.request.correlation_id, receipt.to_json())
        except BrokerError as trouble:
            event("receipt_not_sent", submission=submission_id, error=str(trouble))


def take(submission_id: object, classifier: object, items: object) -> Receipt:
    """Store what came over the broker; whatever is wrong with it is in the receipt.

    Raises:
        StoreError: nothing was stored.
    """
    named = classifier if isinstance(classifier, str) and NAME.fullmatch(classifier) else ascii(classifier)[:63]
    fault = fault_of_id(submission_id)
    if fault is not None or not isinstance(submission_id, str):
        error = f"the submission id cannot be used: {fault[1] if fault else ''}"
        return Receipt(ascii(submission_id)[:200], named, 0, 0, error=error)
    if not isinstance(classifier, str) or not isinstance(items, list):
        error = "expected submission_id, the classifier's name, and a list of items"
        return runtime().intake.refuse(named, submission_id, error)
    try:
        receipt, wakes = runtime().intake.submit(classifier, items, submission_id)
    except (UsageError, QueueFull) as refused:
        return runtime().intake.refuse(named, submission_id, str(refused))
    publish(wakes)
    return receipt
