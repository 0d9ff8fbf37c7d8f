"""How many items may be queued: a producer that is faster than the workers is told so."""

from __future__ import annotations

import threading
import time

from datashunt.errors import QueueFull
from datashunt.store import Connection, intake

COUNT_EVERY_S = 1.0
"""A process counts no more often, and adds what it stores itself: others may pass the bound for so long."""


class Bound:
    """One for each process. `most`: items of one classifier that may be queued; 0: no bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counted: dict[int, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def check(self, tx: Connection, classifier_id: int, name: str) -> None:
        """Let a submission pass while fewer items are queued than may be.

        Raises:
            QueueFull: as many are.
        """
        if not self._most:
            return
        counted_at, count = self._counted.get(classifier_id, (-float("inf"), 0))
        if time.monotonic() - counted_at > COUNT_EVERY_S:
            count = intake.queued(tx, classifier_id, self._most)
            with self._lock:
                self._counted[classifier_id] = (time.monotonic(), count)
        if count >= self._most:
            raise QueueFull(
                f"{self._most:,} items of {name} are queued, and no more may be (DATASHUNT_MAX_QUEUED):"
                " send it again when the workers have caught up; nothing was stored"
            )

    def add(self, classifier_id: int, items: int) -> None:
        """So many more are queued now."""
        with self._lock:
            if classifier_id in self._counted:
                counted_at, count = self._counted[classifier_id]
                self._counted[classifier_id] = (counted_at, count + items)
