"""Batches: files of requests, answered in their own time. In memory and bounded. Imports its siblings only.

A batch goes forward in slices, so that live requests are answered between them. Its n requests are spread evenly
over the delay; those not due when its window ends are never answered.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, Field

from datashunt.simulator.batch import Batch
from datashunt.simulator.bodies import validated
from datashunt.simulator.files import Files, id_in, page
from datashunt.simulator.messages import Refused, Request, Response, error

MAX_BATCHES = 1000
"""So many are remembered; the oldest that have ended are forgotten."""


class _Create(BaseModel):
    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = Field(None, max_length=16)


class Batches:
    """All batches. Not for use by several threads at once.

    Args:
        files: where inputs are found and outputs kept.
        answer: answers the body of one of a batch's requests, and books it.
        clock: seconds. delay_s, window_s: those of `Options`.
    """

    def __init__(
        self,
        files: Files,
        answer: Callable[[bytes], Response],
        clock: Callable[[], float],
        *,
        delay_s: float,
        window_s: float,
    ) -> None:
        self._files = files
        self._answer = answer
        self._clock = clock
        self._delay_s = delay_s
        self._window_s = window_s
        self._batches: dict[str, Batch] = {}

    def create(self, request: Request) -> Response:
        """Begin a batch; its file is looked at later."""
        asked = validated(_Create, request.body, "the body")
        file = self._files.find(asked.input_file_id)
        self._make_room()
        batch = Batch(
            id=f"batch_simulation_{uuid.uuid4().hex}",
            endpoint=asked.endpoint,
            input_file_id=file.id,
            metadata=asked.metadata,
            input=file.content,
            started_at=self._clock(),
            delay_s=self._delay_s,
            window_s=self._window_s,
        )
        self._batches[batch.id] = batch
        return Response(200, batch.to_json())

    def retrieve(self, request: Request) -> Response:
        """How far a batch is."""
        return Response(200, self._find(request).to_json())

    def listing(self, request: Request) -> Response:
        """The batches, newest first."""
        newest = [batch.to_json() for batch in reversed(self._batches.values())]
        return page(newest, request, default=20, most=100)

    def cancel(self, request: Request) -> Response:
        """End a batch with what is done."""
        batch = self._find(request)
        if not batch.open:
            raise Refused(error(409, f"the batch is {batch.status}: it cannot be cancelled", param="id"))
        batch.cancel()
        return Response(200, batch.to_json())

    def advance(self) -> bool:
        """Take every open batch forward by one slice of its work.

        Returns:
            Whether any is still open.
        """
        for batch in self._batches.values():
            if batch.open:
                batch.advance(self._clock(), self._answer)
                if not batch.open:
                    batch.output_file_id = self._keep(batch.id, "output", batch.output)
                    batch.error_file_id = self._keep(batch.id, "error", batch.failures)
                    batch.output, batch.failures = [], []
        return any(batch.open for batch in self._batches.values())

    def _find(self, request: Request) -> Batch:
        id_ = id_in(request)
        if id_ not in self._batches:
            raise Refused(error(404, f"there is no batch {id_}", param="id"))
        return self._batches[id_]

    def _make_room(self) -> None:
        if len(self._batches) < MAX_BATCHES:
            return
        ended = [id_ for id_, batch in self._batches.items() if not batch.open]
        if not ended:
            raise Refused(error(429, f"{MAX_BATCHES} batches are open: wait until one has ended", kind="requests"))
        del self._batches[ended[0]]

    def _keep(self, id_: str, what: str, lines: list[bytes]) -> str | None:
        if not lines:
            return None
        # Nobody promises the order of the input.
        return self._files.add(f"{id_}_{what}.jsonl", "batch_output", b"".join(reversed(lines))).id
