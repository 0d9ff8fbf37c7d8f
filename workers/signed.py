"""With DATASHUNT_MESSAGE_KEY, a worker does nothing for a message without its signature, whatever it says."""

from __future__ import annotations

import logging
from typing import Any

from celery import Task
from celery.worker.strategy import default

from datashunt import settings
from datashunt.errors import BrokerError
from datashunt.items import Receipt
from datashunt.pipeline.submit import fault_of_id
from datashunt.signing import HEADER, Fault, Signer
from datashunt.telemetry import event

REFUSED = (
    "the message is {fault}: producer and workers need the same DATASHUNT_MESSAGE_KEY, and nothing of it was stored"
)
_logger = logging.getLogger(__name__)


class SignedTask(Task):  # type: ignore[misc]  # Celery ships no types
    """What every task of the app is, Celery's own among them: `celery.map` would run any other one."""

    abstract = True
    Strategy = "workers.signed:strategy"


def strategy(task: Any, app: Any, consumer: Any, **other: Any) -> Any:
    """How a worker takes messages of a task: as Celery does, once the signature was found right."""
    take = default(task, app, consumer, **other)
    key = settings.load().message_key
    if key is None:
        return take
    signer = Signer(key)

    def checked(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        fault = fault_of(signer, task.name, message)
        if fault is None:
            return take(message, body, ack, reject, callbacks, **more)
        event("message_refused", level=logging.WARNING, task=task.name, why=fault)
        reject(_logger, consumer.connection_errors)
        if task.name == "datashunt.submit":
            _tell(message, fault)
        return None

    return checked


def fault_of(signer: Signer, task: str, message: Any) -> Fault | None:
    """Why a message must not be used, or None."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode(errors="surrogatepass")
    return signer.fault(task, body, (message.headers or {}).get(HEADER))


def _tell(message: Any, fault: Fault) -> None:
    """Answer a producer that waits for a receipt, without a signature; whatever else the message says is not read."""
    from workers.app import runtime

    reply_to = message.properties.get("reply_to")
    if not isinstance(reply_to, str) or not reply_to:
        return
    words = {"unsigned": "not signed", "wrong_signature": "signed with another key"}
    receipt = Receipt(_named(message), "", 0, 0, error=REFUSED.format(fault=words[fault]))
    try:
        correlation_id = message.properties.get("correlation_id")
        runtime().publisher.reply(reply_to, correlation_id, receipt.to_json(), verified=False)
    except BrokerError as trouble:
        event("receipt_not_sent", error=str(trouble))


def _named(message: Any) -> str:
    """The submission id that it claims, which its producer waits for; "" where that cannot be read."""
    try:
        given = message.payload[0][0]
    except Exception:  # noqa: BLE001 - anybody may have written it, and kombu's errors are many
        return ""
    return given if isinstance(given, str) and fault_of_id(given) is None else ""
