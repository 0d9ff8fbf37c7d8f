"""Celery's consumer without its delayed delivery: waiting is a row here, and no task has a countdown.

With quorum queues each worker would declare 28 queues and as many exchanges for it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from celery.worker import consumer


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery ships no types
    """Takes messages from the queues of this worker."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """The steps by which it starts."""

        default_steps: ClassVar[list[Any]] = [
            step for step in consumer.Consumer.Blueprint.default_steps if not str(step).endswith(":DelayedDelivery")
        ]
