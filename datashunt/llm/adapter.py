"""What the adapters have in common: one API of an endpoint, as a path and two pure functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import LLMUnusable
from datashunt.items import ProbabilitySource, Reply, Usage
from datashunt.prompts import Prompt, over_candidates

MOST_TOKENS = 100_000_000
"""More than any request can have."""
MOST_CHARACTERS = 200
"""Of the names that a reply gives."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How one request asks.

    Attributes:
        without: optional parts that the server refuses; see chat.OPTIONAL.
        samples: how many answers are drawn at random; 0: the most likely one.
    """

    without: Collection[str] = ()
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Adapter:
    """One API.

    Attributes:
        name: as `llm.api` says it.
        path: below the base URL.
        field: which every reply of this API has, and no other page.
        request: (prompt, model, manner) → the JSON to send.
        read: (decoded JSON of a 200 response, prompt, model asked, latency in ms or None) → what it says; raises
            LLMUnusable, with the usage that it was billed at, if the reply has one.
    """

    name: str
    path: str
    field: str
    request: Callable[[Prompt, str, Manner], dict[str, Any]]
    read: Callable[[object, Prompt, str, float | None], Reply]

    def recognises(self, body: object) -> bool:
        """Whether this is a reply of this API."""
        return isinstance(body, dict) and self.field in body


@dataclass(frozen=True, slots=True)
class Decided:
    """One choice question's answer: a label, and what each option was given, where that is told."""

    label: object
    mass: Mapping[str, float]


def decision_reply(
    decide: Callable[[Mapping[str, Any]], Decided],
    api: str,
    body: object,
    prompt: Prompt,
    model: str,
    latency_ms: float | None,
) -> Reply:
    """A reply that names one option and gives all of them probabilities.

    A server that reports no usage is taken at our estimate.

    Raises:
        LLMUnusable: `decide` found no answer (its error, with the usage), or the option was not offered.
    """
    fields = body if isinstance(body, dict) else {}
    usage = usage_of(fields, "input_tokens", "output_tokens")
    named = {
        "model": storable(fields.get("model") or model),
        "fingerprint": storable(fields.get("system_fingerprint") or api),
    }
    try:
        decided = decide(fields)
        if decided.label not in prompt.answers:
            raise LLMUnusable("the LLM chose an option that was not offered", kind="outside_candidates")
    except LLMUnusable as error:
        raise LLMUnusable(str(error), kind=error.kind, http_status=200, usage=usage, **named) from None
    label = str(decided.label)
    probabilities = None if label == NONE_OF_THESE else over_candidates(decided.mass, prompt)
    return Reply(
        label=label,
        probabilities=probabilities,
        source=ProbabilitySource.NONE if probabilities is None else ProbabilitySource.DECISION,
        usage=usage or Usage(prompt=prompt.tokens(), completion=0),
        latency_ms=latency_ms,
        model=named["model"],
        fingerprint=named["fingerprint"],
    )


def storable(value: object, most: int = MOST_CHARACTERS) -> str:
    """What an endpoint says or calls something, fit to be stored: PostgreSQL takes no NUL and no lone surrogate."""
    return str(value)[:most].encode(errors="replace").decode().replace("\0", "?")


def usage_of(fields: Mapping[str, Any], prompt_field: str, completion_field: str) -> Usage | None:
    """The tokens that a reply reports, under the names that its API has for them; None where it does not.

    Counts that cannot be (negative, or beyond all models) are none: they would be booked as money.
    """
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage.get(prompt_field)), _count(usage.get(completion_field))
    if prompt is None or completion is None:
        return None
    details = usage.get(f"{prompt_field}_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(prompt=prompt, completion=completion, cached=min(cached or 0, prompt))


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def probability_of(value: object) -> float:
    """A number as a reply gives it.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("expected a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("expected a probability") from None
