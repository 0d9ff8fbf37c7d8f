"""One batch: its file checked, its requests answered slice by slice. Imports its siblings only."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datashunt.items import Usage
from datashunt.simulator.messages import Response

MAX_REQUESTS = 50_000
MAX_ERRORS = 100
"""So many wrong lines are told."""

CHECKED_AT_ONCE, ANSWERED_AT_ONCE = 1000, 40
"""A slice takes some milliseconds."""

_OPEN = {"validating", "in_progress", "cancelling"}


@dataclass(slots=True)
class Batch:
    """A batch and its state.

    Attributes:
        input: the file, JSON lines.
        started_at: seconds of the clock that `advance` is told.
        delay_s: from its start until its last request is answered. window_s: until it expires.
        output: lines of JSON for requests answered with a 200. failures: those for the others.
        errors: why the whole batch failed, if it did.
    """

    id: str
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    input: bytes = field(repr=False)
    started_at: float
    delay_s: float
    window_s: float
    status: str = "validating"
    output: list[bytes] = field(default_factory=list, repr=False)
    failures: list[bytes] = field(default_factory=list, repr=False)
    errors: list[dict[str, Any]] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    _times: dict[str, int] = field(default_factory=dict)
    _lines: list[bytes] = field(default_factory=list, repr=False)
    _requests: list[tuple[str, bytes]] = field(default_factory=list, repr=False)
    _custom_ids: set[str] = field(default_factory=set, repr=False)
    _checked: int = 0
    _answered: int = 0
    _completed: int = 0
    _failed: int = 0
    _model: str | None = None
    _usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def __post_init__(self) -> None:
        self._times["created_at"] = int(time.time())
        self._lines = self.input.splitlines()

    @property
    def open(self) -> bool:
        """Whether it goes on."""
        return self.status in _OPEN

    def cancel(self) -> None:
        """Let it end with what is done."""
        self._become("cancelling")

    def advance(self, now: float, answer: Callable[[bytes], Response]) -> None:
        """Do one slice of what is due.

        Args:
            now: seconds.
            answer: answers the body of one request.
        """
        if self.status == "cancelling":
            self._become("cancelled")
        elif self.status == "validating":
            self._check()
        else:
            self._go_on(now, answer)

    def to_json(self) -> dict[str, Any]:
        """The batch as a batch object."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self._model,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "expires_at": self._times["created_at"] + int(self.window_s),
            **self._times,
            "request_counts": {"total": len(self._requests), "completed": self._completed, "failed": self._failed},
            "metadata": self.metadata,
            "usage": {
                "input_tokens": self._usage.prompt,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self._usage.completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._usage.total,
            },
        }

    def _become(self, status: str) -> None:
        self.status = status
        self._times[f"{status}_at"] = int(time.time())
        if not self.open:
            self.input, self._lines, self._custom_ids = b"", [], set()

    def _check(self) -> None:
        """Read some lines; the batch fails as a whole if any is wrong."""
        if not self._lines:
            self._wrong("empty_file", "the file holds no requests", None)
        elif len(self._lines) > MAX_REQUESTS:
            self._wrong("too_many_tasks", f"expected at most {MAX_REQUESTS} requests, found {len(self._lines)}", None)
        else:
            end = self._checked + CHECKED_AT_ONCE
            for number, line in enumerate(self._lines[self._checked : end], start=self._checked + 1):
                self._read(number, line)
            self._checked = end
        if self._checked < len(self._lines) and not self.errors:
            return
        self._become("failed" if self.errors else "in_progress")
        if self.errors:
            self._requests = []

    def _read(self, number: int, line: bytes) -> None:
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError):
            self._wrong("invalid_json_line", "this line is no JSON", number)
            return
        if not isinstance(asked, dict) or not isinstance(asked.get("body"), dict):
            self._wrong("missing_required_parameter", "expected an object with a body", number, "body")
            return
        custom_id, model = asked.get("custom_id"), asked["body"].get("model")
        self._model = self._model or model
        if not isinstance(custom_id, str) or not custom_id:
            self._wrong("missing_required_parameter", "expected some text", number, "custom_id")
        elif custom_id in self._custom_ids:
            self._wrong("duplicate_custom_id", f"the custom_id {custom_id!r} stands in the file twice", number)
        elif (asked.get("method"), asked.get("url")) != ("POST", self.endpoint):
            self._wrong("invalid_url", f"expected POST {self.endpoint}", number, "url")
        elif model != self._model:
            self._wrong("mismatched_model", f"expected one model for all, {self._model!r}", number, "body.model")
        else:
            self._custom_ids.add(custom_id)
            self._requests.append((custom_id, json.dumps(asked["body"]).encode()))

    def _wrong(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"code": code, "message": f"simulation: {message}", "line": line, "param": param})

    def _go_on(self, now: float, answer: Callable[[bytes], Response]) -> None:
        """Answer some requests that are due; end when all are answered, or when the window has ended."""
        total, elapsed = len(self._requests), min(now - self.started_at, self.window_s)
        due = total if elapsed >= self.delay_s else int(total * elapsed / self.delay_s)
        end = min(due, self._answered + ANSWERED_AT_ONCE)
        for custom_id, body in self._requests[self._answered : end]:
            self._book(custom_id, answer(body))
        self._answered = end
        if self._answered == total:
            self._become("completed")
        elif self._answered == due and elapsed >= self.window_s:
            message = "simulation: not executed before the completion window expired"
            for custom_id, _ in self._requests[self._answered :]:
                self.failures.append(_line(custom_id, None, {"code": "batch_expired", "message": message}))
            self._failed = len(self.failures)
            self._become("expired")

    def _book(self, custom_id: str, response: Response) -> None:
        replied = {"status_code": response.status, "request_id": uuid.uuid4().hex, "body": response.body}
        (self.output if response.status == 200 else self.failures).append(_line(custom_id, replied, None))
        self._completed, self._failed = len(self.output), len(self.failures)
        if response.billed is not None:
            billed = response.billed
            self._usage = Usage(self._usage.prompt + billed.prompt, self._usage.completion + billed.completion)


def _line(custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, str] | None) -> bytes:
    line = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
