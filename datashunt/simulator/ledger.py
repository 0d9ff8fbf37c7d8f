"""What a simulation served. Imports nothing of datashunt but items."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from datashunt.items import Usage
from datashunt.simulator.window import Peak


class Ledger:
    """Counts of chat requests, from the moment they arrived. Safe to read from any thread."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._peak = Peak(window_s)
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._items: Counter[str] = Counter()
        self._unknown = 0
        self._prompt = 0
        self._completion = 0

    def reply(self, status: int, usage: Usage | None, now: float) -> None:
        """Book the reply to one request that arrived `now`, in seconds, and what it is charged for."""
        with self._lock:
            self._statuses[status] += 1
            if usage is not None:
                self._prompt += usage.prompt
                self._completion += usage.completion
                self._peak.add(now, usage.total)

    def item(self, id_: str | None) -> None:
        """Book that an item was answered; None for a text that is not in the file."""
        with self._lock:
            if id_ is None:
                self._unknown += 1
            else:
                self._items[id_] += 1

    def to_json(self) -> dict[str, Any]:
        """All counts.

        `requests` = `served` (200) + `throttled` (429) + `failed` (the rest); `items`: id → times answered;
        `unknown`: answers for texts that are not in the file. The peaks are the most requests that were let in,
        and the most of their tokens, in any window.
        """
        with self._lock:
            requests, served, throttled = (
                self._statuses.total(),
                self._statuses[200],
                self._statuses[429],
            )
            return {
                "simulation": True,
                "requests": requests,
                "served": served,
                "throttled": throttled,
                "failed": requests - served - throttled,
                "prompt_tokens": self._prompt,
                "completion_tokens": self._completion,
                "peak_requests": self._peak.requests,
                "peak_tokens": self._peak.tokens,
                "unknown": self._unknown,
                "items": dict(self._items),
            }
