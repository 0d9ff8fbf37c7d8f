"""A worker outlives its broker, even while it holds messages, and one that has no memory left.

When a connection is lost, kombu closes its channels, and puts unacknowledged messages back on the way: over a
connection that is closed by then, so that an AttributeError ends the worker (transport redis). They are not lost: the
rows are the truth, and the broker gives unacknowledged messages again after its visibility timeout.

A thread that acknowledges its message just then meets such a closed channel too, and so does the worker's own loop. To
Celery an AttributeError is a fault that ends the worker; an error of the connection, which it is, lets it connect anew.

Whoever takes a message from a Redis that may not grow cannot write down that it has it. To kombu that is a fault of the
channel, which ends the worker, and ends it again as soon as it is started again; here it is one of the connection: the
worker connects anew until there is memory.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from kombu.transport.redis import Channel, QoS, Transport
from redis.exceptions import ConnectionError, OutOfMemoryError

from datashunt.telemetry import event


def forgiving(restore: Callable[..., None]) -> Callable[..., None]:
    """The same, but what goes wrong is logged."""

    @functools.wraps(restore)
    def attempt(*arguments: Any, **named: Any) -> None:
        try:
            restore(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on
            event("messages_not_put_back", level=logging.WARNING, error=type(error).__name__)

    return attempt


def of_a_lost_connection(parameters: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but a channel that was closed says so, as an error of its connection."""

    @functools.wraps(parameters)
    def attempt(channel: Channel, *arguments: Any, **named: Any) -> Any:
        if channel.connection is None:
            raise ConnectionError("the channel was closed with its connection")
        return parameters(channel, *arguments, **named)

    return attempt


def install() -> None:
    """Let no worker of this process end for it."""
    if not hasattr(QoS.restore_unacked_once, "__wrapped__"):
        QoS.restore_unacked_once = forgiving(QoS.restore_unacked_once)  # type: ignore[method-assign]
        Channel._connparams = of_a_lost_connection(Channel._connparams)  # type: ignore[method-assign]
        Transport.connection_errors += (OutOfMemoryError,)
