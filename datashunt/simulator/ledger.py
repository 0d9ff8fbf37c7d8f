"""What a simulation served, to the token. Imports nothing of datashunt but items."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

from datashunt.items import Usage
from datashunt.simulator.messages import Response, Way
from datashunt.simulator.window import Peak

BATCH = "batch"
"""The endpoint under which the requests of batches are booked; they have limits of their own."""

_NOTHING = Usage(0, 0)
_LOST = {Way.NEVER, Way.RESET, Way.HALF}


class Tally:
    """Counts of one kind of requests."""

    def __init__(self, window_s: float) -> None:
        self._statuses: Counter[int] = Counter()
        self._prompt = 0
        self._completion = 0
        self._peak = Peak(window_s)

    def add(self, status: int, billed: Usage | None, now: float | None) -> None:
        """One request. `status`: 0 where no whole reply went out. `now`: None keeps it out of the peak."""
        usage = billed or _NOTHING
        self._statuses[status] += 1
        self._prompt += usage.prompt
        self._completion += usage.completion
        if billed is not None and now is not None:
            self._peak.add(now, usage.total)

    def to_json(self) -> dict[str, int]:
        """`requests` = `served` (200) + `throttled` (429) + `failed` (the rest), tokens billed, and the peak."""
        requests, served, throttled = self._statuses.total(), self._statuses[200], self._statuses[429]
        return {
            "requests": requests,
            "served": served,
            "throttled": throttled,
            "failed": requests - served - throttled,
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "peak_requests": self._peak.requests,
            "peak_tokens": self._peak.tokens,
        }


class Ledger:
    """Counts of the requests that ask the LLM, from the moment they arrived. Safe to read from any thread.

    Args:
        window_s: length of the sliding window of the peaks.
    """

    def __init__(self, window_s: float = 60.0) -> None:
        self._lock = threading.Lock()
        self._window_s = window_s
        self._all = Tally(window_s)
        self._endpoints: defaultdict[str, Tally] = defaultdict(lambda: Tally(window_s))
        self._models: defaultdict[str, Tally] = defaultdict(lambda: Tally(window_s))
        self._faults: dict[str, Counter[str]] = {}
        self._items: Counter[str] = Counter()
        self._unknown = 0

    def reply(self, endpoint: str, model: str, response: Response, now: float) -> None:
        """Book the reply to one request.

        Args:
            endpoint: `chat`, `decisions`, `systemone` or BATCH.
            model: the one that the request names, or "" if it names none.
            response: what goes out, and what it is charged for.
            now: seconds, when the request arrived.
        """
        status = 0 if response.way in _LOST else response.status
        with self._lock:
            for tally in (self._all, self._endpoints[endpoint], self._models[model]):
                tally.add(status, response.billed, None if endpoint == BATCH else now)

    def fault(self, kind: str, billed: Usage | None) -> None:
        """Book that a fault happened, and which tokens are billed all the same; None for none."""
        usage = billed or _NOTHING
        with self._lock:
            counts = self._faults.setdefault(kind, Counter(requests=0, billed=0, prompt_tokens=0, completion_tokens=0))
            counts["requests"] += 1
            counts["billed"] += billed is not None
            counts["prompt_tokens"] += usage.prompt
            counts["completion_tokens"] += usage.completion

    def item(self, id_: str | None) -> None:
        """Book that an item was answered; None for a text that is not in the file."""
        with self._lock:
            if id_ is None:
                self._unknown += 1
            else:
                self._items[id_] += 1

    def to_json(self) -> dict[str, Any]:
        """All counts.

        Those of `Tally.to_json` over all requests, and again by endpoint (`endpoints`) and model (`models`). The
        peaks are the most requests that were let in, and the most of their tokens, in any `window_s` seconds;
        requests of batches are in every count but these. `faults`: kind → requests, how many of them are
        billed, and their tokens. `items`: id → times answered; `unknown`: answers for texts that are not in
        the file.
        """
        with self._lock:
            return {
                "simulation": True,
                "window_s": self._window_s,
                **self._all.to_json(),
                "endpoints": {name: tally.to_json() for name, tally in self._endpoints.items()},
                "models": {name: tally.to_json() for name, tally in self._models.items()},
                "faults": {kind: dict(counts) for kind, counts in self._faults.items()},
                "unknown": self._unknown,
                "items": dict(self._items),
            }
