"""Chat completions: a request read, a reply built. Imports prompts and items."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import AliasPath, BaseModel, Field

from datashunt.items import Usage
from datashunt.prompts import count_tokens
from datashunt.simulator.belief import Said
from datashunt.simulator.bodies import PREFIX, TOKENS_PER_MESSAGE, Manner, item_in, validated
from datashunt.simulator.messages import Refused, Request, Response, error
from datashunt.simulator.tokens import Token, speak, to_json

_LISTED = re.compile(r'- (?:(?P<id>"\w+") is )?(?P<label>"(?:[^"\\]|\\.)*")(?:: .*)?')
_FENCE = ("```json\n", "\n```")


@dataclass(frozen=True, slots=True)
class Chat:
    """What a request asks.

    Attributes:
        model: as the request names it.
        item: text of the item.
        instructions: every message but the last, which is `said`.
        labels: those offered, in the prompt's order. ids: what the reply calls each.
        prompt_tokens: by `datashunt.prompts.count_tokens`, and TOKENS_PER_MESSAGE for each message.
        max_tokens: the reply is cut after so many; None for no limit.
        top_logprobs: alternatives wanted at each token; None if no log-probabilities are wanted.
    """

    model: str
    item: str
    instructions: str
    said: str
    labels: tuple[str, ...]
    ids: Mapping[str, str]
    prompt_tokens: int
    max_tokens: int | None
    top_logprobs: int | None

    @property
    def offers(self) -> tuple[tuple[str, ...]]:
        """The labels of the one question."""
        return (self.labels,)

    def reply(self, said: Sequence[Said], manner: Manner) -> Response:
        """The completion that says the label, with log-probabilities if asked and known here."""
        ids = {label: self.ids.get(label, label) for label in (said[0].label, *said[0].probabilities)}
        tokens = speak(ids[said[0].label], {ids[label]: p for label, p in said[0].probabilities.items()})
        if "response_format" in manner.without:
            opened, closed = (Token(text, ((text, 1.0),)) for text in _FENCE)
            tokens = [opened, *tokens, closed]
        return _completion(self, tokens, manner)


class _Message(BaseModel):
    role: str
    content: str


class _Body(BaseModel):
    """The parts of a chat completion request that make a difference here; the others are ignored."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    labels: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, validation_alias=AliasPath("response_format", "json_schema", "schema", "properties", "label", "enum")
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    temperature: float | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: Literal[False] | None = None
    n: Literal[1] | None = None


class _UserContent(BaseModel):
    item: str


def parse_chat(request: Request) -> Chat:
    """Read a chat completion request (see `read_chat`)."""
    return read_chat(request.body, Manner(""))


def read_chat(document: bytes, manner: Manner) -> Chat:
    """Read the body of a chat completion request.

    The last message's content must be one JSON object with the text of the item as `item`; a gullible server also
    takes it for the text itself. The labels are
    the enum of `label` in the JSON schema of `response_format`, or where there is none, the list
    (`- "label": description`) that ends the first message. A list that gives ids (`- "A" is "label": description`)
    says what those of the enum stand for, and is answered by them.

    Raises:
        Refused: carrying a 400 that names the parameter and what was expected.
    """
    body = validated(_Body, document, "the body")
    for name in ("temperature", "max_tokens"):
        if name in manner.without and getattr(body, name) is not None:
            raise Refused(error(400, f"unsupported parameter: {name}", param=name, code="unsupported_parameter"))
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused(error(400, "top_logprobs is allowed with logprobs: true only", param="top_logprobs"))
    said = body.messages[-1].content
    item = item_in(said)
    if not manner.gullible:
        item = validated(_UserContent, said, "the last message", param="messages").item
    labels = _labels(body, manner)
    limits = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None]
    return Chat(
        model=body.model,
        item=item,
        instructions="\n".join(message.content for message in body.messages[:-1]),
        said=said,
        labels=tuple(labels),
        ids=labels,
        prompt_tokens=sum(count_tokens(message.content) + TOKENS_PER_MESSAGE for message in body.messages),
        max_tokens=min(limits, default=None),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def completion_of(chat: Chat, label: str) -> Response:
    """A paid reply that says this label, offered or not, without log-probabilities: for `on_request`."""
    manner = Manner("simulation-override", without=frozenset({"logprobs"}))
    return chat.reply([Said(label, {label: 1.0})], manner)


def _labels(body: _Body, manner: Manner) -> dict[str, str]:
    """Label → what the reply calls it, in the prompt's order."""
    lines = map(_LISTED.fullmatch, reversed(body.messages[0].content.split("\n")))
    found = [line for line in takewhile(bool, lines) if line is not None]
    listed = {json.loads(line["id"] or line["label"]): json.loads(line["label"]) for line in reversed(found)}
    if body.labels is not None and "response_format" not in manner.without:
        listed = {name: listed.get(name, name) for name in body.labels}
    if not listed:
        param = "response_format.json_schema.schema.properties.label.enum"
        raise Refused(error(400, f"the body: {param}: expected labels, here or at the end of the prompt", param=param))
    return {label: name for name, label in listed.items()}


def _completion(chat: Chat, tokens: Sequence[Token], manner: Manner) -> Response:
    """The reply that consists of these tokens, cut after `max_tokens`."""
    said = tokens[: chat.max_tokens]
    usage = Usage(chat.prompt_tokens, len(said))
    logprobs: dict[str, Any] | None = None
    if "logprobs" not in manner.without and chat.top_logprobs is not None:
        logprobs = {"content": [to_json(token, chat.top_logprobs) for token in said], "refusal": None}
    content = "".join(token.text for token in said)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": "stop" if len(said) == len(tokens) else "length",
    }
    body: dict[str, Any] = {
        "id": f"chatcmpl-simulation-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": PREFIX + chat.model,
        "choices": [choice],
    }
    if "fingerprint" not in manner.without:
        body["system_fingerprint"] = manner.fingerprint
    if "usage" not in manner.without:
        body["usage"] = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.total,
        }
    return Response(200, body, billed=usage, model=chat.model)
