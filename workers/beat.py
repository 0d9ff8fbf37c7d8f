"""How beat ends: at once, since it holds nothing; the rows that are due are in PostgreSQL."""

from __future__ import annotations

import signal
import threading
from typing import Any

from celery import signals
from celery.beat import Service

CACHED = ("producer", "connection")
"""What a scheduler makes when it first publishes, and takes leave of when it is closed."""


@signals.beat_init.connect  # type: ignore[untyped-decorator]
def end_without_goodbye(sender: Service, **_: Any) -> None:
    """Take SIGTERM and SIGINT from Celery, whose handler closes the connection in the midst of whatever uses it.

    That waits for the broker's answer, which may never come; and the code that the signal interrupted then fails at a
    socket that is closed, takes this for a lost line, and connects again instead of ending.
    """

    def end(*_: object) -> None:
        for name in CACHED:
            vars(sender.scheduler).pop(name, None)  # Celery then finds none to close; the process takes it along
        raise SystemExit

    if threading.current_thread() is threading.main_thread():  # a worker's own beat may be a thread
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
