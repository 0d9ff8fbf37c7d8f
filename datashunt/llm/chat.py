"""Chat completions, as far as we speak them: what is sent, and what a reply's JSON means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datashunt.errors import LLMUnusable
from datashunt.items import ProbabilitySource, Reply, Usage
from datashunt.llm.adapter import Adapter, Manner, storable, usage_of
from datashunt.prompts import Prompt, TokenLogprobs, count_tokens, label_probabilities, parse

OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "logprobs": ("logprobs",),
    "response_format": ("response_format", "json_schema", "guided", "grammar"),
    "temperature": ("temperature",),
    "max_tokens": ("max_tokens",),
    "n": ("'n'", '"n"', "`n`", " n must be", " n > 1", " n=", "multiple completions"),
}
"""What a server may not know, and the words by which its complaint names it."""


SAMPLE_TEMPERATURE = 1.0
"""At which samples are drawn: there the shares of many are the model's own probabilities."""


def request_body(prompt: Prompt, model: str, manner: Manner) -> dict[str, Any]:
    """The request for one prompt.

    Args:
        prompt: what to ask.
        model: whom.
        manner: how. Without `response_format` the prompt alone asks for JSON; without `max_tokens` (reasoning
            models: it would cut their thought) replies have no cap; without `n` one sample comes for each request.
    """
    optional: dict[str, dict[str, Any]] = {
        # As many alternatives as candidates, and a few for other ways to cut the same text into tokens.
        "logprobs": {"logprobs": True, "top_logprobs": min(20, len(prompt.answers) + 2)},
        "response_format": {"response_format": prompt.response_format},
        "temperature": {"temperature": SAMPLE_TEMPERATURE if manner.samples else 0},
        "max_tokens": {"max_tokens": prompt.max_tokens},
        "n": {"n": manner.samples} if manner.samples > 1 else {},
    }
    body: dict[str, Any] = {"model": model, "messages": list(prompt.messages)}
    for name, part in optional.items():
        body.update(part if name not in manner.without else {})
    return body


def read_reply(body: object, prompt: Prompt, model: str, latency_ms: float | None) -> Reply:
    """What a reply says.

    A server that reports no usage is taken at our estimate. Of several samples those that name no offered label
    are left out, unless all are such.

    Args:
        body: the decoded JSON of a 200 response.
        prompt: what was asked.
        model: whom; stands in where the response names no model.
        latency_ms: wall clock of the request, if it was one of its own.

    Raises:
        LLMUnusable: kind `empty`, `invalid_json`, `outside_candidates`, `refusal`, `content_filter`, `length`,
            `no_choices` or `invalid_body`; with the usage that it was billed at, if the reply has one.
    """
    fields = body if isinstance(body, dict) else {}
    usage = usage_of(fields, "prompt_tokens", "completion_tokens")
    named: dict[str, Any] = {
        "model": storable(fields.get("model") or model),
        "fingerprint": storable(fields.get("system_fingerprint") or ""),
    }
    try:
        choices = _choices(fields)
        content, labels = _answers(choices, prompt)
    except LLMUnusable as error:
        raise LLMUnusable(str(error), kind=error.kind, http_status=200, usage=usage, **named) from None
    probabilities = label_probabilities(_tokens(choices[0]), prompt, labels[0])
    return Reply(
        label=labels[0],
        probabilities=probabilities,
        source=ProbabilitySource.NONE if probabilities is None else ProbabilitySource.LOGPROBS,
        usage=usage or Usage(prompt=prompt.tokens(), completion=len(choices) * count_tokens(content)),
        latency_ms=latency_ms,
        votes=() if probabilities is not None else tuple(labels),
        **named,
    )


def _choices(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choices = fields.get("choices")
    if not isinstance(choices, list):
        raise LLMUnusable("the endpoint's reply is no chat completion", kind="invalid_body")
    if not choices or not isinstance(choices[0], dict):
        raise LLMUnusable("the endpoint's reply has no choices", kind="no_choices")
    return [choice for choice in choices if isinstance(choice, dict)]


def _answers(choices: list[Mapping[str, Any]], prompt: Prompt) -> tuple[str, list[str]]:
    """The text of the first answer that names a label, and the label that each names which does."""
    found: list[tuple[str, str]] = []
    problem: LLMUnusable | None = None
    for choice in choices:
        try:
            found.append(_answer(choice, prompt))
        except LLMUnusable as error:
            problem = problem or error
    if problem is not None and not found:
        raise problem
    return found[0][0], [label for _, label in found]


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
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return []


def _bytes(entry: Mapping[str, Any]) -> bytes:
    raw = entry.get("bytes")
    return bytes(raw) if isinstance(raw, list) else str(entry["token"]).encode()


CHAT = Adapter("chat", "/chat/completions", "choices", request_body, read_reply)
