"""`datashunt.submit(submission_id, classifier, items)`: for producers that reach nothing but the broker."""

from __future__ import annotations

from typing import Any

from datashunt.classifier import NAME
from datashunt.errors import BrokerError, UsageError
from datashunt.items import Receipt
from datashunt.pipeline.submit import fault_of_id
from datashunt.telemetry import event
from workers.app import app, publish, runtime


@app.task(name="datashunt.submit", bind=True, acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def submit(self: Any, submission_id: str, classifier: str, items: list[Any]) -> None:
    """Store a submission and answer with its receipt.

    Nothing is promised until the receipt can be read, from `reply_to` or the database; until then the
    producer sends the same submission again, which changes nothing. It is acknowledged after the commit.
    """
    receipt, error = take(submission_id, classifier, items)
    if self.request.reply_to:
        try:
            runtime().publisher.reply(
                self.request.reply_to, self.request.correlation_id, {**receipt.to_json(), "error": error}
            )
        except BrokerError as trouble:
            event("receipt_not_sent", submission=submission_id, error=str(trouble))


def take(submission_id: object, classifier: object, items: object) -> tuple[Receipt, str | None]:
    """Store what came over the broker; whatever is wrong with it is in the receipt."""
    named = classifier if isinstance(classifier, str) and NAME.fullmatch(classifier) else ascii(classifier)[:63]
    fault = fault_of_id(submission_id)
    if fault is not None or not isinstance(submission_id, str):
        error = f"the submission id cannot be used: {fault[1] if fault else ''}"
        return Receipt(ascii(submission_id)[:200], named, 0, 0), error
    if not isinstance(classifier, str) or not isinstance(items, list):
        error = "expected submission_id, the classifier's name, and a list of items"
        return runtime().intake.refuse(named, submission_id, error), error
    try:
        receipt, wakes = runtime().intake.submit(classifier, items, submission_id)
    except UsageError as refused:
        return runtime().intake.refuse(named, submission_id, str(refused)), str(refused)
    publish(wakes)
    return receipt, None
