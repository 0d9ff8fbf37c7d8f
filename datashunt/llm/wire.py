"""The chat completions protocol, as far as we speak it: what is sent, and what a reply's JSON means. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from datashunt.errors import LLMUnusable
from datashunt.items import Reply, Usage
from datashunt.prompts import Prompt, TokenLogprobs, count_tokens, label_probabilities, parse

OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "logprobs": ("logprobs",),
    "response_format": ("response_format", "json_schema", "guided", "grammar"),
    "temperature": ("temperature",),
    "max_tokens": ("max_tokens",),
}
"""What a server may not know, and the words by which its complaint names it."""


def request_body(prompt: Prompt, model: str, without: Collection[str]) -> dict[str, Any]:
    """The request for one prompt.

    Args:
        prompt: what to ask.
        model: whom.
        without: names of OPTIONAL that this server refuses. Without `response_format` the prompt alone asks
            for JSON; without `max_tokens` (reasoning models: it would cut their thought) replies have no cap.
    """
    optional: dict[str, dict[str, Any]] = {
        # As many alternatives as candidates, and a few for other ways to cut the same text into tokens.
        "logprobs": {"logprobs": True, "top_logprobs": min(20, len(prompt.answers) + 2)},
        "response_format": {"response_format": prompt.response_format},
        "temperature": {"temperature": 0},
        "max_tokens": {"max_tokens": prompt.max_tokens},
    }
    body: dict[str, Any] = {"model": model, "messages": list(prompt.messages)}
    for name, part in optional.items():
        body.update(part if name not in without else {})
    return body


def read_reply(body: object, prompt: Prompt, *, model: str, latency_ms: float) -> Reply:
    """What a reply says.

    A server that reports no usage is taken at our estimate.

    Args:
        body: the decoded JSON of a 200 response.
        prompt: what was asked.
        model: whom; stands in where the response names no model.
        latency_ms: wall clock of the request.

    Raises:
        LLMUnusable: kind `empty`, `invalid_json`, `outside_candidates`, `refusal`, `content_filter`, `length`
            or `invalid_body`; with the usage that it was billed at, if the reply has one.
    """
    fields = body if isinstance(body, dict) else {}
    usage = _usage(fields.get("usage"))
    named: dict[str, Any] = {
        "model": str(fields.get("model") or model),
        "fingerprint": str(fields.get("system_fingerprint") or ""),
    }
    try:
        choice = _choice(fields)
        content, label = _answer(choice, prompt)
    except LLMUnusable as error:
        raise LLMUnusable(str(error), kind=error.kind, http_status=200, usage=usage, **named) from None
    probabilities = label_probabilities(_tokens(choice), prompt, label)
    return Reply(
        label=label,
        probabilities=probabilities,
        source="none" if probabilities is None else "logprobs",
        usage=usage or Usage(prompt=prompt.tokens(), completion=count_tokens(content)),
        latency_ms=latency_ms,
        **named,
    )


def _choice(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = fields.get("choices")
    if not isinstance(choices, list):
        raise LLMUnusable("the endpoint's reply is no chat completion", kind="invalid_body")
    if not choices or not isinstance(choices[0], dict):
        raise LLMUnusable("the endpoint's reply has no choices", kind="empty")
    return choices[0]


def _answer(choice: Mapping[str, Any], prompt: Prompt) -> tuple[str, str]:
    """The text of a choice, and the label it names."""
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    content, finish = message.get("content"), choice.get("finish_reason")
    if message.get("refusal"):
        raise LLMUnusable("the LLM refused to answer", kind="refusal")
    if finish == "content_filter":
        raise LLMUnusable("the endpoint's content filter withheld the answer", kind="content_filter")
    content = content if isinstance(content, str) else ""
    try:
        return content, parse(content, prompt)
    except LLMUnusable:
        if finish == "length":
            raise LLMUnusable("the LLM's reply was cut short at its limit of tokens", kind="length") from None
        raise


def _tokens(choice: Mapping[str, Any]) -> list[TokenLogprobs]:
    """The tokens with their log probabilities; none where the server gives none, or not in this form."""
    logprobs = choice.get("logprobs")
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    try:
        return [
            TokenLogprobs(
                _bytes(entry),
                float(entry["logprob"]),
                tuple((_bytes(other), float(other["logprob"])) for other in entry.get("top_logprobs") or ()),
            )
            for entry in entries or ()
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _bytes(entry: Mapping[str, Any]) -> bytes:
    raw = entry.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(entry["token"]).encode()


def _usage(fields: object) -> Usage | None:
    if not isinstance(fields, dict):
        return None
    prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    details = fields.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt=prompt, completion=completion, cached=cached if isinstance(cached, int) else 0)
