"""Chat completions: a request read, a reply built. Imports prompts and items."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasPath, BaseModel, Field, ValidationError

from datashunt.items import Usage
from datashunt.prompts import count_tokens
from datashunt.simulator.messages import Refused, Request, Response, error
from datashunt.simulator.tokens import Token, speak, to_json

PREFIX = "simulation/"
"""Stands before every model name in a reply."""

TOKENS_PER_MESSAGE = 4
"""What a message costs beside its content."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What a request asks.

    Attributes:
        model: as the request names it.
        item: text of the item. labels: those offered, in the prompt's order.
        prompt_tokens: by `datashunt.prompts.count_tokens`, and TOKENS_PER_MESSAGE for each message.
        max_tokens: the reply is cut after so many; None for no limit.
        top_logprobs: alternatives wanted at each token; None if no log-probabilities are wanted.
    """

    model: str
    item: str
    labels: tuple[str, ...]
    prompt_tokens: int
    max_tokens: int | None
    top_logprobs: int | None

    def usage(self, tokens: Sequence[Token]) -> Usage:
        """What a reply of these tokens costs, cut after `max_tokens`."""
        return Usage(self.prompt_tokens, len(tokens[: self.max_tokens]))


_M = TypeVar("_M", bound=BaseModel)


class _Message(BaseModel):
    role: str
    content: str


class _Body(BaseModel):
    """The parts of a chat completion request that make a difference here; the others are ignored."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    labels: Annotated[list[str], Field(min_length=1)] = Field(
        validation_alias=AliasPath("response_format", "json_schema", "schema", "properties", "label", "enum")
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: Literal[False] | None = None
    n: Literal[1] | None = None


class _UserContent(BaseModel):
    item: str


def parse_chat(request: Request) -> Chat:
    """Read a chat completion request.

    The last message's content must be one JSON object with the text of the item as `item`; the labels are
    the enum of `label` in the JSON schema of `response_format`.

    Raises:
        Refused: carrying a 400 that names the parameter and what was expected.
    """
    body = _validated(_Body, request.body, "the body")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused(error(400, "top_logprobs is allowed with logprobs: true only", param="top_logprobs"))
    content = _validated(_UserContent, body.messages[-1].content, "the last message", param="messages")
    limits = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None]
    return Chat(
        model=body.model,
        item=content.item,
        labels=tuple(dict.fromkeys(body.labels)),
        prompt_tokens=sum(count_tokens(message.content) + TOKENS_PER_MESSAGE for message in body.messages),
        max_tokens=min(limits, default=None),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def completion(chat: Chat, tokens: Sequence[Token], *, fingerprint: str, with_logprobs: bool) -> Response:
    """The reply that consists of these tokens, cut after `max_tokens`, with log-probabilities if asked."""
    said = tokens[: chat.max_tokens]
    usage = chat.usage(tokens)
    logprobs: dict[str, Any] | None = None
    if with_logprobs and chat.top_logprobs is not None:
        logprobs = {"content": [to_json(token, chat.top_logprobs) for token in said], "refusal": None}
    content = "".join(token.text for token in said)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": "stop" if len(said) == len(tokens) else "length",
    }
    body = {
        "id": f"chatcmpl-simulation-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": PREFIX + chat.model,
        "system_fingerprint": fingerprint,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.total,
        },
    }
    return Response(200, body, billed=usage)


def completion_of(chat: Chat, label: str) -> Response:
    """A paid reply that says this label, offered or not, without log-probabilities: for `on_request`."""
    tokens = speak(label, {label: 1.0})
    return completion(chat, tokens, fingerprint="simulation-override", with_logprobs=False)


def _validated(model: type[_M], document: str | bytes, where: str, *, param: str | None = None) -> _M:
    try:
        return model.model_validate_json(document)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {path or 'document'}: {first['msg']}"
        raise Refused(error(400, message, param=param or path or None)) from None
