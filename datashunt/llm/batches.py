"""The Batches API of the endpoint: files of chat requests, answered in their own time and at a lower price.

What is done twice is found again: a file by its name, a batch by the key in its metadata.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

import httpx2
import openai
from openai.types import Batch

from datashunt.errors import LLMError, LLMNotAsked, LLMUnavailable
from datashunt.items import Reply
from datashunt.llm.adapter import storable
from datashunt.llm.chat import CHAT
from datashunt.llm.client import LLM
from datashunt.llm.failures import refused_parameter, translate
from datashunt.prompts import Prompt

MAX_REQUESTS = 50_000
"""Most requests of one file."""
MAX_BYTES = 100_000_000
"""Most bytes of one file. Endpoints take 200 MB; ours are made in memory."""
TRANSFER_S = 300.0
"""Wall-clock limit of sending or fetching a file."""
ENDED = {"completed", "expired", "cancelled", "failed"}
CLOCKS_S = 86_400
"""By how much the endpoint's clock may differ from ours, at most."""

_TAG = "datashunt"
_URL = "/v1/chat/completions"
_BATCHES = replace(CHAT, path="/batches")
_NOT_EXECUTED = {"batch_expired", "batch_cancelled"}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch as the endpoint describes it.

    Attributes:
        status: the endpoint's word; in ENDED when no more will come.
        output: file of the replies, if there are any. errors: file of the requests that brought none.
        problem: codes of what is wrong with its file, and in which lines.
    """

    id: str
    status: str
    output: str | None
    errors: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a result file: of which request, and its HTTP status and body, or why it has none."""

    custom_id: str
    status: int | None
    body: object
    error: str

    @classmethod
    def of(cls, raw: bytes) -> Line:
        """The line that these bytes are. What is no such line has a custom id that is nobody's."""
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        fields = found if isinstance(found, dict) else {}
        response, error = fields.get("response"), fields.get("error")
        response = response if isinstance(response, dict) else {}
        status = response.get("status_code")
        code = error.get("code") if isinstance(error, dict) else None
        custom_id = fields.get("custom_id")
        return cls(
            custom_id if isinstance(custom_id, str) else "",
            status if type(status) is int and 100 <= status <= 599 else None,
            response.get("body"),
            str(code or "batch_error"),
        )


class Batches:
    """The batches of one endpoint and key. Safe for any number of threads.

    Every method raises the errors of `LLM.ask`; LLMNotFound also where the endpoint has no batches, or no such one.
    """

    def __init__(self, llm: LLM, deadline_s: float) -> None:
        self._llm = llm
        self._deadline_s = deadline_s

    def request_line(self, custom_id: str, prompt: Prompt, model: str, samples: int) -> bytes:
        """The line of a file that asks this, without what the model is known to refuse."""
        body = CHAT.request(prompt, model, self._llm.abilities(model).manner(samples))
        line = {"custom_id": custom_id, "method": "POST", "url": _URL, "body": body}
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    def reply_of(self, line: Line, prompt: Prompt, model: str) -> Reply:
        """What a line says.

        Raises:
            LLMNotAsked: the request was never executed.
            LLMError: as for a live call.
        """
        able = self._llm.abilities(model)
        if line.status == 200:
            reply = CHAT.read(line.body, prompt, model, None)
            able.learn_answer(reply, CHAT, prompt)
            return reply
        if line.status is not None:
            raise self._refusal(line, line.status, prompt, model)
        if line.error in _NOT_EXECUTED:
            raise LLMNotAsked("the batch ended before this request was executed", kind=line.error)
        raise LLMUnavailable("the batch could not execute this request", kind="batch_error")

    def _refusal(self, line: Line, status: int, prompt: Prompt, model: str) -> LLMError:
        body = line.body.get("error", line.body) if isinstance(line.body, dict) else None
        said = body.get("message") if isinstance(body, dict) else None
        response = httpx2.Response(status, request=httpx2.Request("POST", f"http://batch{_URL}"))
        error = openai.APIStatusError(str(said or ""), response=response, body=body)
        if refused_parameter(error, prompt) is None:
            return translate(error, prompt, model, CHAT)
        self._llm.abilities(model).learn_refusal(error, CHAT, "chat", prompt)
        return LLMUnavailable(
            f"the LLM endpoint refuses a part of the request that it can do without ({status})",
            kind="refused_parameter",
            http_status=status,
        )

    def upload(self, name: str, content: bytes, model: str) -> str:
        """Send a file of requests; returns its id at the endpoint."""

        async def send(client: openai.AsyncOpenAI) -> str:
            made = await client.files.create(file=(name, content), purpose="batch", timeout=TRANSFER_S)
            return _id_of(made.id)

        return self._do(send, model, TRANSFER_S)

    def find_file(self, name: str, size: int, model: str) -> str | None:
        """The id of a file of this name and number of bytes that was sent before; others of this name are deleted."""

        async def look(client: openai.AsyncOpenAI) -> str | None:
            found = [
                file
                async for file in client.files.list(purpose="batch", timeout=self._deadline_s)
                if file.filename == name
            ]
            whole = next((_id_of(file.id) for file in found if file.bytes == size), None)
            for file in found:
                if file.id != whole:
                    await client.files.delete(file.id, timeout=self._deadline_s)
            return whole

        return self._do(look, model)

    def create(self, file_id: str, key: UUID, model: str) -> str:
        """Begin a batch that can be found by this key; returns its id at the endpoint."""

        async def begin(client: openai.AsyncOpenAI) -> str:
            made = await client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_TAG: str(key)},
                timeout=self._deadline_s,
            )
            return _id_of(made.id)

        return self._do(begin, model)

    def find(self, key: UUID, since: float, model: str) -> str | None:
        """The id of the batch that was begun with this key.

        Args:
            key: as `create` was given it.
            since: seconds of the epoch, before it was begun; older batches are not looked at.
            model: that it asks.
        """

        async def look(client: openai.AsyncOpenAI) -> str | None:
            async for batch in client.batches.list(limit=100, timeout=self._deadline_s):
                if (batch.metadata or {}).get(_TAG) == str(key):
                    return _id_of(batch.id)
                if batch.created_at < since - CLOCKS_S:
                    break  # they come newest first
            return None

        return self._do(look, model)

    def look_at(self, remote_id: str, model: str) -> Remote:
        """How far a batch is."""

        async def look(client: openai.AsyncOpenAI) -> Remote:
            return _remote(await client.batches.retrieve(remote_id, timeout=self._deadline_s))

        return self._do(look, model)

    def cancel(self, remote_id: str, model: str) -> None:
        """Let a batch end with what is done."""

        async def end(client: openai.AsyncOpenAI) -> None:
            await client.batches.cancel(remote_id, timeout=self._deadline_s)

        self._do(end, model)

    def results(self, file_id: str, model: str) -> Iterator[Line]:
        """The lines of a result file. It is fetched whole, onto the disk, before the first is given."""
        with tempfile.TemporaryFile() as spool:

            async def fetch(client: openai.AsyncOpenAI) -> None:
                async with client.files.with_streaming_response.content(file_id, timeout=TRANSFER_S) as response:
                    async for piece in response.iter_bytes():
                        spool.write(piece)

            self._do(fetch, model, TRANSFER_S)
            spool.seek(0)
            for raw in spool:
                if raw.strip():
                    yield Line.of(raw)

    def forget(self, file_id: str, model: str) -> None:
        """Delete a file at the endpoint."""

        async def delete(client: openai.AsyncOpenAI) -> None:
            await client.files.delete(file_id, timeout=self._deadline_s)

        self._do(delete, model)

    def _do(
        self,
        work: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, T]],
        model: str,
        limit_s: float | None = None,
    ) -> T:
        try:
            return self._llm.within(limit_s or self._deadline_s, work)
        except openai.OpenAIError as error:
            raise translate(error, None, model, _BATCHES) from None
        except httpx2.HTTPError as error:
            # The client translates no error of a body that is read piece by piece.
            raise LLMUnavailable(
                f"the connection to the LLM endpoint broke before the file was whole ({type(error).__name__})",
                kind="connection",
            ) from None
        except (ValueError, TypeError, AttributeError):
            # The client trusts the endpoint's bodies.
            raise LLMUnavailable(
                "the LLM endpoint's reply about a batch is not what the Batches API says",
                kind="invalid_body",
                may_be_billed=True,
            ) from None


def _id_of(said: object) -> str:
    """An id as the endpoint gives it: text that can be stored as it is."""
    if not isinstance(said, str) or storable(said) != said:
        raise TypeError
    return said


def _remote(batch: Batch) -> Remote:
    wrong = (batch.errors.data if batch.errors else None) or []
    problem = ", ".join(f"{one.code} in line {one.line}" if one.line else f"{one.code}" for one in wrong[:5])
    output, errors = (None if one is None else _id_of(one) for one in (batch.output_file_id, batch.error_file_id))
    return Remote(_id_of(batch.id), storable(batch.status), output, errors, storable(problem))
